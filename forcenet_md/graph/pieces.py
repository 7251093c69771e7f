"""A rank's graph in pieces: some of its atoms with their pairs and the rows that they read.

Pieces whose pairs reach no ghost can be computed while the exchange is under way; and in a large
system a piece bounds the memory of the search and of the edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forcenet_md.graph.capacity import check_capacity
from forcenet_md.graph.domains import bisect
from forcenet_md.graph.frame import Array, Frame, Placement
from forcenet_md.graph.ghosts import Rows, Surroundings
from forcenet_md.graph.neighbours import MAX_EDGES
from forcenet_md.graph.search import Candidates

MOST_PAIRS = 1000  # of a point
MOST_TARGETS = 8192  # of a piece; the basis of their edges is some hundred MB
FREE = Frame(np.eye(3), np.eye(3), np.ones(3), np.zeros(3, dtype=np.bool_))


@dataclass(frozen=True, slots=True)
class Piece:
    """Some atoms and what they see.

    rows: [n_rows] of the domain, the n_targets that are computed first
    pairs: within reach, in the piece's own rows; shifts are to be filled (`Division.shifts`)
    points: [n_images] of the surroundings, one for each image of the pairs
    ghosts: whether a source is a ghost
    depth: how many layers of neighbours lie between the targets and the rank's own atoms
    """

    rows: Rows
    n_targets: int
    pairs: Candidates
    points: Rows
    ghosts: bool
    depth: int


@dataclass(frozen=True, slots=True)
class Division:
    """A rank's graph: rows are its atoms, then its ghosts in the order of (rank, row).

    home: [n_rows] the point of the surroundings that a row's position is that of
    ghost_rank, ghost_row: [n_ghosts] where a ghost's atom is a row of its own
    row_of: [n_points] the row of each point, −1 for those that no atom sees
    layers: of neighbours whose atoms are computed here; 1 means that ghosts are exchanged
    """

    around: Surroundings
    pieces: list[Piece]
    home: Rows
    ghost_rank: Rows
    ghost_row: Rows
    row_of: Rows
    layers: int

    @property
    def n_owned(self) -> int:
        return self.around.n_owned

    @property
    def n_pairs(self) -> int:
        """Of all pieces, within reach."""
        return sum(len(piece.pairs.target) for piece in self.pieces)

    def shifts(self, piece: Piece, points: Array) -> Array:
        """From the rows to the piece's images [n_images, 3] Å; points: where the points lie."""
        rows = piece.rows[piece.pairs.atom]
        return points[piece.points] - points[self.home[rows]]


def divide(
    around: Surroundings,
    reach: float,
    rank: int,
    layers: int = 1,
    max_edges: int | None = None,
) -> Division:
    """The pairs within reach Å of a rank's atoms, and of ghosts up to layers − 1 pairs away.

    max_edges: bound on the pairs of a piece, `most_pairs` if None. Raises TooManyEdgesError.
    """
    n_owned = around.n_owned
    key = around.rank * (int(around.row.max(initial=0)) + 1) + around.row
    own = around.rank == rank
    row_of = np.where(own, around.row, -1)
    targets = np.arange(n_owned)  # points
    level: list[tuple[Rows, Rows, Rows, int]] = []  # targets, pairs of points, depth
    known = np.unique(key[:n_owned])
    homes = [targets]
    for depth in range(layers):
        seen = np.zeros(around.n_points, dtype=bool)
        for chunk in chunks(around.positions, targets):
            target, point = pairs_of(around, chunk, reach, max_edges)
            seen[point] = True
            level.append((chunk, target, point, depth))
        keys, first = np.unique(key[seen], return_index=True)
        new = ~np.isin(keys, known)
        targets = np.flatnonzero(seen)[first[new]]
        known = np.union1d(known, keys)
        homes.append(targets)
    ghosts = np.concatenate(homes[1:])
    ghosts = ghosts[np.argsort(key[ghosts])]
    if len(ghosts):
        at = np.minimum(np.searchsorted(key[ghosts], key), len(ghosts) - 1)
        found = ~own & (key[ghosts][at] == key)
        row_of = np.where(found, n_owned + at, row_of)
    home = np.concatenate([np.arange(n_owned), ghosts])
    pieces = []
    for chunk, target, point, depth in level:
        # what needs no exchange apart from what does; without an exchange all together
        outside = np.zeros(around.n_points, dtype=bool)
        outside[target[~own[point]]] = True
        for needs in (False, True):
            some = chunk[outside[chunk] == needs]
            if len(some):
                kept = outside[target] == needs
                pieces.append(_piece(some, target[kept], point[kept], row_of, needs, depth))
    pieces.sort(key=lambda piece: (piece.depth, piece.ghosts))
    return Division(around, pieces, home, around.rank[ghosts], around.row[ghosts], row_of, layers)


