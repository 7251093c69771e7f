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
CHUNK = 2**15


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
        self._candidates: Candidates | None = None

    def update(self, system: System) -> Edges:
        """The edges of this step, in arrays of their own.

        Raises TooManyEdgesError before the search allocates, and StructureError when two atoms
        lie on one point.
        """
        positions = self._positions_near_reference(system)
        if positions is None or self._candidates is None:
            self._candidates = None
            positions = self._search(system)
            assert self._candidates is not None
        edges = within_cutoff(self._candidates, positions, self.cutoff)
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

    def _search(self, system: System) -> Array:
        """New candidates; returns the positions they refer to."""
        self._frame = Frame.of(system)
        self._numbers = system.numbers.copy()
        self.rebuilds += 1
        if system.n_atoms == 0:
            self._reference = np.empty((0, 3))
            self._candidates = _no_candidates()
            return self._reference
        reach = self.cutoff + self.skin + SLACK
        placement = Placement.of(system.positions, self._frame, reach)
        check_capacity(placement, reach, self.max_edges)
        self._reference = placement.wrapped
        self._candidates = search(placement, self._frame, reach)
        return self._reference


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


def within_cutoff(candidates: Candidates, positions: Array, cutoff: float) -> Edges:
    """The candidates that are within the cutoff at these positions [n_atoms, 3].

    Raises StructureError when two atoms lie on one point.
    """
    atoms = np.ascontiguousarray(positions.T)
    images = atoms[:, candidates.atom] + candidates.shift.T
    parts = []
    for start in range(0, max(1, len(candidates.target)), CHUNK):
        image = candidates.image[start : start + CHUNK]
        target = candidates.target[start : start + CHUNK]
        x, y, z = (images[k].take(image) - atoms[k].take(target) for k in range(3))
        squared = x * x
        squared += y * y
        squared += z * z
        if squared.min(initial=np.inf) < COINCIDENT**2:
            at = int(squared.argmin())
            a, b = sorted((int(target[at]) + 1, int(candidates.atom[image[at]]) + 1))
            raise StructureError(
                f"atoms {a} and {b} lie on one point ({squared[at] ** 0.5:.1e} Å apart): no force"
                " has a direction there; remove one of them or mend the structure."
            )
        keep = np.flatnonzero(squared <= cutoff * cutoff)
        vector = np.empty((len(keep), 3))
        for k, component in enumerate((x, y, z)):
            vector[:, k] = component.take(keep)
        parts.append((candidates.atom.take(image.take(keep)), target.take(keep), vector))
    if len(parts) == 1:
        return Edges(*parts[0])
    return Edges(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _no_candidates() -> Candidates:
    none = np.empty(0, dtype=np.int32)
    return Candidates(none, none, none, np.empty((0, 3)))
