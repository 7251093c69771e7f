"""Mean square displacement of each element in one pass over a run, and the diffusion it tells."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ase import units as u
from numpy.typing import NDArray
from pydantic import BaseModel

from forcenet_md.simulation.statistics import Array, Blocks, Estimate, from_blocks

KEPT = 16  # frames of each level
LEVELS = 32
PER_ATOM = KEPT * 24  # bytes of a level
PARTS = 8  # blocks for errors
CM2_PER_S = 1e-4  # of one Å²/ps
DIFFUSIVE = 0.2  # d ln MSD / d ln t may be off 1 by so much
EARLIEST = 1.0  # ps: at shorter lags atoms still fly, or rattle in the cage of their neighbours
STRETCH = 1.5  # from the fit to the last lag: with less nothing is seen of how the MSD goes on


class Diffusion(BaseModel):
    """Of one element. coefficient: Å²/ps, a sixth of the slope of a line through the MSD at lags
    in `window` (ps), None where that is no diffusion; slope: d ln MSD / d ln t there: 1 diffusive,
    2 ballistic, 0 bound; later: the same from there to half the run, None where that is too near.
    """

    coefficient: Estimate | None
    cm2_per_s: Estimate | None
    window: tuple[float, float]
    slope: Estimate
    later: Estimate | None

    @property
    def straight(self) -> bool:
        """Whether the MSD grows as time does in the window."""
        return abs(self.slope.value - 1.0) <= DIFFUSIVE

    @property
    def goes_on(self) -> bool:
        """Whether it does so later, as far as that is known."""
        if self.later is None:
            return True
        return abs(self.later.value - 1.0) <= DIFFUSIVE + 2.0 * (self.later.error or 0.0)


@dataclass(frozen=True, slots=True)
class Displacements:
    """lag: [n_lags] frames; total: [n_lags, n_kinds] Å²; parts: the same of blocks of the run."""

    lag: NDArray[np.int64]
    total: Array
    parts: list[Array]

    def times(self, spacing: float) -> Array:
        """[n_lags] ps, of frames so many ps apart."""
        return np.asarray(self.lag * spacing, dtype=np.float64)


class DisplacementSums:
    """Square displacements at lags 1 … 16, then 18, 20 … 32, 36, 40 … 64 frames and so on.

    Level k keeps the last 16 of every 2^k-th frame, and compares each new one with these: the
    lags' values are exact averages, over every 2^k-th origin. Work of a frame and memory, 384 bytes
    an atom and level, hardly grow with the run (the multiple windows of Dubbeldam et al.,
    Mol. Simul. 35, 1084 (2009)).
    """

    def __init__(self, kind: NDArray[np.int64], n_kinds: int) -> None:
        """kind: [n_atoms] number of each atom's element"""
        self._weights = np.zeros((len(kind), n_kinds))
        self._weights[np.arange(len(kind)), kind] = 1.0
        self._in_kind = np.maximum(self._weights.sum(axis=0), 1.0)
        half = KEPT // 2
        self._lags = [np.arange(1, KEPT + 1)]
        self._lags += [np.arange(half + 1, KEPT + 1) for _ in range(1, LEVELS)]
        starts = np.cumsum([0, *(len(lags) for lags in self._lags)])
        self._slots = [slice(a, b) for a, b in pairwise(starts)]
        self._blocks = Blocks((int(starts[-1]), n_kinds + 1))  # the last column counts
        self._kept: list[Array] = []
        self._count = 0

    def add(self, positions: Array) -> None:
        """The next frame, as far from the last as that from the one before: [n_atoms, 3] Å."""
        found = np.zeros((self._slots[-1].stop, self._in_kind.size + 1))
        for level in range(LEVELS):
            number, beside = divmod(self._count, 2**level)
            if beside:
                break
            if level == len(self._kept):
                self._kept.append(np.empty((KEPT, *positions.shape)))
                if level:  # it begins at its second frame; the first is still below
                    self._kept[level][0] = self._kept[level - 1][0]
            ring = self._kept[level]
            lags = self._lags[level]
            lags = lags[lags <= number]
            if len(lags):
                moved = positions - ring[(number - lags) % KEPT]
                squares = np.einsum("lij,lij->li", moved, moved) @ self._weights
                slots = self._slots[level].start + np.arange(len(lags))
                found[slots, :-1] = squares / self._in_kind
                found[slots, -1] = 1.0
            ring[number % KEPT] = positions
            if number == 0:
                break  # of all levels this is the first frame: they begin when a second comes
        self._blocks.add(found)
        self._count += 1

    def restart(self) -> None:
        """After a gap: no displacement is taken across it."""
        self._kept.clear()
        self._count = 0

    def result(self, parts: int = PARTS) -> Displacements:
        """parts: how many blocks of the run"""
        lags = np.concatenate([lags * 2**k for k, lags in enumerate(self._lags)])
        total = self._blocks.total
        seen = total[:, -1] > 0.0
        return Displacements(
            lags[seen],
            _averaged(total[seen]),
            [_averaged(part[seen]) for part in self._blocks.parts(parts)],
        )


