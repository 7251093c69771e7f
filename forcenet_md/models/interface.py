"""The stages of a message-passing model: the contract between networks and everything else.

A model gives per-atom quantities from species and edges, in four stages:

    embed(species [n_all])                                        -> h [n_all, D]
    edge_basis(species [n_all], source, target, vector)           -> b [n_edges, B]
    interact(k, h [n_all, D], species, source, target, b, n_owned) -> h [n_owned, D]
    readout(h [n_owned, D], species [n_owned])                    -> {"forces": [n_owned, 3], ...}

Species are atomic numbers (int64). Edges are (source [n_edges], target [n_edges]) int32 or int64
and vector [n_edges, 3] = x_source − x_target + S·cell in Å, sorted by target; sources index
all rows, targets the owned rows, which come first (n_owned ≤ n_all; equal on one rank).
Before each `interact` but the first, whoever runs the stages refreshes the rows
[n_owned, n_all) of h: the exchange of a domain-decomposed run. The first layer's input depends on
species alone, so it needs none.

and one that is added to the forces of `readout`, zero without a pair floor (models/floor.py):

    pair_forces(species [n_all], source, target, vector, n_owned)  -> [n_owned, 3]

`edge_basis` does not depend on the layer and is computed once per step.
`forward` is the four in a row on one rank; training and inference share them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLOOR_STAGE = "pair_forces"
STAGES = ("embed", "edge_basis", "interact", "readout")


class MessagePassingModel(nn.Module):
    """Base of the trainable networks; n_layers is the number of `interact` stages."""

    n_layers: int
    cutoff: float

    def embed(self, species: Tensor) -> Tensor:
        raise NotImplementedError

    def edge_basis(self, species: Tensor, source: Tensor, target: Tensor, vector: Tensor) -> Tensor:
        raise NotImplementedError

    def interact(
        self,
        k: int,
        h: Tensor,
        species: Tensor,
        source: Tensor,
        target: Tensor,
        basis: Tensor,
        n_owned: int,
    ) -> Tensor:
        raise NotImplementedError

    def readout(self, h: Tensor, species: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def pair_forces(
        self, species: Tensor, source: Tensor, target: Tensor, vector: Tensor, n_owned: int
    ) -> Tensor:
        raise NotImplementedError

    def forward(
        self, species: Tensor, source: Tensor, target: Tensor, vector: Tensor
    ) -> dict[str, Tensor]:
        """Per-atom quantities of one rank's atoms: {"forces": [n_atoms, 3] eV/Å, ...}."""
        h = self.embed(species)
        basis = self.edge_basis(species, source, target, vector)
        for k in range(self.n_layers):
            h = self.interact(k, h, species, source, target, basis, species.shape[0])
        out = self.readout(h, species)
        floor = self.pair_forces(species, source, target, vector, species.shape[0])
        out["forces"] = out["forces"] + floor
        return out


def segment_sum(values: Tensor, target: Tensor, n: int) -> Tensor:
    """Sum rows of values [n_edges, D] into [n, D] by target."""
    out = torch.zeros((n, values.shape[1]), dtype=values.dtype, device=values.device)
    return out.index_add_(0, target, values)
