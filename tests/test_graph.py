"""The neighbour graph against brute force, ASE and stored edges, and over time."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import primitive_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from forcenet_md.errors import StructureError, TooManyEdgesError
from forcenet_md.graph.capacity import neighbour_bound
from forcenet_md.graph.edges import Edges, keep_nearest
from forcenet_md.graph.neighbours import NeighbourList, build_edges
from forcenet_md.system import System

VECTORS = Path(__file__).parent / "data" / "vectors" / "structures.npz"
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


def clear_of(system: System, cutoff: float, gap: float = 1e-7) -> bool:
    """Whether no pair is so close to the cutoff, or to zero, that rounding decides."""
    wide = brute_force(system, cutoff + gap)
    distance = np.linalg.norm(wide.vector, axis=1)
    return bool((distance > 1e-3).all() and (distance < cutoff - gap).all())


@st.composite
def systems(draw: st.DrawFn) -> tuple[System, float]:
    """Few atoms in any cell: skewed, thin, far outside, any mix of periodic directions."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 6))
    pbc = np.array(draw(st.tuples(st.booleans(), st.booleans(), st.booleans())))
    lengths = np.array(draw(st.tuples(*[st.floats(1.5, 30.0)] * 3)))
    cell = np.diag(lengths) + rng.uniform(-1, 1, (3, 3)) * lengths.min() * draw(st.floats(0, 0.6))
    if np.linalg.svd(cell, compute_uv=False)[-1] < 1.0:
        cell = np.diag(lengths)
    positions = rng.uniform(-0.2, 1.2, (n, 3)) @ cell
    positions += rng.integers(-3, 4, (n, 3)) * pbc @ cell * draw(st.sampled_from([0, 1, 1000]))
    spread = np.array(draw(st.sampled_from([0.0, 0.0, 40.0, 1e6])))
    positions += spread * rng.integers(0, 2, (n, 1)) * ~pbc
    row = draw(st.sampled_from(["kept", "zero"]))
    cell[~pbc] *= row == "kept"
    cutoff = draw(st.floats(1.0, 6.0))
    return System.make(positions, np.full(n, 29), cell, pbc), cutoff


@settings(deadline=None, max_examples=150)
@given(systems())
def test_equals_brute_force_and_ase(case: tuple[System, float]) -> None:
    system, cutoff = case
    if not clear_of(system, cutoff):
        return
    expected = brute_force(system, cutoff)
    assert_same(build_edges(system, cutoff), expected, atol=1e-8)
    assert_same(NeighbourList(cutoff, skin=0.7).update(system), expected, atol=1e-8)
    assert expected.n_edges <= neighbour_bound(system, cutoff + 1e-9)
    near = system.positions - np.rint(
        system.positions @ np.linalg.pinv(system.cell * system.pbc[:, None])
    ) @ (system.cell * system.pbc[:, None])
    if np.ptp(near, axis=0).max() > 1e3:
        return  # ASE's grid of bins would fill the memory
    spanning = system.cell.copy()
    periodic = system.cell[system.pbc]
    if system.pbc.any():
        spanning[~system.pbc] = np.linalg.svd(periodic)[2][int(system.pbc.sum()) :]
    else:
        spanning = np.eye(3)
    i, j, d = primitive_neighbor_list("ijD", system.pbc, spanning, near, cutoff)
    expected_rows = rounded(expected.target, expected.source, expected.vector)
    assert expected_rows == rounded(i, j, d)


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


def test_lattice_shifts_and_translations_change_nothing() -> None:
    system = alloy()
    rng = np.random.default_rng(1)
    reference = build_edges(system, 5.0)
    shifts = rng.integers(-50, 51, (system.n_atoms, 3)) @ system.cell
    assert_same(build_edges(moved(system, system.positions + shifts), 5.0), reference, atol=1e-9)
    translated = moved(system, system.positions + np.array([1e3, -2.7, 0.31]))
    assert_same(build_edges(translated, 5.0), reference, atol=1e-9)


