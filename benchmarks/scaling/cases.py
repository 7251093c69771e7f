"""Which ranks of which systems are counted, and what they are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from time import process_time

import numpy as np
from numpy.typing import NDArray

from benchmarks.scaling.counting import COPPER, Count, copper, one_brick, whole
from benchmarks.scaling.lattice import CONSTANT, DENSITY, Block, Bricks, noise
from benchmarks.scaling.model import Load, Network, block_load, sides, square_shell
from forcenet_md.graph.domains import bisect
from forcenet_md.graph.frame import Array
from forcenet_md.graph.neighbours import Reference
from forcenet_md.inference.ranks import SKIN
from forcenet_md.system import System

BLOCKS = (64, 136, 296)  # cells along a side: 1.05, 10.1 and 104 million atoms
RANKS = tuple(2**k for k in range(10))
MOST_ATOMS = 270_000  # of a brick that is counted: its pairs are 1.5 GB
SEVERAL = 60_000  # atoms in several counted bricks of one system
WHOLE = 32  # cells along a side of the system whose ranks are all made


@dataclass(frozen=True, slots=True)
class Case:
    """A block on some ranks: what was counted of some of its bricks, and what volumes say.

    counts: may be empty, of bricks that are too large
    """

    block: Block
    n_ranks: int
    network: Network
    deep: bool
    counts: Sequence[Count]

    @property
    def load(self) -> Load:
        """By volumes."""
        return block_load(self.block.n_atoms, self.n_ranks, self.network, self.deep)

    @property
    def box(self) -> float:
        """Images within reach of a brick's box, by volume: no face of the cell is an end."""
        brick, _ = sides(self.block.n_atoms, self.n_ranks)
        depth = self.network.reach * (self.network.layers if self.deep else 1)
        return DENSITY * square_shell(brick, depth)

    def mean(self, of: Callable[[Count], float]) -> float:
        return fmean(of(count) for count in self.counts)

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Counted over the volumes': edges of own atoms, images, ghosts (1 if there are none)."""
        load = self.load
        ghosts = self.mean(lambda c: c.ghosts) / load.ghosts if load.ghosts else 1.0
        edges = self.mean(lambda c: c.edges[-1]) / load.edges[-1]
        return edges, self.mean(lambda c: c.points) / self.box, ghosts


def scaled(case: Case, cases: Sequence[Case]) -> Load:
    """The load of a brick: as counted, or volumes times the ratios of the largest counted one."""
    load = case.load
    if case.counts:
        return Load(
            atoms=case.mean(lambda c: c.atoms),
            rows=case.mean(lambda c: c.rows[0]),
            edges=tuple(np.mean([c.edges for c in case.counts], axis=0).tolist()),
            ghosts=case.mean(lambda c: c.ghosts),
            messages=max(c.messages for c in case.counts),
            rounds=load.rounds,
        )
    counted = [c for c in cases if c.counts and c.n_ranks > 1]
    edges, _, ghosts = max(counted, key=lambda c: c.counts[0].atoms).ratios
    neighbours = case.network.neighbours
    shells = [e / neighbours - load.atoms for e in load.edges]
    return Load(
        atoms=load.atoms,
        rows=load.atoms + (load.rows - load.atoms) * ghosts,
        edges=tuple(edges * neighbours * (load.atoms + ghosts * shell) for shell in shells),
        ghosts=load.ghosts * ghosts,
        messages=load.messages,
        rounds=load.rounds,
    )


