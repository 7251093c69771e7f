"""Who looks at the answers to one LAMMPS whose ranks each have some of its atoms.

Nothing is gathered but the frames that are kept: each rank sums up its own atoms, and the sums
travel with the figures that all ranks share in a step anyway (inference/local.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcenet_md.inference.interface import Kind, Moment, Request
from forcenet_md.inference.kinetics import follows, velocities_at_step
from forcenet_md.inference.watched import Last, Watcher
from forcenet_md.system import Forces, System
from forcenet_md.watching.guards import Guards, guarded, to_atoms
from forcenet_md.watching.heat import TOLD_EVERY, Heat

if TYPE_CHECKING:
    from forcenet_md.inference.local import LocalModel, Seen

Array = NDArray[np.float64]


class RanksWatch:
    """Guards, heat and the recording of one LAMMPS. All calls but `figures` and `close` are
    collective.

    A request is of this rank's atoms, and so are the moment's arrays and forces.
    """

    def __init__(
        self,
        model: LocalModel,
        guards: Guards | None,
        say: Callable[[str], None],
        recorder: Watcher | None = None,
        record_every: int = 0,
    ) -> None:
        """say: takes a line of the log, on rank 0; recorder: on rank 0, where there is one;
        record_every: steps between frames, 0 for none, the same on all ranks"""
        self._model = model
        self._guards = guards
        self._recorder = recorder
        self._record_every = record_every
        self._heat = RanksHeat(say)
        self._last: Last | None = None
        self._lock = threading.Lock()  # figures are asked for by another thread

    def begin(self, numbers: NDArray[np.int64]) -> None:
        """A run; numbers: of its elements, the same on all ranks."""
        with self._lock:
            self._heat.begin(numbers)

    def sums(self, request: Request) -> Array:
        """This rank's of the last step, which are to be added up over the ranks."""
        return self._heat.sums(request)

    def answer(
        self, request: Request, compute: Callable[[Array], tuple[Array, Seen]]
    ) -> tuple[Array, Seen]:
        """The forces [n_owned, 3] eV/Å that `compute` gives, with the sums of the last step to be
        added up over the ranks.

        Raises, on all ranks, what `compute` raises, and EvaluationError past a limit.
        """

        def seen_too() -> tuple[Array, Seen]:
            forces, seen = compute(self.sums(request))
            if self._is_recorded(request.moment):
                self._record(request, forces, seen)
            self._last = Last.of(request.moment, seen.n_atoms)
            self._heat.add(request, forces, seen.sums)
            return forces, seen

        frame = request.system
        with self._lock:
            return guarded(self._guards, seen_too, request.moment, lambda: self._frame(frame))

    def figures(self, stream: int) -> dict[str, str]:
        """What all ranks know of the simulation, for `forcenet-md watch`; a step under way is
        waited for."""
        with self._lock:
            if self._last is None:
                return {}
            guards = {} if self._guards is None else self._guards.figures(stream)
            return self._last.told() | self._heat.figures() | guards

    def close(self) -> None:
        """Tells the last means."""
        self._heat.tell()

    def _frame(self, system: System) -> Atoms | None:
        rows = self._model.gather(system.positions)
        if rows is None:
            return None
        _, numbers, positions = rows
        return to_atoms(replace(system, positions=positions, numbers=numbers))

    def _is_recorded(self, moment: Moment) -> bool:
        """The frames of `recording.track`, and for their velocities the steps after them; set-ups,
        and all of a relaxation, whose last frame is kept."""
        if not self._record_every or moment.step is None:
            return False
        if moment.kind is not Kind.RUN:
            return True
        return moment.step % self._record_every in (0, 1 % self._record_every)

    def _record(self, request: Request, forces: Array, seen: Seen) -> None:
        moment, system = request.moment, request.system
        columns = [system.positions, forces]
        if moment.velocities is not None:
            columns.append(moment.velocities)
        if moment.masses is not None:
            columns.append(moment.masses[:, None])
        rows = self._model.gather(np.concatenate(columns, axis=1))
        if rows is None or self._recorder is None:
            return
        ids, numbers, values = rows
        whole = replace(
            moment,
            ids=ids,
            velocities=None if moment.velocities is None else values[:, 6:9].copy(),
            masses=None if moment.masses is None else values[:, -1].copy(),
        )
        system = replace(system, positions=values[:, :3].copy(), numbers=numbers)
        answer = Forces(
            values[:, 3:6].copy(),
            net_force=seen.net,
            torque_force=seen.torque_force,
            contact=seen.contact,
        )
        self._recorder.see(replace(request, system=system, moment=whole), answer)


class RanksHeat:
    """Heat of one LAMMPS. A step is judged when the next one has come: of the atoms that are then
    on the same rank, for few leave it in one step, and velocities do not travel with them."""

    def __init__(self, say: Callable[[str], None], every: float = TOLD_EVERY) -> None:
        """say: takes a line of the log; every: seconds."""
        self._say = say
        self._every = every
        self._told = time.monotonic()
        self._heat = Heat(np.zeros(0, np.int64))
        self._last: tuple[Request, Array] | None = None
        self._seen: Moment | None = None  # of the last answer, whatever that was for

    def begin(self, numbers: NDArray[np.int64]) -> None:
        """A run. numbers: [n_elements] or [n_atoms], the atomic numbers of all ranks' atoms"""
        if not np.array_equal(self._heat.numbers, np.unique(numbers)):
            self.tell()
            self._heat = Heat(numbers)
            self._last = None

    def sums(self, request: Request) -> Array:
        """Those of `Heat.sums` of the last step, now that the next one is known."""
        if self._last is None:
            return np.zeros(1 + 2 * len(self._heat.numbers))
        (last, forces), following = self._last, request.moment
        moment, numbers = last.moment, last.system.numbers
        assert moment.ids is not None
        assert moment.masses is not None
        assert moment.velocities is not None
        assert following.ids is not None
        if follows(moment, following) and not np.array_equal(moment.ids, following.ids):
            assert following.velocities is not None
            _, then, now = np.intersect1d(
                moment.ids, following.ids, assume_unique=True, return_indices=True
            )
            numbers, forces = numbers[then], forces[then]
            moment = replace(moment, velocities=moment.velocities[then], masses=moment.masses[then])
            following = replace(following, velocities=following.velocities[now])
        velocities = velocities_at_step(moment, forces, following)
        assert moment.masses is not None
        assert velocities is not None
        return self._heat.sums(numbers, moment.masses, velocities, forces)

    def add(self, request: Request, forces: Array, sums: Array) -> None:
        """A step, which is judged with the next.

        request, forces: of this rank's atoms, [n_owned, 3] eV/Å
        sums: [1 + 2 n_elements], `sums` of the step before added up over all ranks
        """
        moment = request.moment
        if self._last is not None:
            self._heat.add(sums)
        if self._seen is not None and not moment.goes_on(self._seen):
            self.tell("of the run before, ")
            self._heat = Heat(self._heat.numbers)
        self._seen = moment
        known = moment.velocities is not None and moment.masses is not None
        self._last = (request, forces) if known and moment.kind is Kind.RUN else None
        if time.monotonic() - self._told >= self._every:
            self.tell()
            self._told = time.monotonic()

    def figures(self) -> dict[str, str]:
        """See `Heat.told`."""
        return self._heat.told()

    def tell(self, which: str = "") -> None:
        if self._heat.figures.total:
            self._say(f"heat: {which}{self._heat.describe()}")
