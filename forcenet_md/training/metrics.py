"""Force errors of a network in training, frame by frame and by the values of a column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from forcenet_md.errors import DataError
from forcenet_md.force_error import ForceError, force_error, pool
from forcenet_md.training.batches import NO_EPOCH, Item
from forcenet_md.training.graphs import Failed, GraphDataset, collate
from forcenet_md.training.loss import without_net_force
from forcenet_md.training.network import Network


@torch.no_grad()
def frame_errors(
    network: Network, graphs: GraphDataset, rows: Iterable[int], device: torch.device
) -> list[ForceError]:
    """Of each frame, over the atoms that are free.

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
        out.append(force_error(labels[b.free].cpu().numpy(), forces[b.free].cpu().numpy()))
    network.train(was_training)
    return out


def errors_by(errors: Sequence[ForceError], values: Sequence[Any]) -> dict[str, ForceError]:
    """Pooled errors by the value of each frame, in order of the values; missing ones ("", NaN)
    are left out."""
    groups: dict[Any, list[ForceError]] = defaultdict(list)
    for error, value in zip(errors, values, strict=True):
        if value != "" and value == value:
            groups[value].append(error)
    return {_text(value): pool(groups[value]) for value in sorted(groups)}


def _text(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