def _averaged(sums: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return sums[:, :-1] / sums[:, -1:]


def diffusion(
    lag: Array,
    msd: Array,
    parts: list[Array],
    window: tuple[float, float],
    later: Estimate | None = None,
    earliest: float = EARLIEST,
) -> Diffusion | None:
    """From the MSD of one element; None where fewer than two lags lie in the window.

    There is a coefficient where the MSD grows as time does, goes on so (`later`, of `slope_after`),
    and the window begins at `earliest`: a curve that bends from flight to rest passes through any
    slope.

    lag: [n_lags] ps; msd: [n_lags] Å²; parts: the same of blocks of the run, whose spread is the
    error; window, earliest: ps
    """
    inside = (lag >= window[0] * (1.0 - 1e-9)) & (lag <= window[1] * (1.0 + 1e-9))
    inside &= np.isfinite(msd)
    if inside.sum() < 2:
        return None
    whole = [part[inside] for part in parts if np.isfinite(part[inside]).all()]
    coefficient = from_blocks(
        _line(lag[inside], msd[inside]), [_line(lag[inside], part) for part in whole]
    )
    slope = from_blocks(
        _power(lag[inside], msd[inside]), [_power(lag[inside], part) for part in whole]
    )
    low, high = float(lag[inside][0]), float(lag[inside][-1])
    found = Diffusion(
        coefficient=coefficient,
        cm2_per_s=coefficient.times(CM2_PER_S),
        window=(low, high),
        slope=slope,
        later=later,
    )
    if found.straight and found.goes_on and low >= earliest * (1.0 - 1e-9):
        return found
    return found.model_copy(update={"coefficient": None, "cm2_per_s": None})


def slope_after(
    lag: Array, msd: Array, end: float, duration: float, n_atoms: int
) -> Estimate | None:
    """d ln MSD / d ln t from the lag where a fit ends to half the run; None where that is too near.

    lag: [n_lags] ps; msd: [n_lags] Å² of n_atoms; end, duration: ps. The error is that of free
    walkers at the last lag (Qian, Sheetz and Elson, Biophys. J. 60, 910 (1991), of many frames):
    blocks of the run have no such lags.
    """
    known = np.flatnonzero((lag >= end * (1.0 - 1e-9)) & (lag <= 0.5 * duration * (1.0 + 1e-9)))
    known = known[msd[known] > 0.0]
    if len(known) < 2 or lag[known[-1]] < STRETCH * lag[known[0]]:
        return None
    first, last = known[0], known[-1]
    far = np.log(lag[last] / lag[first])
    x = lag[last] / (duration - lag[last])
    variance = 2.0 / (3.0 * n_atoms) * (2.0 * x / 3.0 - x**2 / 6.0)
    return Estimate(
        value=float(np.log(msd[last] / msd[first]) / far), error=float(np.sqrt(variance) / far)
    )


def _line(lag: Array, msd: Array) -> float:
    return float(np.polyfit(lag, msd, 1)[0]) / 6.0


def _power(lag: Array, msd: Array) -> float:
    """0 where nothing moves."""
    return float(np.polyfit(np.log(lag), np.log(msd), 1)[0]) if (msd > 0.0).all() else 0.0


def finite_size(temperature: float, volume: float) -> float:
    """Å²/ps times the viscosity in mPa s, by which a periodic cell of a liquid has too little
    diffusion: 2.837 kT / (6 π η L), Yeh and Hummer, J. Phys. Chem. B 108, 15873 (2004).

    temperature: K; volume: Å³
    """
    length = volume ** (1.0 / 3.0) * 1e-10
    metres = 2.837297 * u._k * temperature / (6.0 * np.pi * 1e-3 * length)
    return float(metres * 1e8)  # m²/s in Å²/ps
