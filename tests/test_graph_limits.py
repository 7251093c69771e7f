"""The neighbour graph where it must refuse, or where others would hang or take the memory."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from ase.build import molecule
from graphs import alloy, assert_same, brute_force, moved, neighbour_bound

from forcenet_md.errors import StructureError, TooManyEdgesError
from forcenet_md.graph.neighbours import NeighbourList, build_edges
from forcenet_md.system import System


def test_coincident_atoms_are_named() -> None:
    system = alloy()
    positions = system.positions.copy()
    positions[40] = positions[3] + system.cell[1]
    with pytest.raises(StructureError, match=r"atoms 4 and 41 lie on one point"):
        build_edges(moved(system, positions), 5.0)
    neighbours = NeighbourList(5.0)
    neighbours.update(system)
    with pytest.raises(StructureError, match=r"atoms 4 and 41"):
        neighbours.update(moved(system, positions))
    assert_same(neighbours.update(system), build_edges(system, 5.0))


def test_no_atoms_and_one_atom() -> None:
    empty = System.make(np.empty((0, 3)), [], np.zeros((3, 3)), False)
    assert build_edges(empty, 5.0).n_edges == 0
    assert neighbour_bound(empty, 5.0) == 0
    lone = System.make([[1e12, 0, 0]], [29], np.zeros((3, 3)), False)
    assert build_edges(lone, 5.0).vector.shape == (0, 3)


def test_atoms_very_far_apart() -> None:
    water = molecule("H2O")
    copies = np.concatenate([water.positions, water.positions + 1e9, water.positions - [1e9, 0, 0]])
    system = System.make(copies, np.tile(water.numbers, 3), np.zeros((3, 3)), False)
    assert build_edges(system, 6.0).n_edges == 18
    for pbc in itertools.product([True, False], repeat=3):  # thin along some, endless along others
        cell = np.where(pbc, 3.0, 0.0) * np.eye(3)
        chain = System.make([[0, 0, 0], [1e9, 1e9, 1e9]], [1, 1], cell, pbc)
        edges = build_edges(chain, 6.0)
        assert edges.n_edges == brute_force(chain, 6.0).n_edges


def test_bound_is_cheap_and_near() -> None:
    system = alloy(6)
    edges = build_edges(system, 6.0).n_edges
    assert edges <= neighbour_bound(system, 6.0) <= 12 * edges
    with pytest.raises(TooManyEdgesError, match="864 atoms have 6"):
        build_edges(system, 6.0, max_edges=edges - 1)
    # the cheap bound is over this limit, the count is not
    assert build_edges(system, 6.0, max_edges=edges + 1000).n_edges == edges


LIMITED = """
import resource
import numpy as np
from forcenet_md.errors import TooManyEdgesError
from forcenet_md.graph.neighbours import NeighbourList, build_edges
from forcenet_md.system import System

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)
rng = np.random.default_rng(0)
box = np.eye(3) * 40.0
n = 20_000
piles = [
    np.zeros((n, 3)),
    rng.normal(scale=0.1, size=(n, 3)),
    np.full((n, 3), 20.0) + rng.normal(scale=0.5, size=(n, 3)),
    rng.uniform(0, 40, (n, 3)) * [1, 1, 0],
]
for pile in piles:
    for pbc in (True, False):
        try:
            build_edges(System.make(pile, np.full(n, 29), box, pbc), 6.0, max_edges=2_000_000)
        except TooManyEdgesError:
            continue
        raise SystemExit("a pile was let through")
tiny = np.eye(3) * 0.01
for cutoff in (6.0, 1e3):
    try:
        build_edges(System.make([[0, 0, 0]], [29], tiny, True), cutoff)
    except TooManyEdgesError:
        continue
    raise SystemExit("a tiny cell was let through")
moving = NeighbourList(6.0, max_edges=2_000_000)
good = System.make(rng.uniform(0, 40, (1000, 3)), np.full(1000, 29), box, True)
edges = moving.update(good).n_edges
for again in range(2):
    try:
        moving.update(System.make(piles[1], np.full(n, 29), box, True))
        raise SystemExit("a pile was let through")
    except TooManyEdgesError:
        pass
assert moving.update(good).n_edges == edges
print("refused")
"""


@pytest.mark.slow
def test_piles_and_tiny_cells_take_no_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.stdout.strip() == "refused", done.stderr


def test_what_is_kept_between_steps_is_small() -> None:
    system = alloy(6)
    neighbours = NeighbourList(5.5, skin=0.5)
    neighbours.update(system)
    assert neighbours._filter is not None
    kept = neighbours._filter.candidates
    arrays = (kept.image, kept.target, kept.atom, kept.shift)
    assert kept.image.nbytes + kept.target.nbytes == 8 * len(kept.target)
    assert all(a.base is None for a in arrays)  # no view holds a larger buffer alive
    assert sum(a.nbytes for a in arrays) < 10 * len(kept.target)
