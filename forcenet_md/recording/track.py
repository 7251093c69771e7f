"""The answers of one simulation, one after the other, as the frames that are kept of it.

An answer becomes a frame when the next one has come, for two reasons. Velocities at a step are
known only then (inference/kinetics.py). And a step may be asked for twice (the set-up of a run that
goes on, trials of a minimiser): its last answer counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forcenet_md.inference.interface import Kind, Request
from forcenet_md.inference.kinetics import velocities_at_step
from forcenet_md.recording.continuing import same_cell, same_place
from forcenet_md.recording.frame import (
    FORCE_UNIT,
    Frame,
    Particles,
    Precision,
    compress,
    encode,
    scalars,
)
from forcenet_md.recording.reading import Opened
from forcenet_md.system import Forces


@dataclass(slots=True)
class Answer:
    """kept: it is in the file"""

    request: Request
    forces: Forces
    step: int
    time: float
    run: int
    kept: bool = False

    @property
    def kind(self) -> Kind:
        return self.request.moment.kind

    @property
    def positions(self) -> NDArray[np.float64]:
        return self.request.system.positions


def particles(request: Request) -> Particles:
    moment, system = request.moment, request.system
    return Particles(system.numbers, moment.ids, moment.masses, system.pbc)


class Track:
    """Frames of every `every`-th step, counted by the engine; of a minimisation the last one too.

    earlier: what was recorded of these atoms before
    """

    def __init__(self, every: int, precision: Precision, earlier: Opened | None) -> None:
        self._every = every
        self._precision = precision
        self._earlier = earlier
        self._last: Answer | None = None

    def goes_on(self, request: Request) -> bool:
        """Whether this is what comes after the last answer, without a doubt."""
        last, step = self._last, request.moment.step
        if last is None:
            return True
        if request.session is last.request.session and request.moment.kind is not Kind.SETUP:
            return step is None or step >= last.step
        return (
            request.moment.client == last.request.moment.client
            and step == last.step
            and same_cell(request.system, last.request.system.cell)
            and same_place(request.system, last.positions)
        )

    def leads_to(self, request: Request) -> bool:
        """Whether this, which begins a run, comes from the same client at no earlier step."""
        return self._last is not None and request.moment.goes_on(self._last.request.moment)

    def has_beside(self, request: Request) -> bool:
        """Whether this and the last answer are single points of one client, as by LAMMPS's `run 0`
        for many structures: they are no run that anything could be mixed into."""
        if self._last is None:
            return False
        last, moment = self._last.request, request.moment
        return (
            last.moment.kind is moment.kind is Kind.SETUP
            and (last.moment.client, last.moment.step) == (moment.client, moment.step)
            and same_cell(request.system, last.system.cell)
        )

    def see(self, request: Request, forces: Forces) -> Iterator[Frame]:
        """The next answer; gives the frame of the one before, if that is to be kept."""
        last = self._last
        answer = self._placed(request, forces)
        if last is None:
            answer.kept = self._is_recorded(answer)
        elif answer.step == last.step and self._replaces(last, request):
            answer.kept = last.kept
        else:
            yield from self._frame(last, answer, ended=request.session is not last.request.session)
        self._last = answer

    def pause(self) -> Iterator[Frame]:
        """Nothing has come for a while, or will: the frame of the last answer, if it is kept."""
        if self._last is not None:
            yield from self._frame(self._last, None, ended=True)

    # -------------------------------------------------------------------------------------------

    def _placed(self, request: Request, forces: Forces) -> Answer:
        """Its step, time and run. Time goes on by the timestep from what was last."""
        moment, last, earlier = request.moment, self._last, self._earlier
        if last is not None:
            step, time, run = last.step, last.time, last.run
            counted = step + 1
        elif earlier is not None:
            step, time, run = earlier.step, earlier.time, earlier.run
            counted = (step // self._every + 1) * self._every  # so that it is recorded
        else:
            step, time, run, counted = -1, np.nan, 0, 0
        new = counted if moment.step is None else moment.step
        if not moment.timestep:
            time = np.nan
        elif np.isnan(time):
            time = new * moment.timestep
        else:
            time += (new - step) * moment.timestep
        begins = last is None or new < step
        begins = begins or (new == step and not self._replaces(last, request))
        return Answer(request, forces, new, time, run + begins)

    @staticmethod
    def _replaces(last: Answer | None, request: Request) -> bool:
        """Another answer at the step of the last one is not another simulation's."""
        if last is None:
            return False
        same = request.session is last.request.session
        return same or same_place(request.system, last.positions)

    def _is_recorded(self, answer: Answer) -> bool:
        """The first one after a restart is what the file ends with."""
        earlier = self._earlier
        return (
            earlier is not None
            and answer.step == earlier.step
            and same_place(answer.request.system, earlier.positions)
        )

    def _frame(self, answer: Answer, following: Answer | None, ended: bool) -> Iterator[Frame]:
        due = answer.step % self._every == 0
        relaxed = ended and answer.kind is Kind.MINIMISE
        if answer.kept or not (due or relaxed):
            return
        answer.kept = True
        forces = answer.forces.forces
        after = None if following is None else following.request.moment
        vectors = {
            "position": answer.positions,
            "velocity": velocities_at_step(answer.request.moment, forces, after),
            "force": forces / FORCE_UNIT,
        }
        yield Frame(
            answer.step,
            answer.time,
            answer.request.system.cell.copy(),
            {
                name: compress(encode(name, values, self._precision))
                for name, values in vectors.items()
                if values is not None
            },
            scalars(answer.forces) | {"run": float(answer.run)},
        )
