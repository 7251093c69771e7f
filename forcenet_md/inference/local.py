"""A model whose ranks have atoms of their own: nothing is gathered.

The engine divides the system; each rank gets the forces on its atoms. Ranks share the net force,
what guards look at, and their faults, in two small messages to all per step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import ForceNetError, NotFiniteError
from forcenet_md.graph.domains import imbalance
from forcenet_md.graph.frame import Array
from forcenet_md.graph.ghosts import Surroundings
from forcenet_md.inference.contacts import NONE, closest_of
from forcenet_md.inference.domain import Domain
from forcenet_md.inference.ranks import Sharing, make_domain, rank_failure
from forcenet_md.inference.rigid import inertia, rotation
from forcenet_md.mpi import Ranks, share_fault
from forcenet_md.system import Contact, largest_force

if TYPE_CHECKING:
    from forcenet_md.inference.evaluator import ModelEvaluator


NOTHING = np.zeros(0)


class Seen(NamedTuple):
    """Of the atoms of all ranks, and known to all.

    n_atoms: how many they are
    net: [3] eV/Å, the net force; net_force: its length, per atom; torque_force: see `Forces`
    largest: eV/Å, the force on the atom of the id `on`
    sums: of what the ranks have added to these figures
    """

    n_atoms: int
    net_force: float
    torque_force: float | None
    largest: float
    on: int
    contact: Contact | None
    net: Array
    sums: Array


class LocalModel:
    """One simulation on this rank. All calls but `close` are collective."""

    def __init__(self, network: ModelEvaluator, ranks: Ranks, sharing: Sharing) -> None:
        self.network = network
        self.ranks = ranks
        self.sharing = sharing
        self._domain: Domain | None = None
        self._isolated = False

    def divide(self, around: Surroundings, reach: float, isolated: bool) -> None:
        """The atoms of this rank and what lies around them have changed; reach: of pairs, Å;
        isolated: they are periodic nowhere."""
        self.close()
        self._isolated = isolated
        self._domain = make_domain(self.network, around, reach, self.ranks, self.sharing)

    def forces(
        self, points: Array, keep_net_force: bool, sums: Array = NOTHING
    ) -> tuple[Array, Seen]:
        """Forces [n_owned, 3] eV/Å on this rank's atoms, and what was seen beside them.

        points: [n_points, 3] Å, of the surroundings; keep_net_force: see `interface.Request`
        sums: [n] of this rank, which are to be added up over all of them (`Seen.sums`)

        Raises, on all ranks, the fault of any.
        """
        return self._together(points, lambda domain: domain.forces(points), keep_net_force, sums)

    def forces_of(
        self, owned: Array, lattice: Array, keep_net_force: bool, sums: Array = NOTHING
    ) -> tuple[Array, Seen]:
        """As `forces`, of this rank's positions [n_owned, 3] Å alone; lattice: [3, 3] Å, rows that
        the lattice shifts of the surroundings count."""
        return self._together(
            owned, lambda domain: domain.forces_of(owned, lattice), keep_net_force, sums
        )

    def fail(self, fault: ForceNetError, sums: Array = NOTHING) -> None:
        """This rank cannot compute its part of a step: the others learn it as in `forces`."""
        assert self._domain is not None
        self._domain.skip()
        self._finish(np.zeros((0, 3)), np.zeros((0, 3)), fault, True, sums)

    def gather(self, values: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], Array] | None:
        """Of all atoms, on rank 0 and in the order of their ids: ids and numbers [n_atoms], and
        the values [n_owned, n] that this rank and the others have of theirs."""
        assert self._domain is not None
        n, around = len(values), self._domain.division.around
        counts = self.ranks.allgather(np.array([float(n)]))[:, 0].astype(int).tolist()
        labels = np.stack([around.ids[:n], around.numbers[:n]], axis=1).astype(np.float64)
        rows = self.ranks.gather(np.concatenate([labels, values], axis=1), counts)
        if rows is None or self.ranks.rank > 0:
            return None
        rows = rows[np.argsort(rows[:, 0])]
        ids, numbers = rows[:, :2].astype(np.int64).T
        return ids.copy(), numbers.copy(), rows[:, 2:]

    def edges(self) -> str:
        """For the log: how many there were in the last step, and how evenly ranks worked.
        Collective."""
        assert self._domain is not None
        edges = self._domain.edges
        counts = self.ranks.allgather(np.array([edges[-1], sum(edges)], dtype=np.float64))
        pairs, most = int(counts[:, 0].sum()), imbalance(counts[:, 1])
        uneven = f"; the most of a rank are {most:.2f} times the mean"
        return f"{pairs} neighbour pairs{uneven if self.ranks.size > 1 else ''}"

    def close(self) -> None:
        """Free what the exchange holds."""
        if self._domain is not None:
            self._domain.exchange.close()
            self._domain = None

    def _together(
        self, points: Array, compute: Callable[[Domain], Array], keep_net_force: bool, sums: Array
    ) -> tuple[Array, Seen]:
        domain = self._domain
        assert domain is not None
        fault: ForceNetError | None = None
        forces = np.zeros((0, 3))
        try:
            forces = compute(domain)
            fault = self._not_finite(forces)
        except ForceNetError as error:
            fault = error
        except (RuntimeError, MemoryError) as error:
            n_points = domain.division.around.n_points
            fault = rank_failure(self.network, error, n_points, self.ranks.rank)
        return self._finish(forces, points[: len(forces)], fault, keep_net_force, sums)

    def _not_finite(self, forces: Array) -> NotFiniteError | None:
        assert self._domain is not None
        bad = np.flatnonzero(~np.isfinite(forces).all(axis=1))
        if not len(bad):
            return None
        return NotFiniteError(
            f"the model gives a force that is not finite on atom"
            f" {self._domain.division.around.ids[bad[0]]}: the structure is far from anything it"
            " was trained on; use a smaller timestep or a relaxed starting structure."
        )

    def _finish(
        self, forces: Array, owned: Array, fault: ForceNetError | None, keep: bool, added: Array
    ) -> tuple[Array, Seen]:
        """As `rigid.without_rigid_motion`, of the atoms of all ranks."""
        domain = self._domain
        assert domain is not None
        sums = [*forces.sum(axis=0), *owned.sum(axis=0), len(forces), float(fault is not None)]
        mine = np.array([*sums, *(domain.contact or NONE), *added])
        all_ = self.ranks.allgather(mine)
        contacts, of_all = np.split(all_[:, 8:], [len(NONE)], axis=1)
        total = all_[:, :8].sum(axis=0)
        if total[7] > 0.0:
            told = share_fault(self.ranks, fault)
            assert told is not None
            raise told
        mean, centre = total[:6].reshape(2, 3) / max(total[6], 1.0)
        card, torque_force = self.network.card, None
        if not card.conservative:
            if card.net_force_removed or not keep:
                forces = forces - mean
            if self._isolated and not keep:
                arms = owned - centre
                torque = np.cross(arms, forces).sum(axis=0)
                parts = self.ranks.sum(np.array([torque, *inertia(arms)]).ravel()).reshape(4, 3)
                alpha, torque_force = rotation(parts[0], parts[1:], int(total[6]))
                forces = forces - np.cross(alpha, arms)
        top, largest = largest_force(forces)  # of those that the engine gets
        on = domain.division.around.ids[top] if len(forces) else 0
        tops = self.ranks.allgather(np.array([largest, on]))
        largest, on = tops[tops[:, 0].argmax()]
        seen = Seen(
            int(total[6]),
            float(np.linalg.norm(mean)),
            torque_force,
            float(largest),
            int(on),
            closest_of(Contact(*row) for row in contacts),
            total[:3],
            of_all.sum(axis=0),
        )
        return forces, seen
