"""Labelled frames as graphs for torch_geometric, and the order in which they are seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from ase import Atoms
from torch.utils.data import Sampler
from torch_geometric.data import Data

from forcenet_md.data.frames import forces_of
from forcenet_md.graph.neighbours import build_edges
from forcenet_md.system import System


def to_graph(atoms: Atoms, cutoff: float) -> Data:
    """The graph of one labelled frame.

    species [n] int64, edge_index [2, n_edges] (source, target), vector [n_edges, 3] Å,
    forces [n, 3] eV/Å, float32. Edges keep under rotation, so they are built once.
    """
    edges = build_edges(System.from_ase(atoms), cutoff)
    index = np.stack([edges.source, edges.target]).astype(np.int64)
    return Data(
        num_nodes=len(atoms),
        species=torch.from_numpy(atoms.numbers.astype(np.int64)),
        edge_index=torch.from_numpy(index),
        vector=torch.from_numpy(np.asarray(edges.vector, dtype=np.float32)),
        forces=torch.from_numpy(forces_of(atoms).astype(np.float32)),
    )


def mean_neighbours(graphs: Sequence[Data]) -> float:
    """Edges per atom."""
    n_edges = sum(graph.edge_index.shape[1] for graph in graphs)
    return n_edges / sum(graph.num_nodes for graph in graphs)


class EpochOrder(Sampler[list[int]]):
    """Batches of frame numbers for step `start`, start + 1, …, without end.

    Each epoch is a new permutation that depends on (seed, epoch) alone, so a run that is resumed
    sees the batches it would have seen.
    """

    def __init__(self, n_frames: int, batch: int, seed: int, start: int) -> None:
        self.n_frames = n_frames
        self.batch = min(batch, n_frames)
        self.seed = seed
        self.start = start

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = self.n_frames // self.batch
        epoch, first = divmod(self.start, per_epoch)
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.n_frames)
            for k in range(first, per_epoch):
                yield order[k * self.batch : (k + 1) * self.batch].tolist()
            epoch, first = epoch + 1, 0
