"""ForceNet as it is exported: eval mode, folded, edges walked in chunks.

Folding (docs: the same function, cheaper): the embedding becomes a table by species; F_b and the
edge part of F_e's first Linear become one matrix; its two node parts and F_d act per node, before
the gather; batch norms go into the Linear before them. The sum over edges runs in chunks, so
that no [n_edges, D] array is ever written. Layout version `LAYOUT`: the weights' names are a
contract with the kernels in `inference/`.
"""

# No `from __future__ import annotations` here: torch.jit.script reads class annotations.

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forcenet_md.models.elements import N_TABLE
from forcenet_md.models.forcenet import ForceNet, Interaction, linear_at

LAYOUT = 1


def chunk_length(x: Tensor) -> int:
    """Edges per chunk: on a CPU its buffers stay in the cache (512–4096 are flat), on a GPU it
    fills the device and bounds the memory."""
    return 262144 if x.is_cuda else 1024


class FoldedMLP(nn.Module):
    """Linear, then (act, Linear) × n, with any batch norm folded in: [n, n_in] → [n, n_out]."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        linears = fold_norms(layers)
        self.first = linears[0]
        self.rest = nn.ModuleList(linears[1:])
        self.relu = any(isinstance(m, nn.ReLU) for m in layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for linear in self.rest:
            x = linear(F.relu(x) if self.relu else F.silu(x))
        return x


def fold_norms(layers: nn.Sequential) -> list[nn.Linear]:
    """The Linears of a Sequential of Linear, BatchNorm1d and activations, norms folded in."""
    linears: list[nn.Linear] = []
    for m in layers:
        if isinstance(m, nn.Linear):
            linears.append(copy.deepcopy(m))
        elif isinstance(m, nn.BatchNorm1d):
            assert m.running_mean is not None
            assert m.running_var is not None
            scale = m.weight / torch.sqrt(m.running_var + m.eps)
            last = linears[-1]
            last.weight.data.mul_(scale[:, None])
            last.bias.data.sub_(m.running_mean).mul_(scale).add_(m.bias)
    return linears


class FoldedInteraction(nn.Module):
    """h ← h + F_n(Σ_s α F_e ⊙ F_d h_s + w ⊙ F_d h_t), folded; flags as in `Interaction`."""

    edge_weight_t: Tensor
    edge_bias: Tensor
    source_weight: Tensor
    target_weight: Tensor
    self_weight: Tensor

    def __init__(self, layer: Interaction) -> None:
        super().__init__()
        d = linear_at(layer.edge_mlp, 0).out_features
        n = layer.n_edge_columns()
        self.conditioned = layer.conditioned
        self.filtered = layer.filtered
        linears = fold_norms(layer.edge_mlp)
        first = linears[0]  # with any batch norm already in
        w_e, w_node = first.weight[:, :n], first.weight[:, n:]
        bias: Tensor = first.bias
        if layer.edge_filter is not None:
            bias = bias + w_e @ layer.edge_filter.bias
            w_e = w_e @ layer.edge_filter.weight
        self.relu = any(isinstance(m, nn.ReLU) for m in layer.edge_mlp)
        keep = lambda name, x: self.register_buffer(name, x.detach().clone())  # noqa: E731
        keep("edge_weight_t", w_e.t().contiguous())  # [n_basis, D]
        keep("edge_bias", bias)
        keep("source_weight", w_node[:, :d] if self.conditioned else torch.zeros(0, d))
        keep("target_weight", w_node[:, d:] if self.conditioned else torch.zeros(0, d))
        keep("self_weight", torch.zeros(1, d) if layer.self_weight is None else layer.self_weight)
        self.edge_rest = nn.ModuleList(linears[1:])
        self.node_filter: nn.Module = (
            copy.deepcopy(layer.node_filter) if layer.node_filter is not None else nn.Identity()
        )
        self.node_mlp = FoldedMLP(layer.node_mlp)

    def forward(
        self, h: Tensor, source: Tensor, target: Tensor, basis: Tensor, n_owned: int
    ) -> Tensor:
        n_basis = basis.shape[1] - 1
        y = self.node_filter(h)
        if self.filtered:
            x = self.self_weight * y[:n_owned]
        else:
            x = self.self_weight.expand(n_owned, h.shape[1]).clone()
        from_source, from_target = h, h
        if self.conditioned:
            from_source = F.linear(h, self.source_weight)
            from_target = F.linear(h[:n_owned], self.target_weight, self.edge_bias)
        chunk = chunk_length(h)
        for start in range(0, source.shape[0], chunk):
            end = min(start + chunk, source.shape[0])
            s, t = source[start:end], target[start:end]
            b = basis[start:end, :n_basis]
            if self.conditioned:
                z = from_source.index_select(0, s)
                z.add_(from_target.index_select(0, t))
                z.addmm_(b, self.edge_weight_t)
            else:
                z = torch.addmm(self.edge_bias, b, self.edge_weight_t)
            for linear in self.edge_rest:
                z = linear(F.relu(z, inplace=True) if self.relu else F.silu(z, inplace=True))
            z.mul_(basis[start:end, n_basis:])
            if self.filtered:
                z.mul_(y.index_select(0, s))
            x.index_add_(0, t, z)
        return h[:n_owned] + self.node_mlp(x)


class FoldedForceNet(nn.Module):
    """The stages of `models/interface.py` for inference: scriptable, plain torch."""

    embedding: Tensor

    def __init__(self, model: ForceNet, numbers: list[int]) -> None:
        """numbers: the atomic numbers the file shall know; others get NaN rows, and the host
        refuses them by name. The model must be in eval mode and float64 (see `fold`)."""
        super().__init__()
        self.n_layers: int = model.n_layers
        with torch.no_grad():
            table = torch.full((N_TABLE + 18, model.config.hidden), torch.nan, dtype=torch.float64)
            z = torch.tensor(numbers, dtype=torch.int64)
            table[z] = model.embed(z)
        self.register_buffer("embedding", table)
        self.basis = copy.deepcopy(model.basis)
        self.n_basis: int = model.basis.n_out
        radii = torch.full((N_TABLE + 18,), torch.nan, dtype=torch.float64)
        radii[z] = self.basis.radii[z]
        self.basis.radii = radii
        self.envelope = copy.deepcopy(model.envelope)
        self.message_scale = model.message_scale
        self.interactions = nn.ModuleList(
            FoldedInteraction(m) for m in model.interactions if isinstance(m, Interaction)
        )
        self.decoder_in = copy.deepcopy(model.decoder_in)
        self.activation = copy.deepcopy(model.activation)
        self.decoder = FoldedMLP(model.decoder)
        self.floor = copy.deepcopy(model.floor)
        for p in self.parameters():
            p.requires_grad_(False)

    @torch.jit.export
    def embed(self, species: Tensor) -> Tensor:
        return self.embedding.index_select(0, species)

    @torch.jit.export
    def edge_basis(self, species: Tensor, source: Tensor, target: Tensor, vector: Tensor) -> Tensor:
        alpha = self.envelope(torch.linalg.vector_norm(vector, dim=1)) * self.message_scale
        return torch.cat([self.basis(species, source, target, vector), alpha.unsqueeze(1)], dim=1)

    @torch.jit.export
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
        for i, layer in enumerate(self.interactions):
            if i == k:
                return layer(h, source, target, basis, n_owned)
        return h

    @torch.jit.export
    def readout(self, h: Tensor, species: Tensor) -> dict[str, Tensor]:
        return {"forces": self.decoder(self.activation(self.decoder_in(h)))}

    @torch.jit.export
    def pair_forces(
        self, species: Tensor, source: Tensor, target: Tensor, vector: Tensor, n_owned: int
    ) -> Tensor:
        return self.floor(species, source, target, vector, n_owned)

    def forward(
        self, species: Tensor, source: Tensor, target: Tensor, vector: Tensor
    ) -> dict[str, Tensor]:
        h = self.embed(species)
        basis = self.edge_basis(species, source, target, vector)
        for layer in self.interactions:
            h = layer(h, source, target, basis, species.shape[0])
        out = self.readout(h, species)
        floor = self.pair_forces(species, source, target, vector, species.shape[0])
        out["forces"] = out["forces"] + floor
        return out


def fold(model: ForceNet, numbers: list[int]) -> FoldedForceNet:
    """Fold a trained ForceNet in float64, so that one file serves both precisions."""
    return FoldedForceNet(copy.deepcopy(model).double().eval(), numbers)
