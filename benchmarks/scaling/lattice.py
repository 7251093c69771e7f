"""Copper at room density whose atoms are known one by one, without the others being made.

A site is three integers, counted in half lattice constants, whose sum is even. Each atom is moved
off its site by a number that the site alone decides, so that a brick cut out of a hundred million
atoms has the atoms that it would have in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forcenet_md.graph.domains import bisect
from forcenet_md.graph.frame import Array

CONSTANT = 3.615  # Å
DENSITY = 4.0 / CONSTANT**3  # atoms per Å³
HALF = CONSTANT / 2.0
MOVED = 0.09  # Å, the most in each direction; too little to leave a plane of the lattice
GRID = 8  # the block is cut along planes that divide its sides by this, by up to GRID³ ranks

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """A periodic cube of `cells` lattice constants along each side, a multiple of GRID."""

    cells: int

    def __post_init__(self) -> None:
        if self.cells % GRID:
            raise ValueError(f"{self.cells} cells cannot be cut evenly: take a multiple of {GRID}")

    @property
    def n_atoms(self) -> int:
        return 4 * self.cells**3

    @property
    def planes(self) -> int:
        """Of atoms along a side."""
        return 2 * self.cells

    @property
    def cell(self) -> Array:
        """[3, 3] Å"""
        return np.eye(3) * self.cells * CONSTANT

    def ids(self, sites: Integers) -> Integers:
        """A number [n] for each atom, whichever of its images the site [n, 3] is."""
        x, y, z = (sites % self.planes).T
        return (x * self.planes + y) * self.planes + z

    def positions(self, sites: Integers) -> Array:
        """[n, 3] Å; off the faces of the cell by a quarter of a lattice constant."""
        ids = self.ids(sites).astype(np.uint64)
        moved = np.stack([noise(ids * np.uint64(3) + np.uint64(k)) for k in range(3)], axis=1)
        return (sites + 0.5) * HALF + MOVED * moved

    def all_sites(self) -> Integers:
        return sites_in(np.zeros(3, np.int64), np.full(3, self.planes))


def sites_in(low: Integers, high: Integers) -> Integers:
    """The sites [n, 3] from `low` to below `high` [3], in ascending order."""
    axes = [np.arange(first, last) for first, last in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid[grid.sum(axis=1) % 2 == 0]


def noise(keys: NDArray[np.uint64]) -> Array:
    """A number from −1 to 1 for each key (Steele et al., SplitMix, OOPSLA 2014)."""
    z = (keys + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).astype(np.float64) / 2.0**63 - 1.0


@dataclass(frozen=True, slots=True)
class Bricks:
    """Which rank owns which part of a block. owner: [GRID, GRID, GRID]"""

    block: Block
    owner: NDArray[np.int32]

    @classmethod
    def cut(cls, block: Block, n_ranks: int) -> Bricks:
        """As bisection cuts the whole block: it halves the longest side, and which of equal sides
        is the longest is chance, by how far the outermost atoms have moved."""
        parts = np.stack(np.unravel_index(np.arange(GRID**3), (GRID,) * 3), axis=1)
        shaken = parts + 0.1 * noise(np.arange(3 * GRID**3, dtype=np.uint64)).reshape(-1, 3)
        return cls(block, bisect(shaken, n_ranks).reshape((GRID,) * 3))

    @classmethod
    def of(cls, block: Block, sites: Integers, owner: NDArray[np.int32]) -> Bricks:
        """Those that atoms [n, 3] with these owners [n] lie in. Raises ValueError if a part of the
        grid has more than one owner."""
        part = np.ravel_multi_index(tuple((sites * GRID // block.planes).T), (GRID,) * 3)
        owners = np.full(GRID**3, -1, np.int32)
        owners[part] = owner
        if (owners[part] != owner).any():
            raise ValueError("the atoms are not cut along the planes of the grid")
        return cls(block, owners.reshape((GRID,) * 3))

    def of_sites(self, sites: Integers) -> NDArray[np.int32]:
        """The owners [n] of atoms, whichever of their images the sites [n, 3] are."""
        x, y, z = (sites % self.block.planes * GRID // self.block.planes).T
        return self.owner[x, y, z]

    def brick(self, rank: int) -> tuple[Integers, Integers]:
        """The first site of a rank along each direction [3], and the one after its last [3]."""
        parts = np.argwhere(self.owner == rank)
        low, high = parts.min(axis=0), parts.max(axis=0) + 1
        assert len(parts) == np.prod(high - low)
        return low * self.block.planes // GRID, high * self.block.planes // GRID

    def around(self, rank: int, reach: float) -> Integers:
        """The atoms [n, 3] of other ranks that have an image within reach Å of a rank's brick, and
        some more."""
        low, high = self.brick(rank)
        pad = int(np.ceil((reach + 2 * MOVED) / HALF)) + 1
        first, last = low - pad, high + pad
        full = last - first >= self.block.planes
        first, last = np.where(full, 0, first), np.where(full, self.block.planes, last)
        sites = sites_in(first, last) % self.block.planes
        return sites[self.of_sites(sites) != rank]
