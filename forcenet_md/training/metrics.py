"""Force errors: mean absolute error per component beside the mean absolute component."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from forcenet_md.errors import DataError
from forcenet_md.training.batches import NO_EPOCH, Item
from forcenet_md.training.graphs import Failed, GraphDataset, collate
from forcenet_md.training.loss import without_net_force
from forcenet_md.training.network import Network

FrameError = tuple[float, float, int]


@dataclass(frozen=True)
class ForceError:
    """mae: mean |ΔF| over components, eV/Å; mean_force: mean |F| over components, eV/Å."""

    mae: float
    mean_force: float
    n_frames: int

    @property
    def relative(self) -> float:
        return self.mae / self.mean_force if self.mean_force > 0.0 else float("nan")

    def as_dict(self) -> dict[str, float]:
        return {
            "force_mae": round(self.mae, 6),
            "mean_abs_force": round(self.mean_force, 6),
            "relative": round(self.relative, 5),
            "n_frames": self.n_frames,
        }


@torch.no_grad()
def frame_errors(
    network: Network, graphs: GraphDataset, rows: Iterable[int], device: torch.device
) -> list[FrameError]:
    """Per frame (Σ|ΔF|, Σ|F|, components), over the atoms that are free.

    Raises DataError with the name of a frame that has no graph.
    """
    was_training = network.training
    network.eval()
    items = [[Item(row, NO_EPOCH)] for row in rows]
    out = []
    for batch in DataLoader(graphs, batch_sampler=items, collate_fn=collate):
        if isinstance(batch, Failed):
            raise DataError(batch.reason)
        b = batch.to(device)
        forces = network(b.species, b.edge_index, b.vector, b.batch, b.num_graphs)
        labels = b.forces
        if network.remove_net_force:
            labels = without_net_force(labels, b.batch, b.num_graphs)
        labels = labels[b.free]
        difference = (forces[b.free] - labels).abs().sum().item()
        out.append((difference, labels.abs().sum().item(), labels.numel()))
    network.train(was_training)
    return out


def pool(errors: Iterable[FrameError]) -> ForceError:
    """The error over several frames, each component with the same weight."""
    rows = list(errors)
    n = max(1, sum(row[2] for row in rows))
    return ForceError(sum(r[0] for r in rows) / n, sum(r[1] for r in rows) / n, len(rows))


def errors_by(errors: Sequence[FrameError], values: Sequence[Any]) -> dict[str, ForceError]:
    """Pooled errors by the value of each frame, in order of the values; missing ones ("", NaN)
    are left out."""
    groups: dict[Any, list[FrameError]] = defaultdict(list)
    for error, value in zip(errors, values, strict=True):
        if value != "" and value == value:
            groups[value].append(error)
    return {_text(value): pool(groups[value]) for value in sorted(groups)}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