def test_permutation_renames_the_edges() -> None:
    system = alloy()
    order = np.random.default_rng(2).permutation(system.n_atoms)
    shuffled = System(system.positions[order], system.numbers[order], system.cell, system.pbc)
    a, b = build_edges(system, 5.0), build_edges(shuffled, 5.0)
    renamed = rounded(order[b.target], order[b.source], b.vector)
    assert renamed == rounded(a.target, a.source, a.vector)


def test_every_edge_has_its_reverse() -> None:
    edges = build_edges(alloy(), 5.0)
    forward = rounded(edges.target, edges.source, edges.vector)
    assert forward == rounded(edges.source, edges.target, -edges.vector)


def test_canonical_order() -> None:
    system = System.from_ase(bulk("Cu"))  # one atom, many images of itself
    edges = build_edges(system, 6.0)
    shifts = np.rint(edges.vector @ np.linalg.inv(system.cell)).astype(int)
    assert edges.n_edges == 78
    assert (edges.source == 0).all()
    assert (edges.target == 0).all()
    assert shifts.tolist() == sorted(shifts.tolist())
    assert edges.source.dtype == edges.target.dtype == np.int32


def test_wrapping_between_steps_forces_no_search() -> None:
    system = alloy()
    rng = np.random.default_rng(3)
    neighbours = NeighbourList(5.0, skin=0.5)
    before = neighbours.update(system)
    jumps = rng.integers(-2, 3, (system.n_atoms, 3)) @ system.cell
    after = neighbours.update(moved(system, system.positions + jumps))
    assert neighbours.rebuilds == 1
    assert_same(after, before)


def test_search_is_repeated_when_it_must_be() -> None:
    system = alloy()
    neighbours = NeighbourList(5.0, skin=0.5)
    neighbours.update(system)
    nudged = system.positions.copy()
    nudged[7] += [0.2, 0.1, 0.0]
    neighbours.update(moved(system, nudged))
    assert neighbours.rebuilds == 1
    nudged[7] += [0.2, 0.1, 0.0]
    neighbours.update(moved(system, nudged))
    assert neighbours.rebuilds == 2
    changed = [
        System(nudged, system.numbers, system.cell * 1.001, system.pbc),
        System(nudged, system.numbers, system.cell * 1.001, np.array([True, True, False])),
        System(nudged, system.numbers + 1, system.cell * 1.001, np.array([True, True, False])),
        System(nudged[1:], system.numbers[1:], system.cell, system.pbc),
    ]
    for count, other in enumerate(changed, start=3):
        assert_same(neighbours.update(other), build_edges(other, 5.0))
        assert neighbours.rebuilds == count


def test_cell_of_a_direction_that_is_not_periodic_does_not_matter() -> None:
    slab = fcc111("Cu", (3, 3, 3), vacuum=5.0, periodic=False)
    slab.rattle(0.05, seed=1)
    system = System.from_ase(slab)
    assert system.pbc.tolist() == [True, True, False]
    neighbours = NeighbourList(6.0)
    before = neighbours.update(system)
    cell = system.cell.copy()
    cell[2] = [3.0, -1.0, 0.5]
    after = neighbours.update(System(system.positions, system.numbers, cell, system.pbc))
    assert neighbours.rebuilds == 1
    assert_same(before, after)


def drift(steps: int, compare_every: int, n: int, skin: float) -> None:
    system = alloy(n, seed=5)
    rng = np.random.default_rng(5)
    neighbours = NeighbourList(5.0, skin=skin)
    x, velocity = system.positions.copy(), rng.normal(scale=0.01, size=(system.n_atoms, 3))
    for step in range(steps):
        velocity = 0.95 * velocity + rng.normal(scale=0.005, size=velocity.shape)
        x = x + velocity
        if step % 50 == 0:  # the engine wraps its atoms now and then
            x = x - np.floor(x @ np.linalg.inv(system.cell)) @ system.cell
        now = moved(system, x)
        edges = neighbours.update(now)
        if step % compare_every == 0:
            assert_same(edges, build_edges(now, 5.0))
    assert steps / 100 < neighbours.rebuilds < steps / 2


