"""Which frames make which step: once per epoch, resumable, the same for any number of processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from training_runs import frames_of

from forcenet_md.training.batches import Batches, Item, Position, ShareSampler, share_of
from forcenet_md.training.config import AugmentationConfig
from forcenet_md.training.graphs import GraphDataset, begin_worker, collate


def take(batches: Batches, n: int, position: Position | None = None) -> list[tuple[int, list[int]]]:
    steps = batches.start_at(position or Position())
    return [(step.epoch, step.rows.tolist()) for _, step in zip(range(n), steps, strict=False)]


def test_batches_of_frames_see_each_frame_once_in_an_epoch() -> None:
    batches = Batches(np.ones(7, dtype=np.int64), 2, seed=3)
    steps = take(batches, 9)
    assert [epoch for epoch, _ in steps] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for epoch in range(3):
        rows = [row for e, rows in steps if e == epoch for row in rows]
        assert len(set(rows)) == len(rows) == 6
    assert take(Batches(np.ones(7, dtype=np.int64), 2, seed=4), 9) != steps
    assert [len(rows) for _, rows in take(Batches(np.ones(3, dtype=np.int64), 8, 0), 2)] == [3, 3]


@pytest.mark.parametrize("budget", [1, 40, 100, 10_000])
def test_batches_of_edges_against_a_plain_count(budget: int) -> None:
    """Greedy filling, frame by frame, in the order of the epoch's permutation."""
    costs = np.random.default_rng(0).integers(5, 60, 50)
    batches = Batches(costs, budget, seed=1)
    expected: list[tuple[int, list[int]]] = []
    for epoch in range(2):
        order = np.random.default_rng([1, epoch]).permutation(50)
        filled: list[list[int]] = [[]]
        for row in order.tolist():
            if filled[-1] and sum(costs[r] for r in filled[-1]) + costs[row] > budget:
                filled.append([])
            filled[-1].append(row)
        if len(filled) > 1 and sum(costs[r] for r in filled[-1]) < budget:
            filled.pop()
        expected += [(epoch, rows) for rows in filled]
    assert take(batches, len(expected)) == expected


def test_batches_go_on_from_any_step() -> None:
    batches = Batches(np.random.default_rng(0).integers(5, 60, 30), 100, seed=5)
    steps = list(zip(range(25), batches.start_at(Position()), strict=False))
    whole = take(batches, 25)
    for k, step in steps[:-1]:
        assert take(batches, 25 - k - 1, step.after) == whole[k + 1 :]
    assert steps[-1][1].epoch >= 2
    assert batches.epochs_at(Position(3, 15)) == 3.5


@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_shares_are_the_batch(world: int) -> None:
    """Together the processes have each frame once, whatever their number; one that has none
    left takes a frame with weight 0."""
    costs = np.random.default_rng(1).integers(5, 60, 30)
    batches = Batches(costs, 120, seed=2)
    empty = 0
    for _, step in zip(range(30), batches.start_at(Position()), strict=False):
        shares = [share_of(step, costs, rank, world) for rank in range(world)]
        assert all(shares)
        rows = [item.row for share in shares for item in share if item.weight == 1.0]
        assert sorted(rows) == sorted(step.rows.tolist())
        empty += sum(item.weight == 0.0 for share in shares for item in share)
        if len(step.rows) >= world:
            loads = [costs[[item.row for item in share]].sum() for share in shares]
            assert max(loads) - min(loads) <= costs[step.rows].max()
    assert (empty > 0) == (world > 2)


def test_graphs_do_not_depend_on_workers_or_on_the_process(labelled: Path, tmp_path: Path) -> None:
    """Rotation and noise come from (seed, epoch, row): with two workers, with none, and dealt to
    two processes every graph is the same bit by bit."""
    frames = frames_of(labelled, tmp_path)
    augmentation = AugmentationConfig(noise=0.05, restore=2.0)
    graphs = GraphDataset(frames, 4.0, None, seed=3, augmentation=augmentation)
    batches = Batches(np.ones(len(frames), dtype=np.int64), 4, seed=3)

    def vectors(rank: int, world: int, workers: int) -> list[torch.Tensor]:
        loader = DataLoader(
            graphs,
            batch_sampler=ShareSampler(batches, Position(), rank, world),
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=begin_worker,
        )
        return [b.vector for _, b in zip(range(5), loader, strict=False)]

    alone = vectors(0, 1, 0)
    for ours, theirs in zip(alone, vectors(0, 1, 2), strict=True):
        assert torch.equal(ours, theirs)
    halves = zip(vectors(0, 2, 0), vectors(1, 2, 0), strict=True)
    for ours, (first, second) in zip(alone, halves, strict=True):
        joined = torch.cat([first, second]).numpy()
        np.testing.assert_array_equal(
            joined[np.lexsort(joined.T)], ours.numpy()[np.lexsort(ours.numpy().T)]
        )
    one, other = graphs[Item(0, 0)], graphs[Item(0, 1)]
    assert not torch.equal(one.forces, other.forces)
    assert torch.equal(one.forces, graphs[Item(0, 0)].forces)