def most_pairs(n_points: int) -> int:
    """How many may be searched where the user gave no bound."""
    return max(MAX_EDGES, MOST_PAIRS * n_points)


def chunks(positions: Array, targets: Rows) -> list[Rows]:
    """Targets in bricks of at most MOST_TARGETS."""
    n_chunks = -(-len(targets) // MOST_TARGETS)
    if n_chunks <= 1:
        return [targets] if n_chunks else []
    part = bisect(positions[targets], n_chunks)
    order = np.argsort(part, kind="stable")
    return np.split(targets[order], np.cumsum(np.bincount(part, minlength=n_chunks))[:-1])


def pairs_of(
    around: Surroundings, targets: Rows, reach: float, max_edges: int | None = None
) -> tuple[Rows, Rows]:
    """The pairs (target, source), both points, within reach Å, by target, id and shift.

    max_edges: see `divide`
    """
    import vesin  # imports torch, which takes seconds: not before there is something to search

    x = around.positions
    low, high = x[targets].min(axis=0) - reach, x[targets].max(axis=0) + reach
    near = ((x >= low) & (x <= high)).all(axis=1)
    near[targets] = False
    points = np.concatenate([targets, np.flatnonzero(near)])
    n_points, n_targets = len(points), len(targets)
    placement = Placement.of(x[points], FREE, reach)
    check_capacity(placement, reach, max_edges or most_pairs(n_points))
    searcher = vesin.NeighborList(cutoff=reach, full_list=False, sorted=False, n_threads=1)
    (pairs,) = searcher.compute(
        placement.tight, placement.box, np.ones(3, dtype=bool), "P", copy=False
    )
    shift = around.shift[points]
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], around.ids[points]))
    place = np.empty(n_points, np.int64)
    place[order] = np.arange(n_points)
    both = []
    for first, second in ((0, 1), (1, 0)):
        wanted = pairs[:, first] < n_targets
        # One number orders a pair; sorting numbers is the fastest sort.
        key = pairs[wanted, first].astype(np.int64) * n_points
        both.append(key + place[pairs[wanted, second].astype(np.int64)])
    keys = np.concatenate(both)
    keys.sort()
    target, source = np.divmod(keys, n_points)
    return points[target], points[order[source]]


def _piece(
    targets: Rows, target: Rows, point: Rows, row_of: Rows, ghosts: bool, depth: int
) -> Piece:
    """targets, target, point: points."""
    seen = np.zeros(len(row_of), dtype=bool)
    seen[point] = True
    points = np.flatnonzero(seen)
    image = np.zeros(len(row_of), np.int32)
    image[points] = np.arange(len(points), dtype=np.int32)
    own, sources = row_of[targets], row_of[points]
    rows = np.concatenate([own, np.setdiff1d(sources, own)])
    place = np.zeros(int(rows.max(initial=0)) + 1, np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    pairs = Candidates(
        image[point], place[row_of[target]], place[sources], np.empty((len(points), 3))
    )
    return Piece(rows, len(targets), pairs, points, ghosts, depth)
