"""The loss: weighted error of the forces of the atoms."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from forcenet_md.models.interface import segment_sum
from forcenet_md.training.config import LossConfig


def without_net_force(forces: Tensor, structure: Tensor, n_structures: int) -> Tensor:
    """Forces [n, 3] less the mean over each structure; structure [n] numbers it."""
    counts = segment_sum(forces.new_ones((len(forces), 1)), structure, n_structures)
    mean = segment_sum(forces, structure, n_structures) / counts
    return forces - mean.index_select(0, structure)


def atom_errors(config: LossConfig, predicted: Tensor, labels: Tensor) -> Tensor:
    """[n] eV/Å: mean over components of |ΔF| (l1), ‖ΔF‖ (l2), or mean over components of Huber's
    function divided by its delta (huber: |ΔF| − delta/2 beyond delta)."""
    if config.kind == "l1":
        return (predicted - labels).abs().mean(dim=1)
    if config.kind == "huber":
        delta = config.huber_delta
        return F.huber_loss(predicted, labels, reduction="none", delta=delta).mean(dim=1) / delta
    # The slope of ‖ΔF‖ at 0 is not defined; half a µeV/Å makes it 0 there.
    return ((predicted - labels).square().sum(dim=1) + 1e-12).sqrt()
