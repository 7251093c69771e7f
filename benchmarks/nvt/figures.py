"""The figures that a run is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from forcenet_md.simulation.observables import (
    PairDistribution,
    element_temperatures,
    pair_distribution,
    per_density,
)

Array = NDArray[np.float64]

WARM_UP = 0.1  # of a run, but at least 1 ps and at most half of it
BLOCKS = 10
R_MAX, N_BINS = 6.0, 60


@dataclass(frozen=True, slots=True)
class Run:
    """Frames with momenta at times [n] ps; those from `first` on are averaged over."""

    frames: list[Atoms]
    time: Array
    first: int

    @property
    def settled(self) -> list[Atoms]:
        return self.frames[self.first :]


def as_run(frames: list[Atoms], spacing: float, begins: float = 0.0) -> Run:
    """Frames so many ps apart; begins: ps, of the first one."""
    time = begins + spacing * np.arange(len(frames), dtype=np.float64)
    warm_up = min(0.5 * time[-1], max(WARM_UP * time[-1], 1.0))
    return Run(frames, time, int(np.searchsorted(time, warm_up - 1e-9)))


def temperatures(run: Run) -> dict[str, tuple[float, float | None]]:
    """Mean and its error, K, of each element."""
    return {e: mean_and_error(t) for e, t in element_temperatures(run.settled).items()}


def mean_and_error(values: Array) -> tuple[float, float | None]:
    """The mean, and its standard error from the means of ten blocks; None for less than 20."""
    if len(values) < 2 * BLOCKS:
        return float(values.mean()), None
    means = [block.mean() for block in np.array_split(values, BLOCKS)]
    return float(values.mean()), float(np.std(means, ddof=1) / np.sqrt(BLOCKS))


def pair_densities(frames: Sequence[Atoms]) -> PairDistribution:
    """g(r) that is the same in cells of every size, see `per_density`."""
    return per_density(pair_distribution(frames, R_MAX, N_BINS), frames[0].get_chemical_symbols())


def halves(frames: Sequence[Atoms]) -> dict[str, float]:
    """How far g(r) of the two halves of a run are apart, by pair."""
    middle = len(frames) // 2
    if middle == 0:
        return {}
    return pair_densities(frames[:middle]).deviation(pair_densities(frames[middle:]))


@dataclass(frozen=True, slots=True)
class Bond:
    """How many atoms of one element are near one of another: chemistry that g(r) averages away.

    centre, neighbour: elements; distance: Å, between the first and the second shell
    """

    centre: str
    neighbour: str
    distance: float

    @classmethod
    def parse(cls, text: str) -> Bond:
        """Of 'P-S:2.6'. Raises ValueError."""
        pair, distance = text.split(":")
        centre, neighbour = pair.split("-")
        return cls(centre, neighbour, float(distance))

    def counts(self, frames: Sequence[Atoms]) -> NDArray[np.int64]:
        """[n_frames, n_centres] neighbours of each centre."""
        centres = frames[0].symbols == self.centre
        pair = {(self.centre, self.neighbour): self.distance}
        near = (neighbor_list("i", atoms, pair) for atoms in frames)
        return np.array([np.bincount(i, minlength=len(centres))[centres] for i in near])

    def figures(self, frames: Sequence[Atoms]) -> dict[str, Any]:
        """shares: of the centres with so many neighbours, by number; unusual: share of frames in
        which a centre has other than the commonest number, of ten parts of the run in turn."""
        counts = self.counts(frames)
        numbers, times = np.unique(counts, return_counts=True)
        frame = (counts != numbers[times.argmax()]).any(axis=1)
        return {
            "shares": {str(n): t / counts.size for n, t in zip(numbers, times, strict=True)},
            "unusual": [float(part.mean()) for part in np.array_split(frame, BLOCKS) if len(part)],
        }


def deviations(model: PairDistribution, reference: PairDistribution) -> dict[str, float]:
    """∫|g − g_reference| / ∫g_reference of the pairs that both have."""
    both = [pair for pair in reference.g if pair in model.g]
    parts = [PairDistribution(each.r, {p: each.g[p] for p in both}) for each in (model, reference)]
    return parts[0].deviation(parts[1])
