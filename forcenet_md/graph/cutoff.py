"""From the candidates of a search to the edges of one step."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import StructureError
from forcenet_md.graph.edges import Edges
from forcenet_md.graph.frame import Array
from forcenet_md.graph.search import Candidates

# Two atoms closer than this have no direction from one to the other, Å.
COINCIDENT = 1e-6
# Candidates filtered at a time: their work arrays stay in the processor's cache.
CHUNK = 2**14


class CutoffFilter:
    """Takes the pairs within a cutoff out of the candidates.

    The work arrays (45 bytes per pair of a chunk) are kept: fresh ones at every step cost more
    than the arithmetic, in page faults.
    """

    def __init__(
        self, candidates: Candidates, cutoff: float, ids: NDArray[np.int64] | None = None
    ) -> None:
        """ids: [n_atoms] what the atoms are called, if not by their rows from 1."""
        self.candidates = candidates
        self.cutoff = cutoff
        self._ids = ids
        size = min(CHUNK, len(candidates.target))
        self._floats = np.empty((5, size))
        self._rows = np.empty(size, dtype=np.int32)
        self._near = np.empty(size, dtype=bool)
        self._shortest = inf  # squared, Å²

    def __call__(self, positions: Array) -> Edges:
        """The edges at these positions [n_atoms, 3], in arrays of their own.

        Raises StructureError when two atoms lie on one point.
        """
        pairs = self.candidates
        atoms = np.ascontiguousarray(positions.T)
        images = atoms.take(pairs.atom, axis=1)
        images += pairs.shift.T
        n_pairs = len(pairs.target)
        source, target = np.empty(n_pairs, np.int32), np.empty(n_pairs, np.int32)
        vector = np.empty((n_pairs, 3))
        n_edges = 0
        self._shortest = inf
        for start in range(0, n_pairs, CHUNK):
            chunk = slice(start, start + CHUNK)
            image, at = pairs.image[chunk], pairs.target[chunk]
            near = self._differences(images, image, atoms, at)
            kept = slice(n_edges, n_edges + len(near))
            spare = self._floats[4, : len(near)]
            for k in range(3):
                vector[kept, k] = self._floats[k].take(near, out=spare, mode="clip")
            rows = image.take(near, out=self._rows[: len(near)], mode="clip")
            pairs.atom.take(rows, out=source[kept], mode="clip")
            at.take(near, out=target[kept], mode="clip")
            n_edges = kept.stop
        return Edges(source[:n_edges], target[:n_edges], vector[:n_edges], sqrt(self._shortest))

    def _differences(
        self, images: Array, image: NDArray[np.int32], atoms: Array, at: NDArray[np.int32]
    ) -> NDArray[np.intp]:
        """Leaves image − atom in the first three work arrays; returns the rows within cutoff."""
        *difference, squared, spare = self._floats[:, : len(at)]
        squared.fill(0.0)
        for k, component in enumerate(difference):
            # mode="clip" lets take write to `out` without a copy; the indices are in range
            images[k].take(image, out=component, mode="clip")
            component -= atoms[k].take(at, out=spare, mode="clip")
            squared += np.multiply(component, component, out=spare)
        shortest = float(squared.min())
        self._shortest = min(self._shortest, shortest)
        if shortest < COINCIDENT**2:
            pair = int(squared.argmin())
            rows = int(at[pair]), int(self.candidates.atom[image[pair]])
            a, b = sorted(row + 1 if self._ids is None else int(self._ids[row]) for row in rows)
            raise StructureError(
                f"atoms {a} and {b} lie on one point ({squared[pair] ** 0.5:.1e} Å apart): no"
                " force has a direction there; remove one of them or mend the structure."
            )
        return np.flatnonzero(np.less_equal(squared, self.cutoff**2, out=self._near[: len(at)]))
