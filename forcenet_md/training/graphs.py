"""Labelled frames as graphs for torch_geometric, made when they are needed."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import atomic_numbers
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data

from forcenet_md.data.store import Frames, Labelled
from forcenet_md.errors import ForceNetError
from forcenet_md.graph.edges import Edges
from forcenet_md.graph.neighbours import build_edges
from forcenet_md.models.elements import N_TABLE
from forcenet_md.system import System
from forcenet_md.training.augment import Augmented, augment
from forcenet_md.training.batches import NO_EPOCH, Item
from forcenet_md.training.config import AugmentationConfig, LossConfig

AUGMENTATION_STREAM = 1  # keeps its random numbers apart from those of the batches


@dataclass(frozen=True)
class Failed:
    """A frame that has no graph, and why: an exception would lose its words on the way from a
    worker process."""

    reason: str


class GraphDataset(Dataset[Data | Failed]):
    """Item → graph: frame, augmentation, neighbour list.

    A graph depends on (seed, epoch, row) alone, never on the process or worker that makes it.
    species [n] int64, edge_index [2, n_edges] (source, target), vector [n_edges, 3] Å,
    forces [n, 3] eV/Å, weight [n] of the loss, free [n] bool (not held in the calculation).
    """

    def __init__(
        self,
        frames: Frames,
        cutoff: float,
        cap: int | None,
        *,
        seed: int = 0,
        augmentation: AugmentationConfig | None = None,
        loss: LossConfig | None = None,
    ) -> None:
        self.frames = frames
        self.cutoff = cutoff
        self.cap = cap
        self.seed = seed
        self.augmentation = augmentation or AugmentationConfig(rotations="none", inversion=False)
        self.loss = loss or LossConfig()
        self.element_weights = np.ones(N_TABLE + 18)
        for symbol, weight in self.loss.element_weights.items():
            self.element_weights[atomic_numbers[symbol]] = weight

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: Item) -> Data | Failed:
        try:
            return self.graph(item)
        except ForceNetError as error:
            return Failed(f"{self.frames.name(item.row)}: {error}")

    def graph(self, item: Item) -> Data:
        """Raises StructureError where the frame has no neighbour list."""
        frame = self.frames[item.row]
        augmented = None
        if item.epoch != NO_EPOCH:
            rng = np.random.default_rng([self.seed, AUGMENTATION_STREAM, item.epoch, item.row])
            augmented = augment(self.augmentation, frame.fixed, rng)
        weight = self.element_weights[frame.numbers] * item.weight
        weight[frame.fixed] *= self.loss.fixed_weight
        if self.loss.frame_weight is not None:
            weight *= float(self.frames.column(self.loss.frame_weight)[item.row])
        return to_graph(frame, self.cutoff, self.cap, augmented, weight)


def edges_of(frame: Labelled, cutoff: float, cap: int | None) -> Edges:
    return build_edges(
        System.make(frame.positions, frame.numbers, frame.cell, frame.pbc), cutoff, cap
    )


def to_graph(
    frame: Labelled,
    cutoff: float,
    cap: int | None = None,
    augmented: Augmented | None = None,
    weight: NDArray[np.float64] | None = None,
) -> Data:
    """The graph of one frame, float32, turned and displaced as `augmented` says."""
    positions, forces, matrix = frame.positions, frame.forces, np.eye(3)
    if augmented is not None:
        positions = positions + augmented.displacement
        forces, matrix = forces + augmented.added_force, augmented.matrix
    edges = build_edges(System.make(positions, frame.numbers, frame.cell, frame.pbc), cutoff, cap)
    index = np.stack([edges.source, edges.target]).astype(np.int64)
    weights = np.ones(len(frame.numbers)) if weight is None else weight
    return Data(
        num_nodes=len(frame.numbers),
        species=torch.from_numpy(frame.numbers.astype(np.int64)),
        edge_index=torch.from_numpy(index),
        vector=torch.from_numpy((edges.vector @ matrix.T).astype(np.float32)),
        forces=torch.from_numpy((forces @ matrix.T).astype(np.float32)),
        weight=torch.from_numpy(weights.astype(np.float32)),
        free=torch.from_numpy(~frame.fixed),
    )


def collate(graphs: Sequence[Data | Failed]) -> Batch | Failed:
    """One batch, or the first frame that failed."""
    for graph in graphs:
        if isinstance(graph, Failed):
            return graph
    return Batch.from_data_list(list(graphs))


def begin_worker(_number: int) -> None:
    """Ctrl-C is the training process's to answer; its workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
