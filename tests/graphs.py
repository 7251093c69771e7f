"""Edges by brute force, and systems for tests of the graph."""

from __future__ import annotations

import itertools

import numpy as np
from ase.build import bulk
from numpy.typing import NDArray

from forcenet_md.graph.capacity import pair_bound
from forcenet_md.graph.edges import Edges
from forcenet_md.graph.frame import Frame, Placement
from forcenet_md.system import System

Array = NDArray[np.float64]


def brute_force(system: System, cutoff: float) -> Edges:
    """All pairs over all images that can be within the cutoff, one by one."""
    x, cell, pbc = system.positions, system.cell * system.pbc[:, None], system.pbc
    n = len(x)
    # rows that span the space, so that heights exist where there is no lattice vector
    full = cell.copy()
    full[~pbc] = np.linalg.svd(cell)[2][int(pbc.sum()) :]
    inverse = np.linalg.inv(full)
    found = []
    for t, s in itertools.product(range(n), range(n)):
        d = x[s] - x[t]
        centre = -np.rint(d @ inverse) * pbc
        reach = (np.ceil(cutoff * np.linalg.norm(inverse, axis=0)) + 1) * pbc
        axes = [np.arange(c - r, c + r + 1) for c, r in zip(centre, reach, strict=True)]
        shifts = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        vectors = d + shifts @ cell
        near = np.linalg.norm(vectors, axis=1) <= cutoff
        for shift, vector in zip(shifts[near], vectors[near], strict=True):
            if s != t or shift.any():
                found.append((t, s, *shift, *vector))
    table = np.array(sorted(found)).reshape(-1, 8)
    return Edges(table[:, 1].astype(np.int32), table[:, 0].astype(np.int32), table[:, 5:])


def assert_same(a: Edges, b: Edges, atol: float = 1e-9) -> None:
    np.testing.assert_array_equal(a.target, b.target)
    np.testing.assert_array_equal(a.source, b.source)
    np.testing.assert_allclose(a.vector, b.vector, rtol=0, atol=atol)


def rounded(target: NDArray, source: NDArray, vector: Array) -> list[tuple[float, ...]]:
    rows = np.column_stack([target, source, np.round(vector, 4) + 0.0])
    return sorted(map(tuple, rows.tolist()))


def alloy(n: int = 3, seed: int = 0) -> System:
    atoms = bulk("Cu", cubic=True).repeat((n, n, n))
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=0.15, size=atoms.positions.shape)
    return System.from_ase(atoms)


def moved(system: System, positions: Array) -> System:
    return System(positions, system.numbers, system.cell, system.pbc)


def neighbour_bound(system: System, reach: float) -> int:
    """The cheap upper bound on ordered pairs that `check_capacity` starts from."""
    return pair_bound(Placement.of(system.positions, Frame.of(system), reach), reach)
