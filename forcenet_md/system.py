"""What is asked and what is answered: one `System`, one `Forces`, the same on every route."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forcenet_md.errors import StructureError


@dataclass(frozen=True, slots=True)
class System:
    """Atoms in a cell. Positions need not be wrapped.

    positions: [n_atoms, 3] Å, float64
    numbers: [n_atoms] atomic numbers, int64
    cell: [3, 3] Å, rows are the lattice vectors; rows of directions that are not
        periodic may be zero
    pbc: [3] bool
    """

    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]

    @classmethod
    def make(
        cls, positions: ArrayLike, numbers: ArrayLike, cell: ArrayLike, pbc: ArrayLike
    ) -> System:
        """Convert and check shapes and finiteness.

        Raises StructureError when a shape is wrong, a number is not finite, or a
        periodic cell has no volume.
        """
        x = np.ascontiguousarray(positions, dtype=np.float64)
        z = np.ascontiguousarray(numbers, dtype=np.int64)
        h = np.ascontiguousarray(cell, dtype=np.float64)
        p = np.empty(3, dtype=np.bool_)
        p[:] = pbc
        if x.ndim != 2 or x.shape[1] != 3 or z.shape != (len(x),) or h.shape != (3, 3):
            raise StructureError(
                f"positions {x.shape}, numbers {z.shape} and cell {h.shape} do not fit together:"
                " they must be (n, 3), (n,) and (3, 3)."
            )
        if not np.isfinite(x).all():
            bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
            raise StructureError(
                f"the position of atom {bad[0] + 1} is not finite ({len(bad)} such atoms): the"
                " simulation has failed before this step; use a smaller timestep or a relaxed"
                " starting structure."
            )
        if not np.isfinite(h).all():
            raise StructureError("the cell is not finite: the simulation has failed before.")
        if p.any() and not _spans(h[p].tobytes()):
            raise StructureError(
                "the cell has no volume in its periodic directions: give a cell whose periodic"
                " lattice vectors are linearly independent."
            )
        return cls(x, z, h, p)

    @classmethod
    def from_ase(cls, atoms: Any) -> System:
        """The System of an `ase.Atoms`. Raises StructureError as `make` does."""
        return cls.make(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    def has_cell(self, cell: NDArray[np.float64], within: float) -> bool:
        """Whether its periodic lattice vectors are those of a cell [3, 3] Å, but for so much of
        the longest."""
        own, other = self.cell[self.pbc], cell[self.pbc]
        return bool((np.abs(own - other) <= within * np.abs(other).max(initial=0.0)).all())


@lru_cache(maxsize=64)  # most runs keep their cell, and a step may take a tenth of a millisecond
def _spans(data: bytes) -> bool:
    rows = np.frombuffer(data).reshape(-1, 3)
    lengths = np.linalg.norm(rows, axis=1)
    if (lengths < 1e-8).any():
        return False
    unit = rows / lengths[:, None]
    return bool(np.linalg.svd(unit, compute_uv=False)[-1] > 1e-8)


class Contact(NamedTuple):
    """The closest pair of a structure, by the ratio to what its elements are known from.

    ratio: distance / the shortest known; distance: Å; a, b: rows from 0, or ids on many ranks;
    trained: the shortest known is that of training frames, and not of radii
    """

    ratio: float
    distance: float
    a: int
    b: int
    trained: bool


@dataclass(slots=True)
class Forces:
    """The answer for one System, and what was seen on the way. What a model does not have, and what
    nobody looked for, is None, never zero.

    forces: [n_atoms, 3] eV/Å
    energy: eV, or None
    stress: [3, 3] eV/Å³ with ASE's sign (−virial / volume), or None
    net_force, torque: [3] eV/Å and [3] eV that the network gave; taken out, see inference/rigid.py
    torque_force: eV/Å, the root mean square over atoms of the forces that went with the torque
    contact: the closest pair, where one is near
    force_spread: [n_atoms] eV/Å, how far the members of a committee are apart
    frame_spread: eV/Å, the most that a force differs between rotated frames
    imbalance: the most work of a rank over the mean of all
    """

    forces: NDArray[np.float64]
    energy: float | None = None
    stress: NDArray[np.float64] | None = None
    net_force: NDArray[np.float64] | None = None
    torque: NDArray[np.float64] | None = None
    torque_force: float | None = None
    contact: Contact | None = None
    force_spread: NDArray[np.float64] | None = None
    frame_spread: float | None = None
    imbalance: float | None = None

    @property
    def net_force_per_atom(self) -> float:
        """eV/Å: how large the net force was that the evaluator saw; 0 where it saw none."""
        net = self.net_force
        return 0.0 if net is None else float(np.linalg.norm(net)) / max(len(self.forces), 1)

    def seen(self) -> dict[str, float]:
        """What was seen, as the numbers that records and i-PI's extras have; eV/Å, contact_distance
        in Å, net_force per atom."""
        found = {"largest_force": largest_force(self.forces)[1]}
        if self.net_force is not None:
            found["net_force"] = self.net_force_per_atom
        if self.torque_force is not None:
            found["torque_force"] = self.torque_force
        if self.contact is not None:
            found["contact_distance"] = self.contact.distance
            found["contact_ratio"] = self.contact.ratio
        if self.force_spread is not None:
            found["force_spread_max"] = float(self.force_spread.max(initial=0.0))
            found["force_spread_mean"] = float(self.force_spread.mean())
        if self.frame_spread is not None:
            found["frame_spread_max"] = self.frame_spread
        if self.imbalance is not None:
            found["imbalance"] = self.imbalance
        return found


def largest_force(forces: NDArray[np.float64]) -> tuple[int, float]:
    """Row and length in eV/Å of the largest of forces [n, 3]; 0 of none."""
    squared = np.einsum("ij,ij->i", forces, forces)
    if not len(squared):
        return 0, 0.0
    top = int(squared.argmax())
    return top, float(np.sqrt(squared[top]))
