"""The module that is trained: a model with the form of its forward pass that trains fastest.

All that a step computes goes through its `forward`, where data-parallel training sees it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from forcenet_md.models.forcenet import ForceNet, linear_at
from forcenet_md.models.interface import MessagePassingModel
from forcenet_md.training.fused import can_fuse, fused_forces
from forcenet_md.training.loss import without_net_force


class Network(nn.Module):
    """Batched graphs to forces [n, 3] eV/Å, with the net force of each structure taken out if
    remove_net_force."""

    def __init__(self, model: MessagePassingModel, remove_net_force: bool) -> None:
        super().__init__()
        self.model = model
        self.remove_net_force = remove_net_force
        self.fused = can_fuse(model)

    def forward(
        self,
        species: Tensor,
        edge_index: Tensor,
        vector: Tensor,
        structure: Tensor,
        n_structures: int,
        factors: torch.dtype | None = None,
    ) -> Tensor:
        """factors: precision of the products over edges, where the fused form runs."""
        source, target = edge_index
        if self.fused:
            # It chooses the precision of each product itself.
            with torch.autocast(vector.device.type, enabled=False):
                model = cast(ForceNet, self.model)
                forces = fused_forces(model, species, source, target, vector, factors)
        else:
            forces = self.model(species, source, target, vector)["forces"].float()
        if self.remove_net_force:
            forces = without_net_force(forces, structure, n_structures)
        return forces


def freeze_idle(model: ForceNet, remove_net_force: bool) -> None:
    """Take out of the training what the loss does not depend on.

    The auxiliary head has weight 0 in the loss. The decoder's last bias goes with the net force,
    and a bias before a batch norm with the mean: their gradients are rounding, which Adam would
    make a random walk of full steps.
    """
    if model.energy_head is not None:
        model.energy_head.requires_grad_(False)
    if remove_net_force:
        linear_at(model.decoder, len(model.decoder) - 1).bias.requires_grad_(False)
    for layers in model.modules():
        if isinstance(layers, nn.Sequential):
            for linear, norm in pairwise(layers):
                if isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                    linear.bias.requires_grad_(False)