def count_blocks(
    networks: Sequence[Network],
    blocks: Sequence[int] = BLOCKS,
    ranks: Sequence[int] = RANKS,
    most_atoms: int = MOST_ATOMS,
) -> Iterator[Case]:
    """Every block on every number of ranks, with exchanged rows and with deep ghosts."""
    for network in networks:
        for deep in (False, True):
            for cells in blocks:
                block = Block(cells)
                for n_ranks in ranks:
                    atoms = block.n_atoms // n_ranks
                    counts = []
                    if atoms <= most_atoms:
                        n_counted = min(n_ranks, max(1, min(4, SEVERAL // atoms)))
                        bricks = Bricks.cut(block, n_ranks)
                        some = [k * n_ranks // n_counted for k in range(n_counted)]
                        counts = [one_brick(bricks, rank, network, deep) for rank in some]
                    yield Case(block, n_ranks, network, deep, counts)


@dataclass(frozen=True, slots=True)
class Whole:
    """All ranks of one system. same: of so many ranks the brick alone was counted, too, and so
    many of those counts were equal in everything."""

    name: str
    n_atoms: int
    network: Network
    deep: bool
    counts: Sequence[Count]
    same: tuple[int, int] = (0, 0)

    @property
    def load(self) -> Load | None:
        """Of each rank by volumes, where they fill the cell."""
        if self.name not in ("block", "disordered"):
            return None
        return block_load(self.n_atoms, len(self.counts), self.network, self.deep)

    def of(self, what: Callable[[Count], float]) -> NDArray[np.float64]:
        """[ranks]"""
        return np.array([what(count) for count in self.counts], dtype=np.float64)


def alike(one: Count, other: Count) -> bool:
    """Equal but for the times and what a single brick does not know."""
    names = ("atoms", "points", "ghosts", "messages", "rows", "edges")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def compare(cells: int, n_ranks: int, network: Network, deep: bool) -> Whole:
    """A block whose ranks are all made, and some of its bricks alone."""
    block = Block(cells)
    system, sites = copper(block), block.all_sites()
    counts = whole(system, n_ranks, network, deep)
    _, placement = Reference.of(system, SKIN, network.reach)
    bricks = Bricks.of(block, sites, bisect(placement.along, n_ranks))
    some = sorted({0, n_ranks // 3, n_ranks // 2, n_ranks - 1})
    same = [alike(one_brick(bricks, rank, network, deep), counts[rank]) for rank in some]
    return Whole("block", system.n_atoms, network, deep, counts, (len(some), sum(same)))


def slab(cells: int, thick: int) -> System:
    """A film of `thick` cells under 20 Å of vacuum, periodic in all directions."""
    block = Block(cells)

    def keep(positions: Array) -> NDArray[np.bool_]:
        return positions[:, 2] < thick * CONSTANT

    film = block.cell[2, 2] - thick * CONSTANT
    return copper(block, keep, np.array([0.0, 0.0, 20.0 - film]))


def droplet(cells: int) -> System:
    """A ball that fills the block's width, in a cell half as wide again."""
    block = Block(cells)
    side = float(block.cell[0, 0])

    def keep(positions: Array) -> NDArray[np.bool_]:
        return np.linalg.norm(positions - side / 2, axis=1) < side / 2

    return copper(block, keep, np.full(3, side / 2))


def disordered(cells: int) -> System:
    """A block whose atoms are so far off their sites (2.5 Å in each direction) that no plane of the
    lattice is left."""
    system = copper(Block(cells))
    moved = 2.5 * noise(np.arange(3 * system.n_atoms, dtype=np.uint64)).reshape(-1, 3)
    return System.make(system.positions + moved, system.numbers, system.cell, True)


def compare_all(networks: Sequence[Network]) -> Iterator[Whole]:
    first, second = networks
    for n_ranks in (2, 8, 64):
        for network in networks:
            yield compare(WHOLE, n_ranks, network, deep=False)
        yield compare(WHOLE, n_ranks, first, deep=True)
    yield compare(WHOLE, 8, second, deep=True)


def uneven(network: Network) -> Iterator[Whole]:
    """Systems whose bricks are not alike."""
    systems = {"disordered": disordered(WHOLE), "slab": slab(48, 8), "droplet": droplet(WHOLE)}
    for name, system in systems.items():
        for n_ranks in (4, 16, 64):
            for deep in (False, True):
                counts = whole(system, n_ranks, network, deep)
                yield Whole(name, system.n_atoms, network, deep, counts)


def root_seconds(cells: int = WHOLE) -> float:
    """Processor time per atom of what rank 0 does at each step with all positions and forces,
    without sending them: the images near those of the search, and the order of the ranks."""
    system = copper(Block(cells))
    reference, placement = Reference.of(system, SKIN, 6.0)
    order = np.argsort(bisect(placement.along, 64), kind="stable")
    moved = system.positions + 0.01
    seconds = []
    for _ in range(7):
        start = process_time()
        now = System.make(moved, np.full(len(moved), COPPER), system.cell, True)
        near = reference.near(now)
        assert near is not None
        rows = near[order]
        forces = np.empty_like(rows)
        forces[order] = rows
        forces -= forces.mean(axis=0)
        seconds.append(process_time() - start)
    return float(np.median(seconds)) / system.n_atoms
