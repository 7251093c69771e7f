"""What a rank computes and sends, counted with the code that ranks run, in one process.

A whole system: a thread for every rank, of which one runs at a time. One brick of a large block:
its neighbours own only the atoms that it may see, are asked for them one after the other, and the
brick is then divided with what they said. Forces are not computed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.scaling.lattice import Block, Bricks, Integers, sites_in
from benchmarks.scaling.model import Network
from forcenet_md.graph.cutoff import CutoffFilter
from forcenet_md.graph.domains import bisect
from forcenet_md.graph.exchange import make_plan
from forcenet_md.graph.frame import Array, Frame
from forcenet_md.graph.ghosts import surroundings
from forcenet_md.graph.neighbours import Reference
from forcenet_md.graph.pieces import Division, divide
from forcenet_md.inference.ranks import SKIN
from forcenet_md.mpi import One, Ranks
from forcenet_md.system import System

T = TypeVar("T")
COPPER = 29


@dataclass(frozen=True, slots=True)
class Count:
    """Of one rank.

    atoms: its own; points: images of atoms that it is told of, within reach of its box
    ghosts: rows that other ranks have for it; sent: rows that it has for others, −1 if not known
    messages: other ranks that it receives from
    rows, edges: atoms whose node rows are computed in each layer, and their edges within the cutoff
    search, filter: s of processor time for its pairs, and for the edges of a step
    """

    atoms: int
    points: int
    ghosts: int
    sent: int
    messages: int
    rows: tuple[int, ...]
    edges: tuple[int, ...]
    search: float
    filter: float


class Together(One):
    """A rank of several in one process, a thread each; it runs when it has the turn."""

    def __init__(self, rank: int, board: list[Any], all_here: threading.Barrier, turn: Any) -> None:
        self.rank = rank
        self.size = len(board)
        self._board, self._all_here, self._turn = board, all_here, turn

    def allgather(self, mine: Array) -> Array:
        return np.stack(self._tell(mine))

    def swap(self, out: Mapping[int, Any]) -> dict[int, Any]:
        told = self._tell(out)
        return {sender: what[self.rank] for sender, what in enumerate(told) if self.rank in what}

    def _tell(self, mine: Any) -> list[Any]:
        self._board[self.rank] = mine
        self._wait()
        told = list(self._board)
        self._wait()  # until all have read
        return told

    def _wait(self) -> None:
        self._turn.release()
        try:
            self._all_here.wait()
        finally:
            self._turn.acquire()


def together(n_ranks: int, work: Callable[[Ranks], T]) -> list[T]:
    """What `work` returns on each of n_ranks ranks. Raises the fault of one that has one."""
    board: list[Any] = [None] * n_ranks
    all_here, turn = threading.Barrier(n_ranks), threading.Lock()

    def run(rank: int) -> T:
        with turn:
            try:
                return work(Together(rank, board, all_here, turn))
            except BaseException:
                all_here.abort()  # nobody waits for this one
                raise

    with ThreadPoolExecutor(n_ranks) as pool:
        ranks = [pool.submit(run, rank) for rank in range(n_ranks)]
    faults = [fault for rank in ranks if (fault := rank.exception()) is not None]
    if faults:
        raise next(
            (x for x in faults if not isinstance(x, threading.BrokenBarrierError)), faults[0]
        )
    return [rank.result() for rank in ranks]


class Scripted(One):
    """A rank whose others are known beforehand: the bounds of all [ranks, 2, 3], and what the
    others tell it. What it would tell them is kept in `sent`."""

    def __init__(self, rank: int, bounds: Array, told: Mapping[int, Any]) -> None:
        self.rank = rank
        self.size = len(bounds)
        self.sent: Mapping[int, Any] = {}
        self._bounds, self._told = bounds, told

    def allgather(self, mine: Array) -> Array:
        return self._bounds

    def swap(self, out: Mapping[int, Any]) -> dict[int, Any]:
        self.sent = out
        own = {self.rank: out[self.rank]} if self.rank in out else {}
        return {**self._told, **own}


def whole(system: System, n_ranks: int, network: Network, deep: bool) -> list[Count]:
    """All ranks' counts, divided as rank 0 of a launch does."""
    reach = network.reach
    reference, placement = Reference.of(system, SKIN, reach)
    owner = bisect(placement.along, n_ranks)

    def work(ranks: Ranks) -> Count:
        mine = np.flatnonzero(owner == ranks.rank)
        ids, positions = mine + 1, reference.positions[mine]
        return count(ids, positions, reference.frame, ranks, network, deep)

    return together(n_ranks, work)


