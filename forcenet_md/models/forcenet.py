"""ForceNet (Hu et al. 2021, arXiv 2103.01436) in its trainable form.

| paper | here |
|---|---|
| h⁰ | `embed` |
| F_b b | `Interaction.edge_filter` |
| F_e | `Interaction.edge_mlp` |
| F_d | `Interaction.node_filter` |
| w | `Interaction.self_weight` |
| F_n | `Interaction.node_mlp` |
| decoder | `decoder_in`, `decoder` |

Where the paper is silent the reference implementation decides. The defaults of
`ForceNetConfig` are the choices for dynamics; `ForceNetConfig.paper()` is the paper's form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forcenet_md.models.basis import BASES, EdgeBasis, scalar_basis
from forcenet_md.models.elements import N_TABLE, PROPERTIES, property_table, radius_table
from forcenet_md.models.envelope import Envelope
from forcenet_md.models.floor import FLOORS, make_floor
from forcenet_md.models.interface import MessagePassingModel, segment_sum

ABLATIONS = (
    "none",
    "no_filter",  # no F_d: x_t = Σ α F_e + w (paper: only-F_c)
    "no_condition",  # F_e sees the edge alone (no-node-emb)
    "no_radii",  # p is the distance alone
    "only_distance",  # no direction
    "edge_linear",  # F_e = Linear + BN
    "node_linear",  # F_n = Linear + BN
    "no_self",  # no w (no-m_t)
)
ACTIVATIONS = {"swish": nn.SiLU, "relu": nn.ReLU}
LEAST = {"hidden": 1, "n_layers": 1, "n_frequencies": 1, "n_hidden_edge": 0, "n_hidden_node": 0}
LEAST |= dict.fromkeys(("n_radial", "decoder_hidden", "neighbour_cap"), 1)
OPTIONAL = ("n_radial", "decoder_hidden", "neighbour_cap", "mean_neighbours")


@dataclass(frozen=True)
class ForceNetConfig:
    """Settings of one ForceNet.

    cutoff: Å
    n_radial: radial functions beside each spherical harmonic; None: one per distance feature
    n_hidden_edge, n_hidden_node: hidden layers of F_e and F_n
    node_features: 'properties' (nine atomic properties) or 'embedding' (by atomic number)
    norm: 'batch' (the paper's) or 'none'
    mean_neighbours: messages are divided by its square root; None: they are not
    neighbour_cap: at most so many nearest sources per target; None: no cap, as dynamics needs
    energy_head: the reference's auxiliary output, trained with weight 0; never an energy
    floor: 'zbl' keeps a screened repulsion under the network (models/floor.py), which ends at
        floor_outer times the sum of both covalent radii; 'none': as in the paper
    """

    hidden: int = 128
    n_layers: int = 2
    cutoff: float = 6.0
    edge_basis: str = "spherical"
    n_frequencies: int = 50
    n_radial: int | None = None
    n_hidden_edge: int = 2
    n_hidden_node: int = 1
    activation: str = "swish"
    node_features: str = "properties"
    ablation: str = "none"
    decoder: str = "mlp"
    decoder_hidden: int | None = None
    decoder_activation: str = "swish"
    envelope: str = "smooth_cosine"
    clamp: bool = False
    norm: str = "none"
    mean_neighbours: float | None = 40.0
    neighbour_cap: int | None = None
    energy_head: bool = False
    floor: str = "none"
    floor_outer: float = 0.8

    def __post_init__(self) -> None:
        for value, allowed in (
            (self.edge_basis, BASES),
            (self.ablation, ABLATIONS),
            (self.activation, tuple(ACTIVATIONS)),
            (self.decoder_activation, tuple(ACTIVATIONS)),
            (self.node_features, ("properties", "embedding")),
            (self.decoder, ("mlp", "linear")),
            (self.norm, ("batch", "none")),
            (self.floor, FLOORS),
        ):
            if value not in allowed:
                raise ValueError(f"{value!r} is unknown: use one of {', '.join(allowed)}")
        for name, least in LEAST.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and value >= least) and not (value is None and name in OPTIONAL):
                raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
        for name in ("cutoff", "mean_neighbours", "floor_outer"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and 0.0 < value < inf) and not (value is None and name in OPTIONAL):
                raise ValueError(f"{name} must be a positive number, not {value!r}")

    @classmethod
    def paper(cls, **changes: Any) -> ForceNetConfig:
        """The paper's ForceNet (512 wide, 5 layers), its cap, clamp, envelope and batch norm."""
        config = cls(
            hidden=512,
            n_layers=5,
            envelope="cosine",
            clamp=True,
            norm="batch",
            mean_neighbours=None,
            neighbour_cap=50,
            energy_head=True,
        )
        return replace(config, **changes)


def mlp(
    n_in: int, hidden: int, n_out: int, n_hidden: int, act: nn.Module, norm: bool
) -> nn.Sequential:
    """Linear, then n_hidden × ([BN,] act, Linear)."""
    layers: list[nn.Module] = [nn.Linear(n_in, hidden if n_hidden else n_out)]
    for i in range(n_hidden):
        if norm:
            layers.append(nn.BatchNorm1d(hidden))
        layers += [act, nn.Linear(hidden, hidden if i < n_hidden - 1 else n_out)]
    return nn.Sequential(*layers)


def linear_at(layers: nn.Sequential, i: int) -> nn.Linear:
    layer = layers[i]
    assert isinstance(layer, nn.Linear)
    return layer


class Interaction(nn.Module):
    """One message-passing layer: h ← h + F_n(Σ_s α F_e(ε, h_s, h_t) ⊙ F_d h_s + w ⊙ F_d h_t)."""

    def __init__(self, config: ForceNetConfig, n_basis: int) -> None:
        super().__init__()
        d, ablation = config.hidden, config.ablation
        act = ACTIVATIONS[config.activation]()
        self.conditioned = ablation != "no_condition"
        self.filtered = ablation != "no_filter"
        # The paper's None: the features are concatenated as they are, without F_b.
        self.edge_filter = nn.Linear(n_basis, d) if config.edge_basis != "none" else None
        n_edge = d if self.edge_filter is not None else n_basis
        n_in = n_edge + (2 * d if self.conditioned else 0)
        if ablation == "edge_linear":
            # Linear + BN; without BN (as new models are) a single Linear.
            self.edge_mlp = mlp(n_in, d, d, 0, act, norm=False)
            if config.norm == "batch":
                self.edge_mlp.append(nn.BatchNorm1d(d))
        else:
            self.edge_mlp = mlp(n_in, d, d, config.n_hidden_edge, act, norm=False)
        self.node_filter = nn.Linear(d, d) if self.filtered else None
        self.self_weight = nn.Parameter(torch.empty(1, d)) if ablation != "no_self" else None
        n_hidden_node = 0 if ablation == "node_linear" else config.n_hidden_node
        self.node_mlp = mlp(d, d, d, n_hidden_node, act, norm=config.norm == "batch")
        if ablation == "node_linear" and config.norm == "batch":
            self.node_mlp.append(nn.BatchNorm1d(d))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        if self.self_weight is not None:
            nn.init.xavier_uniform_(self.self_weight)

    def edge_weights(self) -> tuple[Tensor, Tensor]:
        """The first Linear of F_e after F_b, as one matrix on the basis: ([D, n_basis], [D])."""
        first = linear_at(self.edge_mlp, 0)
        if self.edge_filter is None:
            return first.weight[:, : self.n_edge_columns()], first.bias
        w_e = first.weight[:, : self.n_edge_columns()]
        return w_e @ self.edge_filter.weight, w_e @ self.edge_filter.bias + first.bias

    def n_edge_columns(self) -> int:
        first = linear_at(self.edge_mlp, 0)
        return first.in_features - (2 * first.out_features if self.conditioned else 0)

    def filters(self, h: Tensor, source: Tensor, target: Tensor, basis: Tensor) -> Tensor:
        """F_e [n_edges, D], without α. The first Linear acts on a concatenation, so it is split
        into an edge part and two node parts that are applied before the gather."""
        weight, bias = self.edge_weights()
        z = F.linear(basis, weight, bias)
        if self.conditioned:
            d, n = h.shape[1], self.n_edge_columns()
            w_node = linear_at(self.edge_mlp, 0).weight[:, n:]
            z.add_(F.linear(h, w_node[:, :d]).index_select(0, source))
            z.add_(F.linear(h, w_node[:, d:]).index_select(0, target))
        return self.edge_mlp[1:](z)

    def forward(
        self, h: Tensor, source: Tensor, target: Tensor, basis: Tensor, alpha: Tensor, n_owned: int
    ) -> Tensor:
        messages = self.filters(h, source, target, basis).mul_(alpha)
        y = h if self.node_filter is None else self.node_filter(h)
        if self.filtered:
            messages = messages * y.index_select(0, source)
        x = segment_sum(messages, target, n_owned)
        if self.self_weight is not None:
            x = x + (self.self_weight * y[:n_owned] if self.filtered else self.self_weight)
        return h[:n_owned] + self.node_mlp(x)


class ForceNet(MessagePassingModel):
    """Forces from species and edges; see `models/interface.py` for the stages."""

    properties: Tensor

    def __init__(self, config: ForceNetConfig) -> None:
        super().__init__()
        self.config = config
        self.n_layers = config.n_layers
        self.cutoff = config.cutoff
        d = config.hidden
        act = ACTIVATIONS[config.activation]()
        if config.node_features == "embedding":
            self.embedding: nn.Module = nn.Embedding(N_TABLE - 1, d)
        else:
            self.register_buffer("properties", torch.from_numpy(property_table()))
            basis = scalar_basis(config.edge_basis, len(PROPERTIES), config.n_frequencies, act)
            self.embedding = nn.Sequential(basis, nn.Linear(basis.n_out, d))
        self.basis = EdgeBasis(
            config.edge_basis,
            config.cutoff,
            torch.from_numpy(radius_table()),
            config.n_frequencies,
            config.n_radial,
            act,
            use_direction=config.ablation != "only_distance",
            use_radii=config.ablation != "no_radii",
            clamp=config.clamp,
        )
        self.envelope = Envelope(config.envelope, config.cutoff)
        self.message_scale = 1.0 if config.mean_neighbours is None else config.mean_neighbours**-0.5
        self.interactions = nn.ModuleList(
            Interaction(config, self.basis.n_out) for _ in range(config.n_layers)
        )
        p = config.decoder_hidden or d
        decoder_act = ACTIVATIONS[config.decoder_activation]()
        self.activation = act
        self.decoder_in = nn.Linear(d, p)
        self.decoder = (
            nn.Sequential(nn.Linear(p, 3))
            if config.decoder == "linear"
            else mlp(p, p, 3, 1, decoder_act, norm=config.norm == "batch")
        )
        for module in self.decoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.energy_head = nn.Linear(p, 1) if config.energy_head else None
        self.floor = make_floor(config.floor, config.cutoff, config.floor_outer)

    def embed(self, species: Tensor) -> Tensor:
        if self.config.node_features == "embedding":
            return self.embedding(species)
        return self.embedding(self.properties.index_select(0, species))

    def edge_basis(self, species: Tensor, source: Tensor, target: Tensor, vector: Tensor) -> Tensor:
        """[n_edges, n_basis + 1]: the basis and, in the last column, α times the scale."""
        alpha = self.envelope(torch.linalg.vector_norm(vector, dim=1)) * self.message_scale
        return torch.cat([self.basis(species, source, target, vector), alpha.unsqueeze(1)], dim=1)

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
        return self.interactions[k](h, source, target, basis[:, :-1], basis[:, -1:], n_owned)

    def decode(self, h: Tensor) -> Tensor:
        """g [n_atoms, P], the decoder's input."""
        return self.activation(self.decoder_in(h))

    def readout(self, h: Tensor, species: Tensor) -> dict[str, Tensor]:
        """{"forces": [n_atoms, 3]} and, of the reference's auxiliary head, "auxiliary" [n_atoms]
        (sum it per structure; it is no energy)."""
        g = self.decode(h)
        out = {"forces": self.decoder(g)}
        if self.energy_head is not None:
            out["auxiliary"] = F.linear(g, self.energy_head.weight)[:, 0]
        return out

    def pair_forces(
        self, species: Tensor, source: Tensor, target: Tensor, vector: Tensor, n_owned: int
    ) -> Tensor:
        return self.floor(species, source, target, vector, n_owned)
