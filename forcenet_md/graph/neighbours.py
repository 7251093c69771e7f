"""The neighbour list: a search with a skin, used again until atoms have moved half of it.

A Verlet list (Allen and Tildesley, Computer Simulation of Liquids, chapter 5): pairs within
cutoff + skin are kept from step to step, and filtered to the cutoff at each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forcenet_md.graph.capacity import check_capacity, count_pairs
from forcenet_md.graph.cutoff import CutoffFilter
from forcenet_md.graph.edges import Edges, keep_nearest
from forcenet_md.graph.frame import Array, Frame, Placement
from forcenet_md.graph.search import Candidates, search
from forcenet_md.system import System

MAX_EDGES = 50_000_000
# The search reaches farther by this, so that its own rounding loses no pair, Å.
SLACK = 1e-5


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
        self._reference: Reference | None = None
        self._filter: CutoffFilter | None = None

    def update(self, system: System) -> Edges:
        """The edges of this step, in arrays of their own.

        Raises TooManyEdgesError before the search allocates, and StructureError when two atoms
        lie on one point.
        """
        positions = None if self._reference is None else self._reference.near(system)
        if positions is None or self._filter is None:
            self._filter = None  # its memory goes before the search takes its own
            self._reference = None
            positions, candidates = self._search(system)
            self._filter = CutoffFilter(candidates, self.cutoff)
        edges = self._filter(positions)
        return edges if self.cap is None else keep_nearest(edges, self.cap, system.n_atoms)

    def _search(self, system: System) -> tuple[Array, Candidates]:
        """The new reference positions and the candidates there."""
        self.rebuilds += 1
        reach = self.cutoff + self.skin + SLACK
        reference, placement = Reference.of(system, self.skin, reach)
        check_capacity(placement, reach, self.max_edges)
        candidates = search(placement, reference.frame, reach)
        self._reference = reference
        return reference.positions, candidates


@dataclass(frozen=True, slots=True)
class Reference:
    """Where atoms were at a search, and whether it still holds.

    positions: [n_atoms, 3] Å, wrapped; skin: Å
    """

    frame: Frame
    numbers: NDArray[np.int64]
    positions: Array
    skin: float

    @classmethod
    def of(cls, system: System, skin: float, reach: float) -> tuple[Reference, Placement]:
        """With the placement for the search within reach Å."""
        frame = Frame.of(system)
        placement = Placement.of(system.positions, frame, reach)
        return cls(frame, system.numbers.copy(), placement.wrapped, skin), placement

    def near(self, system: System) -> Array | None:
        """Positions as images nearest to the reference, or None when a new search is due."""
        if not self.frame.fits(system) or not np.array_equal(self.numbers, system.numbers):
            return None
        positions = self.frame.nearest_images(system.positions, self.positions)
        moved = positions - self.positions
        farthest = np.einsum("ij,ij->i", moved, moved).max(initial=0.0)
        return positions if farthest <= (0.5 * self.skin) ** 2 else None


def build_edges(
    system: System, cutoff: float, cap: int | None = None, max_edges: int = MAX_EDGES
) -> Edges:
    """The edges of one System, searched once; as NeighbourList.update otherwise."""
    return NeighbourList(cutoff, skin=0.0, max_edges=max_edges, cap=cap).update(system)


def has_no_edges(system: System, cutoff: float) -> bool:
    """Whether there are no edges; costs no search, and no import of torch, which vesin brings."""
    reach = cutoff + SLACK
    placement = Placement.of(system.positions, Frame.of(system), reach)
    return count_pairs(placement, reach, MAX_EDGES) == 0
