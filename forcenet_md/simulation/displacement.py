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


class Diffusion(BaseModel):
    """Of one element. coefficient: Å²/ps, a sixth of the slope of a line through the MSD at lags
    in `window` (ps); slope: d ln MSD / d ln t there: 1 diffusive, 2 ballistic, 0 bound."""

    coefficient: Estimate
    cm2_per_s: Estimate
    window: tuple[float, float]
    slope: Estimate

    @property
    def diffusive(self) -> bool:
        """Whether the coefficient means something."""
        return abs(self.slope.value - 1.0) <= DIFFUSIVE


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
    lag: Array, msd: Array, parts: list[Array], window: tuple[float, float]
) -> Diffusion | None:
    """From the MSD of one element; None where fewer than two lags lie in the window.

    lag: [n_lags] ps; msd: [n_lags] Å²; parts: the same of blocks of the run, whose spread is the
    error; window: ps
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
    return Diffusion(
        coefficient=coefficient,
        cm2_per_s=coefficient.times(CM2_PER_S),
        window=(float(lag[inside][0]), float(lag[inside][-1])),
        slope=slope,
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