def one_brick(bricks: Bricks, rank: int, network: Network, deep: bool) -> Count:
    """The counts of one rank of a block, of which only its surroundings are made."""
    block = bricks.block
    reach = network.reach
    depth = reach * (network.layers if deep else 1)
    frame = Frame.of(System.make(np.empty((0, 3)), [], block.cell, True))
    own = sites_in(*bricks.brick(rank))
    positions = block.positions(own)
    along = (positions @ frame.inverse) * frame.heights
    n_ranks = int(bricks.owner.max()) + 1
    # The others send nothing to one another: for them they are empty.
    bounds = np.tile(np.array([[np.inf] * 3, [-np.inf] * 3]), (n_ranks, 1, 1))
    bounds[rank] = along.min(axis=0), along.max(axis=0)
    around = bricks.around(rank, depth)
    owner = bricks.of_sites(around)
    told = {}
    for other in np.unique(owner):
        theirs: Integers = around[owner == other]
        ranks = Scripted(int(other), bounds, {})
        x, ids = block.positions(theirs), block.ids(theirs)
        surroundings(ids, np.full(len(ids), COPPER), x, frame, depth, ranks)
        if rank in ranks.sent:
            told[int(other)] = ranks.sent[rank]
    listener = Scripted(rank, bounds, told)
    return count(block.ids(own), positions, frame, listener, network, deep)


def count(
    ids: Integers, positions: Array, frame: Frame, ranks: Ranks, network: Network, deep: bool
) -> Count:
    """As `inference.ranks.make_domain` divides, and `inference.domain` makes edges. Collective."""
    reach = network.reach
    layers = network.layers if deep else 1
    numbers = np.full(len(ids), COPPER)
    around = surroundings(ids, numbers, positions, frame, layers * reach, ranks)
    start = time.thread_time()
    division = divide(around, reach, ranks.rank, layers)
    searched = time.thread_time()
    rows, edges = work_of(division, network)
    filtered = time.thread_time()
    division.pieces.clear()  # most of the memory, before others have their turn
    plan = make_plan(division, ranks)
    return Count(
        atoms=len(ids),
        points=around.n_points - len(ids),
        ghosts=plan.n_ghosts,
        sent=plan.n_sent if isinstance(ranks, Together) else -1,
        messages=len(plan.receive),
        rows=rows,
        edges=edges,
        search=searched - start,
        filter=filtered - searched,
    )


def work_of(division: Division, network: Network) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Node rows that a rank computes in each layer, and their edges."""
    points = division.around.positions
    rows, edges = np.zeros((2, network.layers), np.int64)
    for piece in division.pieces:
        piece.pairs.shift[:] = division.shifts(piece, points)
        found = CutoffFilter(piece.pairs, network.cutoff)(points[division.home[piece.rows]])
        # the shells that owned atoms depend on in this layer
        computed = slice(0, network.layers - piece.depth)
        rows[computed] += piece.n_targets
        edges[computed] += found.n_edges
    return tuple(rows.tolist()), tuple(edges.tolist())


def copper(
    block: Block,
    keep: Callable[[Array], NDArray[np.bool_]] | None = None,
    wider: Array | None = None,
) -> System:
    """A block with all its atoms; keep: which of positions [n, 3] Å, if not all; wider: [3] Å, what
    is added to the sides of the cell."""
    positions = block.positions(block.all_sites())
    if keep is not None:
        positions = positions[keep(positions)]
    cell = block.cell if wider is None else block.cell + np.diag(wider)
    return System.make(positions, np.full(len(positions), COPPER), cell, True)