def test_drifting_atoms_keep_the_exact_edges() -> None:
    drift(steps=10_000, compare_every=23, n=2, skin=0.5)


@pytest.mark.slow
def test_drifting_atoms_keep_the_exact_edges_at_each_of_10000_steps() -> None:
    drift(steps=10_000, compare_every=1, n=3, skin=0.5)


@pytest.mark.parametrize("name", ["tied", "apart"])
def test_stored_edges_of_the_reference(name: str) -> None:
    stored = np.load(VECTORS)
    compared = 0
    for structure in sorted({key.split("/")[0] for key in stored.files}):
        get = {k: stored[f"{structure}/{k}"] for k in ("positions", "numbers", "cell", "pbc")}
        system = System.make(get["positions"], get["numbers"], get["cell"], get["pbc"])
        everything = build_edges(system, 6.0)
        distance = np.linalg.norm(everything.vector, axis=1)
        source, target = stored[f"{structure}/edge_index"]
        if (name == "tied") != tied_at(everything, distance, 50):
            continue
        edges = build_edges(system, 6.0, cap=50)
        if name == "apart":
            assert rounded(target, source, stored_vectors(stored, structure)) == rounded(
                edges.target, edges.source, edges.vector
            )
        else:  # which of the tied sources are kept is free, the distances are not
            got = np.round(np.linalg.norm(edges.vector, axis=1), 5)
            wanted = np.round(stored[f"{structure}/edge_dist"], 5)
            assert len(got) == len(wanted)
            for atom in range(system.n_atoms):
                np.testing.assert_allclose(
                    np.sort(got[edges.target == atom]), np.sort(wanted[target == atom]), atol=2e-5
                )
        compared += 1
    assert compared > 0


def stored_vectors(stored: np.lib.npyio.NpzFile, structure: str) -> Array:
    x, cell = stored[f"{structure}/positions"], stored[f"{structure}/cell"]
    source, target = stored[f"{structure}/edge_index"]
    return x[source] - x[target] + stored[f"{structure}/cell_offsets"] @ cell


def tied_at(edges: Edges, distance: Array, cap: int) -> bool:
    for atom in range(int(edges.target.max(initial=-1)) + 1):
        d = np.sort(distance[edges.target == atom])
        if len(d) > cap and d[cap] - d[cap - 1] < 1e-5:
            return True
    return False


def test_cap_keeps_the_nearest_and_settles_ties_by_source_then_shift() -> None:
    vectors = np.array([[3, 0, 0], [1, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2 + 1e-9], [1, 0, 0]])
    edges = Edges(
        np.array([1, 2, 3, 3, 4, 0], dtype=np.int32),
        np.array([0, 0, 0, 0, 0, 2], dtype=np.int32),
        vectors.astype(float),
    )
    kept = keep_nearest(edges, 3, n_atoms=3)
    assert kept.source.tolist() == [2, 3, 3, 0]
    assert kept.target.tolist() == [0, 0, 0, 2]
    np.testing.assert_array_equal(kept.vector, edges.vector[[1, 2, 3, 5]])
    assert keep_nearest(edges, 5, n_atoms=3) is edges


def test_cap_against_sorting_each_target() -> None:
    system = alloy()
    edges = build_edges(system, 6.0)
    kept = build_edges(system, 6.0, cap=20)
    distance = np.linalg.norm(edges.vector, axis=1)
    wanted = []
    for atom in range(system.n_atoms):
        rows = np.flatnonzero(edges.target == atom)
        nearest = rows[np.argsort(distance[rows], kind="stable")[:20]]
        wanted += sorted(nearest.tolist())
    assert_same(kept, Edges(edges.source[wanted], edges.target[wanted], edges.vector[wanted]))


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
