"""Edges of one System, and the neighbour cap of imported models."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

# Distances closer than this are a tie of the cap, decided by source and then by shift.
TIE = 1e-6


@dataclass(frozen=True, slots=True)
class Edges:
    """Directed edges, sorted by target, then source, then lattice shift S (lexicographic).

    source, target: [n_edges] int32
    vector: [n_edges, 3] float64, x_source − x_target + S·cell, Å
    shortest: Å, of all edges; infinity where it is not known to be less than the cutoff
    """

    source: NDArray[np.int32]
    target: NDArray[np.int32]
    vector: NDArray[np.float64]
    shortest: float = inf

    @property
    def n_edges(self) -> int:
        return len(self.source)


def keep_nearest(edges: Edges, cap: int, n_atoms: int) -> Edges:
    """At most `cap` nearest sources of each target, in the same order.

    Distances are rounded to 1e-6 Å; equal ones are taken in the order of the edges.
    """
    counts = np.bincount(edges.target, minlength=n_atoms)
    most = int(counts.max(initial=0))
    if most <= cap:
        return edges
    crowded = np.flatnonzero(counts > cap)
    first = np.cumsum(counts) - counts
    place = np.arange(most)
    distance = np.linalg.norm(edges.vector, axis=1)
    keep = np.ones(edges.n_edges, dtype=bool)
    # blocks of targets bound the padded table; its keys are unique, so the cap is exact
    block = max(1, 2**20 // most)
    for start in range(0, len(crowded), block):
        targets = crowded[start : start + block]
        inside = place < counts[targets, None]
        rows = np.minimum(first[targets, None] + place, edges.n_edges - 1)
        keys = np.rint(distance[rows] / TIE).astype(np.int64) * most + place
        keys[~inside] = np.iinfo(np.int64).max
        last = np.partition(keys, cap - 1, axis=1)[:, cap - 1, None]
        keep[rows[inside]] = (keys <= last)[inside]
    return Edges(edges.source[keep], edges.target[keep], edges.vector[keep], edges.shortest)
