"""The edge bases of several ForceNets at once: what their weights do not enter is computed once.

The spherical basis is Y(u) ⊗ (W sine(p) + b): distances, sines and spherical harmonics are the same
for all members of a committee whose settings are, and their W are stacked into one matrix. That is
about a quarter of a small network's time, and nearly all of it is shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from forcenet_md.artifact.card import Card
from forcenet_md.artifact.fold import LAYOUT
from forcenet_md.inference.batch import Batch
from forcenet_md.models.basis import EdgeBasis, spherical_harmonics
from forcenet_md.models.envelope import Envelope
from forcenet_md.models.forcenet import ForceNetConfig

CHUNK = 2048  # edges whose sines are in the cache together; on a GPU all of them
SAME = ("edge_basis", "cutoff", "n_frequencies", "n_radial", "ablation", "clamp")
Weights = dict[str, Tensor]  # of a model file, by name


class SharedBasis:
    """The bases of members that `can_share`, for batches of the same edges."""

    def __init__(self, cards: Sequence[Card], weights: Sequence[Weights]) -> None:
        """weights: on their device and in their precision."""
        configs = [ForceNetConfig(**card.settings) for card in cards]
        config = configs[0]
        radii = weights[0]["basis.radii"]
        self._basis = EdgeBasis(
            config.edge_basis,
            config.cutoff,
            radii,
            config.n_frequencies,
            config.n_radial,
            torch.nn.Identity(),
            use_radii=config.ablation != "no_radii",
            clamp=config.clamp,
        ).to(radii)
        self._n_radial = self._basis.n_radial
        self._weight = torch.cat([w["basis.radial.weight"] for w in weights])
        self._bias = torch.cat([w["basis.radial.bias"] for w in weights])
        self._envelopes = [Envelope(each.envelope, each.cutoff) for each in configs]
        self._scales = [(each.mean_neighbours or 1.0) ** -0.5 for each in configs]

    def __call__(self, batch: Batch) -> Iterator[Tensor]:
        """For each member what its stage `edge_basis` gives, one after the other."""
        with torch.inference_mode():
            r = torch.linalg.vector_norm(batch.vector, dim=1)
            harmonics = spherical_harmonics(batch.vector / r.unsqueeze(1)).unsqueeze(2)
            p = self._basis.distances(r, batch.species, batch.source, batch.target)
            n_edges, width = len(r), self._n_radial
            radial = p.new_empty(n_edges, len(self._weight))
            chunk = n_edges if p.is_cuda else CHUNK
            for start in range(0, n_edges, max(chunk, 1)):
                part = slice(start, start + chunk)
                radial[part] = self._basis.scalar.linear(p[part], self._weight, self._bias)
            for k, (envelope, scale) in enumerate(zip(self._envelopes, self._scales, strict=True)):
                own = radial[:, k * width : (k + 1) * width].unsqueeze(1)
                alpha = envelope(r) * scale
                yield torch.cat([(harmonics * own).flatten(1), alpha.unsqueeze(1)], dim=1)


def can_share(cards: Sequence[Card]) -> bool:
    """Whether the members' bases differ by their weights alone, as far as their cards say."""
    configs = [_config(card) for card in cards]
    first = configs[0]
    return first is not None and all(
        config is not None
        and config.edge_basis == "spherical"
        and all(getattr(config, name) == getattr(first, name) for name in SAME)
        for config in configs
    )


def _config(card: Card) -> ForceNetConfig | None:
    if card.architecture != "forcenet" or card.layout_version != LAYOUT:
        return None
    try:
        return ForceNetConfig(**card.settings)
    except (TypeError, ValueError):  # of another version
        return None
