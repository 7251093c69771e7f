"""The loss: mean absolute error of force components."""

from __future__ import annotations

from torch import Tensor

from forcenet_md.models.interface import segment_sum


def without_net_force(forces: Tensor, structure: Tensor, n_structures: int) -> Tensor:
    """Forces [n, 3] less the mean over each structure; structure [n] numbers it."""
    counts = segment_sum(forces.new_ones((len(forces), 1)), structure, n_structures)
    mean = segment_sum(forces, structure, n_structures) / counts
    return forces - mean.index_select(0, structure)


def l1_loss(predicted: Tensor, labels: Tensor) -> Tensor:
    """Σ|ΔF| / 3n over [n, 3], eV/Å."""
    return (predicted - labels).abs().mean()
