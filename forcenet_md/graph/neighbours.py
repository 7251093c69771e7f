"""The neighbour list: a search with a skin, used again until atoms have moved half of it.

vesin searches (Verlet list as in Allen and Tildesley, Computer Simulation of Liquids, ch. 5);
what it finds is packed, and every step is filtered from it to the cutoff.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import vesin
from numpy.typing import NDArray

from forcenet_md.errors import StructureError
from forcenet_md.graph.capacity import check_capacity
from forcenet_md.graph.edges import Edges, keep_nearest
from forcenet_md.graph.frame import Array, Frame, Placement
from forcenet_md.system import System

# About 100 bytes of memory for each while the search runs, 8 afterwards.
MAX_EDGES = 50_000_000
# Two atoms closer than this have no direction from one to the other, Å.
COINCIDENT = 1e-6
# The search reaches farther by this, so that its own rounding loses no pair, Å.
SLACK = 1e-5
# Candidates filtered at a time: their work arrays stay in the processor's cache.
CHUNK = 2**14


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs within cutoff and skin, in the order of Edges, 8 bytes each and 28 per image.

    An image is one atom seen through one lattice shift.

    image, target: [n_pairs] int32, rows of the images and of the atoms
    atom: [n_images] int32; shift: [n_images, 3] float64, Å, S·cell
    """

    image: NDArray[np.int32]
    target: NDArray[np.int32]
    atom: NDArray[np.int32]
    shift: Array


class NeighbourList:
    """The edges of one simulation, from step to step.

    cutoff, skin: Å. max_edges: bound on the pairs within cutoff + skin.
    cap: at most so many nearest sources per target (imported models), or None.

    Kept between steps: 8 bytes per pair within cutoff + skin, 28 per image of an atom and 32 per
    atom. `rebuilds` counts the searches.
    """

    def __init__(
        self, cutoff: float, skin: float = 0.5, max_edges: int = MAX_EDGES, cap: int | None = None
    ) -> None:
        if not (cutoff > 0.0 and np.isfinite(cutoff) and skin >= 0.0 and np.isfinite(skin)):
            raise ValueError(f"cutoff {cutoff} must be positive, skin {skin} not negative")
        if cap is not None and cap < 1:
            raise ValueError(f"a neighbour cap of {cap} leaves no neighbour")
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self.max_edges = max_edges
        self.cap = cap
        self.rebuilds = 0
        self._frame: Frame | None = None
        self._numbers: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._reference: Array = np.empty((0, 3))
        self._filter: CutoffFilter | None = None

    def update(self, system: System) -> Edges:
        """The edges of this step, in arrays of their own.

        Raises TooManyEdgesError before the search allocates, and StructureError when two atoms
        lie on one point.
        """
        positions = None if self._filter is None else self._positions_near_reference(system)
        if positions is None or self._filter is None:
            self._filter = None  # its memory goes before the search takes its own
            positions, candidates = self._search(system)
            self._filter = CutoffFilter(candidates, self.cutoff)
        edges = self._filter(positions)
        return edges if self.cap is None else keep_nearest(edges, self.cap, system.n_atoms)

    def _positions_near_reference(self, system: System) -> Array | None:
        """Positions as images nearest to the reference, or None when a new search is due."""
        if self._frame is None or not self._frame.fits(system):
            return None
        if not np.array_equal(self._numbers, system.numbers):
            return None
        positions = self._frame.nearest_images(system.positions, self._reference)
        moved = positions - self._reference
        farthest = np.einsum("ij,ij->i", moved, moved).max(initial=0.0)
        return positions if farthest <= (0.5 * self.skin) ** 2 else None

    def _search(self, system: System) -> tuple[Array, Candidates]:
        """The new reference positions and the candidates there."""
        self._frame = Frame.of(system)
        self._numbers = system.numbers.copy()
        self.rebuilds += 1
        if system.n_atoms == 0:
            self._reference = np.empty((0, 3))
            return self._reference, _no_candidates()
        reach = self.cutoff + self.skin + SLACK
        placement = Placement.of(system.positions, self._frame, reach)
        check_capacity(placement, reach, self.max_edges)
        self._reference = placement.wrapped
        return self._reference, search(placement, self._frame, reach)


def build_edges(
    system: System, cutoff: float, cap: int | None = None, max_edges: int = MAX_EDGES
) -> Edges:
    """The edges of one System, searched once; as NeighbourList.update otherwise."""
    return NeighbourList(cutoff, skin=0.0, max_edges=max_edges, cap=cap).update(system)


def search(placement: Placement, frame: Frame, reach: float) -> Candidates:
    """All pairs within reach Å, in canonical order."""
    n = len(placement.tight)
    # Open directions end in a gap, so vesin may take every direction as periodic; where it is
    # told that one is not, it tries all cells along it (minutes for a long chain in a thin cell).
    searcher = vesin.NeighborList(cutoff=reach, full_list=True, sorted=False, n_threads=1)
    pairs, shifts = searcher.compute(
        placement.tight, placement.box, np.ones(3, dtype=bool), "PS", copy=False
    )
    if len(pairs) == 0:
        return _no_candidates()
    low = shifts.min(axis=0).astype(np.int64)
    span = shifts.max(axis=0) - low + 1
    n_shifts = int(np.prod(span))
    # One number orders a pair by target, source, shift; sorting numbers is the fastest sort.
    key = pairs[:, 0].astype(np.int64)
    key *= n
    key += pairs[:, 1].astype(np.int64)
    for k in range(3):
        key *= span[k]
        key += shifts[:, k] - low[k]
    del pairs, shifts, searcher  # views of vesin's memory, and the memory
    key.sort()
    target = (key // (n * n_shifts)).astype(np.int32)
    key %= n * n_shifts
    seen = np.zeros(n * n_shifts, dtype=bool)
    seen[key] = True
    codes = np.flatnonzero(seen)
    row = np.zeros(n * n_shifts, dtype=np.int32)
    row[codes] = np.arange(len(codes), dtype=np.int32)
    atom = (codes // n_shifts).astype(np.int32)
    shift = np.stack(np.unravel_index(codes % n_shifts, span), axis=1) + low
    return Candidates(row[key], target, atom, shift @ frame.rows)


class CutoffFilter:
    """Takes the pairs within a cutoff out of the candidates.

    The work arrays (45 bytes per pair of a chunk) are kept: fresh ones at every step cost more
    than the arithmetic, in page faults.
    """

    def __init__(self, candidates: Candidates, cutoff: float) -> None:
        self.candidates = candidates
        self.cutoff = cutoff
        size = min(CHUNK, len(candidates.target))
        self._floats = np.empty((5, size))
        self._rows = np.empty(size, dtype=np.int32)
        self._near = np.empty(size, dtype=bool)

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
        return Edges(source[:n_edges], target[:n_edges], vector[:n_edges])

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
        if squared.min() < COINCIDENT**2:
            pair = int(squared.argmin())
            a, b = sorted((int(at[pair]) + 1, int(self.candidates.atom[image[pair]]) + 1))
            raise StructureError(
                f"atoms {a} and {b} lie on one point ({squared[pair] ** 0.5:.1e} Å apart): no"
                " force has a direction there; remove one of them or mend the structure."
            )
        return np.flatnonzero(np.less_equal(squared, self.cutoff**2, out=self._near[: len(at)]))


def _no_candidates() -> Candidates:
    none = np.empty(0, dtype=np.int32)
    return Candidates(none, none, none, np.empty((0, 3)))
