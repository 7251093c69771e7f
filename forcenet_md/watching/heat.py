"""Heat during a run: the power of the model's forces, and the temperature of each element.

Forces that are no gradient do work that does not come back. A thermostat hides it: the mean
temperature may be right while an element's is wrong (Bigi, Langer, Ceriotti, arXiv:2412.11569).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from ase import units
from ase.data import chemical_symbols
from numpy.typing import NDArray

from forcenet_md.blocking import with_error
from forcenet_md.inference.interface import Kind, Moment, Request
from forcenet_md.inference.kinetics import HEATING, heating_rate, in_motion, velocities_at_step
from forcenet_md.system import Forces
from forcenet_md.units import ACCELERATION
from forcenet_md.watching.running import LateMean

Array = NDArray[np.float64]

RECENT = 100
TOLD_EVERY = 300.0  # s


class Heat:
    """Of one simulation.

    numbers: of its elements; elements: their symbols
    figures: power per atom in eV/ps, then the temperature of each element in K
    recent: the same, of about the last RECENT steps
    """

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        """numbers: [n_atoms], or those of the elements alone"""
        self.numbers = np.unique(numbers)
        self.elements = [chemical_symbols[z] for z in self.numbers]
        self.figures = LateMean(1 + len(self.numbers))
        self.recent = np.zeros(1 + len(self.numbers))
        self._seen = np.zeros(len(self.numbers), np.bool_)  # which elements have moved

    def sums(
        self, numbers: NDArray[np.int64], masses: Array, velocities: Array, forces: Array
    ) -> Array:
        """[1 + 2 n_elements] of any of its atoms: the power of the forces [n_atoms, 3] eV/Å at
        the velocities [n_atoms, 3] Å/ps, in eV/ps; then how many atoms of each element move; then
        twice their kinetic energy, in eV."""
        n, kind = len(self.numbers), np.searchsorted(self.numbers, numbers)
        power = np.einsum("ij,ij->", forces, velocities)
        twice = np.einsum("ij,ij,i->i", velocities, velocities, masses) / ACCELERATION
        counts = np.bincount(kind[in_motion(velocities)], minlength=n)
        return np.concatenate([[power], counts, np.bincount(kind, weights=twice, minlength=n)])

    def add(self, sums: Array) -> None:
        """One step. An element of which no atom moves is as warm as it was.

        sums: [1 + 2 n_elements] of all atoms, as `sums` has them: eV/ps, counts, eV
        """
        counts, twice = sums[1:].reshape(2, -1)
        now, there = self.recent.copy(), counts > 0
        if not there.any():
            return
        now[0] = sums[0] / counts.sum()
        now[1:][there] = twice[there] / (3.0 * units.kB * counts[there])
        self._seen |= there
        self.figures.add(now)
        self.recent += (now - self.recent) / min(self.figures.total, RECENT)

    @property
    def heating(self) -> tuple[float, float]:
        """K/ps and its error: of the power per degree of freedom, as `probe` tells it. What the
        forces take from a potential energy, and give back, averages out in a run that goes on as
        it is, under a thermostat."""
        late = self.figures.late
        return heating_rate(float(late.mean[0]), 3.0), heating_rate(float(late.error[0]), 3.0)

    @property
    def temperatures(self) -> dict[str, tuple[float, float]]:
        """K and its error, by element."""
        late = self.figures.late
        found = zip(self.elements, late.mean[1:], late.error[1:], self._seen, strict=True)
        return {e: (float(mean), float(error)) for e, mean, error, seen in found if seen}

    def told(self) -> dict[str, str]:
        """For `forcenet-md watch`: temperatures of about the last hundred steps, and the heating of
        the later half once its error is known. Empty before the first step."""
        total, late, (rate, error) = self.figures.total, self.figures.late.count, self.heating
        if not total:
            return {}
        recent = zip(self.elements, self.recent[1:], self._seen, strict=True)
        told = {
            "temperature": " ".join(f"{e} {value:.4g}" for e, value, seen in recent if seen),
            "means": f"{min(total, RECENT)} steps",
        }
        if isfinite(error):
            told["heating"] = with_error(rate, error)
            told["means"] += f", heating {late}"
        return told

    def describe(self) -> str:
        """For the log."""
        temperatures = " ".join(f"{e} {with_error(*pair)}" for e, pair in self.temperatures.items())
        figures, (rate, error) = self.figures, self.heating
        heating = f"the model's forces heat by {with_error(rate, error)} K/ps, {HEATING}"
        if not isfinite(error):
            heating = "by how much the model's forces heat is not known from so few"
        return (
            f"mean of the last {figures.late.count} of {figures.total} steps: temperatures in K"
            f" {temperatures}; {heating}"
        )


@dataclass(slots=True)
class Stream:
    """One simulation of these atoms.

    told: time.monotonic() of its last line in the log
    seen: the moment of the last answer, whatever that was for
    last: moment and forces of what is judged when the next answer has come, for its velocities are
        known only then
    ended: it was told as a whole
    """

    numbers: NDArray[np.int64]
    told: float
    seen: Moment
    heat: Heat = field(init=False)
    last: tuple[Moment, Array] | None = None
    ended: bool = False

    def __post_init__(self) -> None:
        self.heat = Heat(self.numbers)

    def goes_on(self, moment: Moment, numbers: NDArray[np.int64]) -> bool:
        """With an answer at that moment, to these atoms [n_atoms]."""
        return moment.goes_on(self.seen) and np.array_equal(self.numbers, numbers)

    def judge(self, following: Moment | None = None) -> None:
        if self.last is not None:
            moment, forces = self.last
            velocities = velocities_at_step(moment, forces, following)
            assert velocities is not None
            assert moment.masses is not None
            self.heat.add(self.heat.sums(self.numbers, moment.masses, velocities, forces))
            self.last = None


class HeatWatch:
    """A `Watcher` (inference/watched.py) that tells the heat of every simulation whose engine sends
    velocities, now and then and at the end."""

    velocities = True

    def __init__(self, say: Callable[[str], None], every: float = TOLD_EVERY) -> None:
        """say: takes a line of the log; every: seconds."""
        self._say = say
        self._every = every
        self._streams: dict[int, Stream] = {}

    def see(self, request: Request, forces: Forces) -> None:
        """Steps of runs; what is asked for without velocities or masses is passed over."""
        moment, numbers, now = request.moment, request.system.numbers, time.monotonic()
        key = moment.stream
        stream = self._streams.get(key)
        if stream is not None and not stream.goes_on(moment, numbers):
            self._end(key, "of the run before, ")
            del self._streams[key]
            stream = None
        if stream is not None:
            stream.judge(moment)
            stream.seen = moment
        if moment.velocities is None or moment.masses is None or moment.kind is not Kind.RUN:
            return
        if stream is None:
            stream = self._streams[key] = Stream(numbers, now, moment)
        stream.last = moment, forces.forces
        if now - stream.told >= self._every:
            self._tell(key)
            stream.told = now

    def left(self, stream: int) -> None:
        """Tells the last means; `figures` has them still."""
        if stream in self._streams:
            self._end(stream)

    def figures(self, stream: int) -> dict[str, str]:
        """See `Heat.told`."""
        return self._streams[stream].heat.told() if stream in self._streams else {}

    def close(self) -> None:
        """Tells the last means."""
        for key in self._streams:
            self._end(key)

    def _end(self, key: int, which: str = "") -> None:
        stream = self._streams[key]
        if not stream.ended:
            stream.judge()
            self._tell(key, which)
            stream.ended = True

    def _tell(self, key: int, which: str = "") -> None:
        heat = self._streams[key].heat
        if heat.figures.total:
            where = f"simulation {key + 1}, " if key else ""
            self._say(f"heat: {where}{which}{heat.describe()}")
