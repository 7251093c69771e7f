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

from forcenet_md.inference.interface import Kind, Moment, Request
from forcenet_md.system import Forces
from forcenet_md.watching.running import LateMean

Array = NDArray[np.float64]

# eV/Å over amu, in Å/ps², and amu Å²/ps², in eV: ASE's own time is Å √(amu/eV).
ACCELERATION = (1000.0 * units.fs) ** 2
KINETIC = 1.0 / ACCELERATION
RECENT = 100


@dataclass
class Heat:
    """Of one simulation.

    numbers: [n_atoms]; elements: their symbols, in order
    figures: power per atom in eV/ps, then the temperature of each element in K
    recent: the same, of about the last RECENT steps
    """

    numbers: NDArray[np.int64]
    elements: list[str] = field(init=False)
    figures: LateMean = field(init=False)
    recent: Array = field(init=False)

    def __post_init__(self) -> None:
        kinds, self._kind = np.unique(self.numbers, return_inverse=True)
        self._n_of = np.bincount(self._kind)
        self.elements = [chemical_symbols[z] for z in kinds]
        self.figures = LateMean(1 + len(kinds))
        self.recent = np.zeros(1 + len(kinds))

    def add(self, moment: Moment, forces: Array) -> None:
        """forces: [n_atoms, 3] eV/Å, at a moment with velocities and masses."""
        assert moment.velocities is not None
        assert moment.masses is not None
        v = on_step(moment, forces)
        power = np.einsum("ij,ij->", forces, v) / len(forces)
        twice = np.einsum("ij,ij,i->i", v, v, moment.masses) * KINETIC
        of_kind = np.bincount(self._kind, weights=twice) / (3.0 * units.kB * self._n_of)
        now = np.array([power, *of_kind])
        self.figures.add(now)
        self.recent += (now - self.recent) / min(self.figures.total, RECENT)

    @property
    def heating(self) -> tuple[float, float]:
        """K/ps and its error: what the power would heat the atoms by, were there no thermostat and
        no potential energy to share it with."""
        factor = 2.0 / (3.0 * units.kB)
        late = self.figures.late
        return factor * float(late.mean[0]), factor * float(late.error[0])

    @property
    def temperatures(self) -> dict[str, tuple[float, float]]:
        """K and its error, by element."""
        pairs = zip(self.figures.late.mean[1:], self.figures.late.error[1:], strict=True)
        return {e: (float(m), float(s)) for e, (m, s) in zip(self.elements, pairs, strict=True)}

    def describe(self) -> str:
        """For the log."""
        temperatures = " ".join(f"{e} {with_error(*pair)}" for e, pair in self.temperatures.items())
        figures = self.figures
        return (
            f"mean of the last {figures.late.count} of {figures.total} steps: temperatures in K"
            f" {temperatures}; the model's forces heat by {with_error(*self.heating)} K/ps"
        )


def on_step(moment: Moment, forces: Array) -> Array:
    """Velocities [n_atoms, 3] Å/ps at the positions that the forces [n_atoms, 3] eV/Å are of.

    LAMMPS asks between the two half kicks of velocity Verlet. The second one is added, of the
    model's forces alone: those of other fixes, such as a thermostat's, are not known here.
    """
    assert moment.velocities is not None
    assert moment.masses is not None
    if moment.kind is not Kind.RUN:
        return moment.velocities
    kick = 0.5 * moment.timestep * ACCELERATION / moment.masses
    return moment.velocities + kick[:, None] * forces


def with_error(value: float, error: float) -> str:
    """As '301 ± 2'; without a known error the value alone."""
    if not isfinite(error) or error <= 0.0:
        return f"{value:.3g}"
    digits = max(0, -int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


class HeatWatch:
    """A `Watcher` (inference/watched.py) that tells the heat of every simulation whose engine sends
    velocities, now and then and at the end."""

    velocities = True

    def __init__(self, say: Callable[[str], None], every: float = 300.0) -> None:
        """say: takes a line of the log; every: seconds."""
        self._say = say
        self._every = every
        self._heats: dict[int, Heat] = {}
        self._told: dict[int, float] = {}

    def see(self, request: Request, forces: Forces) -> None:
        """Steps of runs; what is asked for without velocities or masses is passed over."""
        moment, numbers = request.moment, request.system.numbers
        if moment.velocities is None or moment.masses is None or moment.kind is not Kind.RUN:
            return
        stream, now = moment.stream, time.monotonic()
        heat = self._heats.get(stream)
        if heat is None or not np.array_equal(heat.numbers, numbers):
            self._tell(stream)
            heat = self._heats[stream] = Heat(numbers.copy())
            self._told[stream] = now
        heat.add(moment, forces.forces)
        if now - self._told[stream] >= self._every:
            self._tell(stream)
            self._told[stream] = now

    def figures(self, stream: int) -> dict[str, str]:
        """Temperatures of about the last hundred steps, and the heating of the later half."""
        heat = self._heats.get(stream)
        if heat is None or not heat.figures.total:
            return {}
        pairs = zip(heat.elements, heat.recent[1:], strict=True)
        return {
            "temperature": " ".join(f"{element} {value:.4g}" for element, value in pairs),
            "heating": with_error(*heat.heating),
        }

    def close(self) -> None:
        """Tells the last means."""
        for stream in self._heats:
            self._tell(stream)

    def _tell(self, stream: int) -> None:
        heat = self._heats.get(stream)
        if heat is not None and heat.figures.total:
            where = f"simulation {stream + 1}, " if stream else ""
            self._say(f"heat: {where}{heat.describe()}")
