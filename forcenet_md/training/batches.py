"""Which frames make which step: the same for any number of processes and of workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


class Item(NamedTuple):
    """One frame of a step, and what its graph depends on.

    epoch: seeds the augmentation together with the row; NO_EPOCH leaves the frame as it is
    weight: factor of its atoms' weights in the loss
    """

    row: int
    epoch: int
    weight: float = 1.0


NO_EPOCH = -1


class Position(NamedTuple):
    """Where the next batch begins: the epoch, and the place in its permutation."""

    epoch: int = 0
    place: int = 0


@dataclass(frozen=True)
class Step:
    """The frames of one step on all processes together, and the position after it."""

    epoch: int
    rows: NDArray[np.int64]
    after: Position


class Batches:
    """Batches of frame numbers, without end.

    costs: [n_frames], of each frame (its edges, or 1). A batch takes the next frames of the
    epoch's permutation while their cost stays within `budget`, and at least one. What is left at
    an epoch's end and does not fill a batch is left out of this epoch. The permutation depends on
    (seed, epoch) alone, so that a resumed run sees the batches it would have seen.
    """

    def __init__(self, costs: NDArray[np.int64], budget: int, seed: int) -> None:
        if len(costs) == 0:
            raise ValueError("no frames to make batches of")
        self.costs = costs
        self.budget = budget
        self.seed = seed

    def start_at(self, position: Position) -> Iterator[Step]:
        epoch, place = position
        n = len(self.costs)
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(n)
            total = np.concatenate([[0], np.cumsum(self.costs[order])])
            while place < n:
                end = int(np.searchsorted(total, total[place] + self.budget, side="right")) - 1
                end = max(end, place + 1)
                if end == n and place > 0 and total[n] - total[place] < self.budget:
                    break
                last = end == n or self._left_out(total, end)
                after = Position(epoch + 1, 0) if last else Position(epoch, end)
                yield Step(epoch, order[place:end], after)
                place = end
            epoch, place = epoch + 1, 0

    def _left_out(self, total: NDArray[np.int64], place: int) -> bool:
        return bool(total[-1] - total[place] < self.budget)

    def epochs_at(self, position: Position) -> float:
        """Epochs before the position, the begun one by the share of its frames."""
        return position.epoch + position.place / len(self.costs)


class ShareSampler(Sampler[list[Item]]):
    """The share of one of `world` processes in each batch, from a position on.

    The frames are dealt in the order of their cost. A process for which none is left takes the
    first with weight 0: it must go through the step with the others.
    """

    def __init__(self, batches: Batches, position: Position, rank: int, world: int) -> None:
        self.batches = batches
        self.position = position
        self.rank = rank
        self.world = world

    def __iter__(self) -> Iterator[list[Item]]:
        for step in self.batches.start_at(self.position):
            yield share_of(step, self.batches.costs, self.rank, self.world)


def share_of(step: Step, costs: NDArray[np.int64], rank: int, world: int) -> list[Item]:
    """The items of one process."""
    if world == 1:
        return [Item(int(row), step.epoch) for row in step.rows]
    dealt = step.rows[np.argsort(-costs[step.rows], kind="stable")]
    own = [Item(int(row), step.epoch) for row in islice(dealt, rank, None, world)]
    return own or [Item(int(dealt[0]), step.epoch, 0.0)]
