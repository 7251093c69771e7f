"""Force errors: mean absolute error per component beside the mean absolute component."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from ase import Atoms
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from forcenet_md.models.forcenet import ForceNet
from forcenet_md.models.interface import MessagePassingModel
from forcenet_md.training.fused import can_fuse, fused_forces
from forcenet_md.training.loss import without_net_force


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
    model: MessagePassingModel, graphs: Sequence[Data], remove_net_force: bool
) -> list[tuple[float, float, int]]:
    """Per frame (Σ|ΔF|, Σ|F|, components)."""
    was_training = model.training
    model.eval()
    out = []
    for batch in DataLoader(graphs, batch_size=1):
        forces = predict(model, batch, remove_net_force)
        labels = batch.forces
        if remove_net_force:
            labels = without_net_force(labels, batch.batch, batch.num_graphs)
        difference = (forces - labels).abs().sum().item()
        out.append((difference, labels.abs().sum().item(), labels.numel()))
    model.train(was_training)
    return out


def predict(
    model: MessagePassingModel, batch: Any, remove_net_force: bool, half: bool = False
) -> torch.Tensor:
    """Forces [n, 3] of a torch_geometric batch; half: products in bfloat16 where possible."""
    source, target = batch.edge_index
    inputs = (batch.species, source, target, batch.vector)
    if can_fuse(model) and batch.vector.device.type == "cpu":
        forces = fused_forces(cast(ForceNet, model), *inputs, half=half)
    else:
        forces = model(*inputs)["forces"]
    if remove_net_force:
        forces = without_net_force(forces, batch.batch, batch.num_graphs)
    return forces


def pool(errors: Iterable[tuple[float, float, int]]) -> ForceError:
    """The error over several frames, each component with the same weight."""
    rows = list(errors)
    n = sum(row[2] for row in rows)
    return ForceError(sum(r[0] for r in rows) / n, sum(r[1] for r in rows) / n, len(rows))


def errors_by(
    errors: Sequence[tuple[float, float, int]], frames: Sequence[Atoms], column: str
) -> dict[str, ForceError]:
    """Pooled errors by the value of a column of info, in order of the values."""
    groups: dict[Any, list[tuple[float, float, int]]] = defaultdict(list)
    for error, atoms in zip(errors, frames, strict=True):
        if column in atoms.info:
            value = atoms.info[column]
            groups[value.item() if hasattr(value, "item") else value].append(error)
    return {_text(value): pool(groups[value]) for value in sorted(groups)}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
