"""Several structures as one graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forcenet_md.graph.edges import Edges


@dataclass(frozen=True, slots=True)
class Batch:
    """species [n_atoms] int64; source, target [n_edges] int32; vector [n_edges, 3]"""

    species: Tensor
    source: Tensor
    target: Tensor
    vector: Tensor


def collate(
    parts: Sequence[tuple[NDArray[np.int64], Edges]], device: torch.device, dtype: torch.dtype
) -> Batch:
    """Put (numbers, edges) of each structure behind one another; edges stay sorted by target."""
    if len(parts) == 1:
        numbers, edges = parts[0]
        source, target, vector = edges.source, edges.target, edges.vector
    else:
        numbers = np.concatenate([n for n, _ in parts])
        offset = np.cumsum([0, *(len(n) for n, _ in parts[:-1])], dtype=np.int32)
        source = np.concatenate([e.source + o for (_, e), o in zip(parts, offset, strict=True)])
        target = np.concatenate([e.target + o for (_, e), o in zip(parts, offset, strict=True)])
        vector = np.concatenate([e.vector for _, e in parts])
    return Batch(
        torch.from_numpy(numbers).to(device),
        torch.from_numpy(source).to(device),
        torch.from_numpy(target).to(device),
        torch.from_numpy(vector).to(device=device, dtype=dtype),
    )
