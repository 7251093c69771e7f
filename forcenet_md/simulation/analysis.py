"""One pass over a run, frame by frame: what is summed up of it, in memory that hardly grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
from ase import units as u
from ase.data import chemical_symbols
from numpy.typing import NDArray

from forcenet_md.errors import DataError
from forcenet_md.simulation.displacement import PER_ATOM, DisplacementSums
from forcenet_md.simulation.observables import PairCounts, kinetic_temperatures
from forcenet_md.simulation.snapshot import Array, Snapshot
from forcenet_md.simulation.statistics import Blocks
from forcenet_md.simulation.vibration import ALL, Correlation

PS = 1000.0 * u.fs  # in ASE's unit of time
BIN = 0.05  # Å, of g(r)
HEAD = 10  # frames that tell how far frames are apart, and which atoms are held
MEMORY = 512 * 2**20  # bytes for positions, and as many for velocities
EXPECTED_LEVELS = 20
MOST_LAGS = 8192
OFF = 0.02  # of the time between frames: what is farther from its place has none


@dataclass(frozen=True, slots=True)
class Settings:
    """r_max: Å, of g(r); reach: ps, of the velocity autocorrelation; fit: ps, lags between which
    the mean square displacement is fitted, or None: a 32nd to a 16th of the run,
    but from 1 ps on."""

    r_max: float = 6.0
    reach: float = 4.0
    fit: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.r_max > 4.0 * BIN:
            raise DataError(f"g(r) up to {self.r_max:g} Å shows nothing: give a larger --r-max.")
        if not self.reach > 0.0:
            raise DataError("a velocity autocorrelation needs a time above 0: give --reach in ps.")
        if self.fit is not None and not 0.0 < self.fit[0] < self.fit[1]:
            raise DataError("a fit needs two lags in ps, the smaller one first, as --fit 2:10.")


class EvenTimes:
    """Which frames follow one another at one distance in time, as autocorrelations need."""

    def __init__(self, times: list[float]) -> None:
        """times: of the first frames, ps"""
        self.spacing = float(np.median(np.diff(times))) if len(times) > 1 else None
        self._last: float | None = None
        self.off = self.gaps = 0

    def follows(self, time: float) -> bool | None:
        """Whether a frame is the next one; False after a gap; None where it has no place.

        time: of the frame, ps
        """
        if self.spacing is None:
            return None
        # From the frame before, not from the first: a rounded spacing would add up.
        later = 1.0 if self._last is None else (time - self._last) / self.spacing
        frames = round(later)
        if abs(later - frames) > OFF or frames < 1:
            self.off += 1
            return None
        self.gaps += frames > 1
        self._last = time
        return frames == 1


@dataclass
class Series:
    """What has one value a frame. time: ps, of the frames that had it."""

    time: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, time: float | None, values: dict[str, float]) -> None:
        if time is not None:
            self.time.append(time)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)


class Analysis:
    """The sums of a run; `findings.py` makes figures of them.

    Temperatures have three degrees of freedom for each atom that moves. Displacements and velocity
    autocorrelations are relative to the centre of mass unless atoms are held, and of atoms that
    move alone; where memory would not do for all of them, of some of each element, evenly chosen.
    """

    def __init__(self, head: list[Snapshot], settings: Settings) -> None:
        """head: the first frames, which are to be added too"""
        first = head[0]
        self.settings = settings
        self.numbers, self.masses, self.pbc = first.numbers, first.masses, first.pbc
        kinds, self._kind = np.unique(first.numbers, return_inverse=True)
        self.elements = [chemical_symbols[z] for z in kinds]
        self.held = _held(head)
        self.n_frames = 0
        self.times = Series()  # of all frames
        self.temperatures, self.energies = Series(), Series()
        self.centre_heat: list[float] = []  # K, of the centre of mass
        self.volumes = Series()
        self.pairs = PairCounts(first.numbers, settings.r_max, round(settings.r_max / BIN))
        n = len(kinds)
        self.pair_blocks = Blocks((2, n, n, self.pairs.n_bins))
        self.centres: list[Array] = []
        self.even = EvenTimes([s.time for s in head if s.time is not None])
        self.moving = self._sample(MEMORY // (EXPECTED_LEVELS * PER_ATOM))
        self.displacements = DisplacementSums(self._kind[self.moving], n)
        timed = [s.time for s in head if s.time is not None and s.velocities is not None]
        self.even_velocities = EvenTimes(timed)
        self.heard = self.moving
        self.correlation: Correlation | None = None
        spacing = self.even_velocities.spacing
        if spacing is not None:
            n_lags = min(max(round(settings.reach / spacing) + 1, HEAD), MOST_LAGS)
            self.heard = self._sample(MEMORY // (48 * n_lags))
            self.correlation = Correlation(self._kind[self.heard], n, n_lags)

    def of_kind(self, k: int) -> NDArray[np.bool_]:
        """[n_atoms]: those of the k-th element."""
        return self._kind == k

    def add(self, snapshot: Snapshot) -> None:
        """The next frame, with unwrapped positions."""
        if not np.array_equal(snapshot.numbers, self.numbers):
            raise DataError("the frames are not of the same atoms: give the files of one run.")
        self.n_frames += 1
        self.times.add(snapshot.time, {})
        if self.pbc.all():
            self._add_pairs(snapshot)
        kinetic = self._add_heat(snapshot) if snapshot.velocities is not None else None
        if snapshot.energy is not None:
            values = {"potential": snapshot.energy}
            if kinetic is not None:
                values["total"] = snapshot.energy + kinetic
            self.energies.add(snapshot.time, values)
        if snapshot.time is not None:
            self._add_motion(snapshot, snapshot.time)

    def _add_pairs(self, snapshot: Snapshot) -> None:
        counts = self.pairs.of(snapshot.system())
        volume = abs(float(np.linalg.det(snapshot.cell)))
        self.volumes.add(snapshot.time, {"volume": volume})
        self.pair_blocks.add(np.stack([counts * volume, counts]))

    def _add_heat(self, snapshot: Snapshot) -> float:
        """Returns the kinetic energy in eV."""
        assert snapshot.velocities is not None
        free = ~self.held
        velocities = snapshot.velocities / PS
        numbers, masses = self.numbers[free], snapshot.masses[free]
        if not len(numbers):
            return 0.0
        of_element = kinetic_temperatures(numbers, masses, velocities[free])
        twice = float(masses @ (velocities[free] ** 2).sum(axis=1))
        values = {name: of_element[name] for name in self.elements if name in of_element}
        values[ALL] = twice / (3.0 * len(numbers) * u.kB)
        self.temperatures.add(snapshot.time, values)
        momentum = masses @ velocities[free]
        self.centre_heat.append(float(momentum @ momentum) / (3.0 * u.kB * masses.sum()))
        return 0.5 * twice

    def _add_motion(self, snapshot: Snapshot, time: float) -> None:
        total = snapshot.masses.sum()
        centre = snapshot.masses @ snapshot.positions / total
        self.centres.append(centre)
        relative = not self.held.any()
        follows = self.even.follows(time)
        if follows is not None:
            if not follows:
                self.displacements.restart()
            self.displacements.add(snapshot.positions[self.moving] - relative * centre)
        if snapshot.velocities is None or self.correlation is None:
            return
        follows = self.even_velocities.follows(time)
        if follows is not None:
            if not follows:
                self.correlation.restart()
            drift = snapshot.masses @ snapshot.velocities / total
            self.correlation.add(snapshot.velocities[self.heard] - relative * drift)

    def _sample(self, most: int) -> NDArray[np.int64]:
        """Atoms that move: all, or about so many, of each element its share."""
        free = np.flatnonzero(~self.held)
        if len(free) <= most:
            return free
        chosen = []
        for k in range(len(self.elements)):
            mine = free[self._kind[free] == k]
            n = min(len(mine), max(1, round(most * len(mine) / len(free))))
            chosen.append(mine[np.linspace(0, len(mine) - 1, n).astype(np.int64)])
        return np.sort(np.concatenate(chosen))


def analyse(
    trajectory: Iterable[Snapshot],
    settings: Settings | None = None,
    progress: Callable[[int], None] = lambda done: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Analysis:
    """Sum up a run.

    progress(frames so far) after each frame; stopped: asked after each frame, and when it is true
    the sums are over the frames so far. Raises DataError for no frames, or those of other atoms.
    """
    frames = iter(trajectory)
    head = list(islice(frames, HEAD))
    if not head:
        raise DataError("there is no frame to analyse: give a trajectory.")
    sums = Analysis(head, settings or Settings())
    for snapshot in chain(head, frames):
        sums.add(snapshot)
        progress(sums.n_frames)
        if stopped():
            break
    return sums


def _held(head: list[Snapshot]) -> NDArray[np.bool_]:
    """[n_atoms]: those that are at the very same place in the first frames. Of one frame none."""
    if len(head) < 2:
        return np.zeros(len(head[0].numbers), dtype=bool)
    same = [(s.positions == head[0].positions).all(axis=1) for s in head[1:]]
    held = np.logical_and.reduce(same)
    return held if not held.all() else np.zeros_like(held)
