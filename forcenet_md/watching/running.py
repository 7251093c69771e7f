"""Means of what comes one by one, with errors that know of correlations, in memory of log n."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forcenet_md.blocking import FEWEST, error_of_mean

Array = NDArray[np.float64]


class RunningMean:
    """Mean and standard error of a correlated series of [n_values] samples, added one by one.

    Neighbours are joined to blocks of 2, 4, 8, … (`blocking.py`).
    """

    def __init__(self, n_values: int) -> None:
        self._n_values = n_values
        self.count = 0
        self._levels: list[_Level] = []

    def add(self, sample: Array) -> None:
        """sample: [n_values]"""
        self.count += 1
        for level in self._levels:
            block = level.add(sample)
            if block is None:
                return
            sample = block
        self._levels.append(_Level(self._n_values))
        self._levels[-1].add(sample)

    @property
    def mean(self) -> Array:
        """[n_values]; NaN before the first sample."""
        return self._levels[0].mean if self._levels else np.full(self._n_values, np.nan)

    @property
    def error(self) -> Array:
        """[n_values]; NaN while there are too few."""
        levels = [level for level in self._levels if level.count >= FEWEST]
        if not levels:
            return np.full(self._n_values, np.nan)
        return error_of_mean(
            np.array([level.error for level in levels]), [level.count for level in levels]
        )


class LateMean:
    """A `RunningMean` without the beginning, in which a run settles: of between the last half and
    the last three quarters of all samples."""

    def __init__(self, n_values: int) -> None:
        self.total = 0
        self.late = RunningMean(n_values)
        self._later = RunningMean(n_values)
        self._n_values = n_values

    def add(self, sample: Array) -> None:
        """sample: [n_values]"""
        self.total += 1
        self.late.add(sample)
        self._later.add(sample)
        if self.total & (self.total - 1) == 0:  # a power of two
            self.late, self._later = self._later, RunningMean(self._n_values)


class _Level:
    """Blocks of one size: their mean and spread (Welford), and one that waits for its neighbour."""

    def __init__(self, n_values: int) -> None:
        self.count = 0
        self.mean = np.zeros(n_values)
        self._squares = np.zeros(n_values)
        self._waiting: Array | None = None

    def add(self, sample: Array) -> Array | None:
        """The block that is complete with this one."""
        self.count += 1
        off = sample - self.mean
        self.mean = self.mean + off / self.count
        self._squares = self._squares + off * (sample - self.mean)
        if self._waiting is None:
            self._waiting = sample
            return None
        block = 0.5 * (self._waiting + sample)
        self._waiting = None
        return block

    @property
    def error(self) -> Array:
        return np.sqrt(self._squares / (self.count * (self.count - 1)))
