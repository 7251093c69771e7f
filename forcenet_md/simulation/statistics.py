"""Means, slopes and their errors from series whose values are correlated, and sums in blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from forcenet_md.blocking import FEWEST, error_of_mean

Array = NDArray[np.float64]

MOST_BLOCKS = 64
ROUNDING = 1e-12  # of a value: what is less is the computer's


class Estimate(BaseModel):
    """error: the standard error; None where the run is too short to tell it."""

    value: float
    error: float | None = None

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two independent estimates."""
        value = _beyond_rounding(self.value - other.value, max(abs(self.value), abs(other.value)))
        return Estimate(value=value, error=_both(self.error, other.error))

    def __truediv__(self, other: Estimate) -> Estimate:
        """The quotient of two independent estimates, to first order in their errors."""
        value = self.value / other.value
        error = None
        if self.error is not None and other.error is not None:
            error = float(np.hypot(self.error, value * other.error)) / abs(other.value)
        return Estimate(value=value, error=error)

    def times(self, factor: float) -> Estimate:
        """In another unit, or by a number that is known: the error is as many times as large."""
        error = None if self.error is None else abs(factor) * self.error
        return Estimate(value=factor * self.value, error=error)


def _both(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else float(np.hypot(one, other))


def _beyond_rounding(value: float, scale: float) -> float:
    """0 where it is no more than the rounding of numbers as large as the scale."""
    return value if not abs(value) <= ROUNDING * scale else 0.0


def mean_of(values: Array) -> Estimate:
    """Mean of a correlated series [n], with its error by blocking (`blocking.py`); no error where
    fewer than five blocks are left that are long enough."""
    blocks = np.asarray(values, dtype=np.float64)
    mean = float(blocks.mean())
    errors, counts = [], []
    while len(blocks) >= FEWEST:
        errors.append([float(np.std(blocks, ddof=1)) / np.sqrt(len(blocks))])
        counts.append(len(blocks))
        even = len(blocks) // 2 * 2
        blocks = 0.5 * (blocks[:even:2] + blocks[1:even:2])
    if not counts:
        return Estimate(value=mean)
    error = float(error_of_mean(np.array(errors), counts)[0])
    error = _beyond_rounding(error, float(np.abs(values).max()))
    return Estimate(value=mean, error=error if np.isfinite(error) else None)


def slope_of(time: Array, values: Array) -> Estimate | None:
    """Slope of a line through a correlated series, by least squares; None of fewer than three.

    time, values: [n]. The error is that of uncorrelated residuals times how much larger blocking
    finds the error of their mean.
    """
    if len(values) < 3 or np.ptp(time) == 0.0:
        return None
    t = time - time.mean()
    least = float(np.abs(values).max() / np.ptp(time))
    slope = _beyond_rounding(float(t @ values / (t @ t)), least)
    residuals = values - values.mean() - slope * t
    plain = float(np.std(residuals, ddof=1) / np.sqrt(len(residuals)))
    blocked = mean_of(residuals).error
    if blocked is None:
        return Estimate(value=slope)
    inflation = blocked / plain if plain > 0.0 else 1.0
    variance = float(residuals @ residuals) / (len(values) - 2) / float(t @ t)
    error = _beyond_rounding(float(np.sqrt(variance)) * max(inflation, 1.0), least)
    return Estimate(value=slope, error=error)


def from_blocks(whole: float, of_blocks: Sequence[float]) -> Estimate:
    """The whole run's figure with the standard error of its blocks' mean."""
    if len(of_blocks) < FEWEST - 1:
        return Estimate(value=whole)
    error = float(np.std(of_blocks, ddof=1) / np.sqrt(len(of_blocks)))
    error = _beyond_rounding(error, abs(whole))
    return Estimate(value=whole, error=error if np.isfinite(error) else None)


class Blocks:
    """Sums over a run of unknown length, in 32 to 64 blocks of equal length.

    When all are full each pair becomes one, so that memory does not grow with the run. Arrays that
    go in and come out are of the shape, in whatever unit the entries have.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """shape: of an entry"""
        self._sums = np.zeros((MOST_BLOCKS, *shape))
        self._size = 1  # entries in a block
        self._n = 0

    def __len__(self) -> int:
        """Entries so far."""
        return self._n

    def add(self, values: Array) -> None:
        """One more entry. values: [*shape]"""
        if self._n == MOST_BLOCKS * self._size:
            half = MOST_BLOCKS // 2
            self._sums[:half] = self._sums[::2] + self._sums[1::2]
            self._sums[half:] = 0.0
            self._size *= 2
        self._sums[self._n // self._size] += values
        self._n += 1

    @property
    def total(self) -> Array:
        """[*shape]: the sum over all entries."""
        return self._sums.sum(axis=0)

    def parts(self, n: int) -> list[Array]:
        """[*shape] each: sums over n parts of the run in turn, as equal in length as the blocks
        allow; fewer parts where there are fewer blocks."""
        return [self._sums[part].sum(axis=0) for part in self._split(n)]

    def means(self, n: int) -> list[Array]:
        """[*shape] each: the same as averages over the entries of each part."""
        entries = np.minimum(self._n - self._size * np.arange(self._used), self._size)
        return [self._sums[part].sum(axis=0) / entries[part].sum() for part in self._split(n)]

    @property
    def _used(self) -> int:
        return -(-self._n // self._size)

    def _split(self, n: int) -> list[NDArray[np.int64]]:
        return np.array_split(np.arange(self._used), max(1, min(n, self._used)))
