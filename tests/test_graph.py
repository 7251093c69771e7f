"""The neighbour graph against brute force, ASE and stored edges, and over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.neighborlist import primitive_neighbor_list
from graphs import Array, alloy, assert_same, brute_force, moved, neighbour_bound, rounded
from hypothesis import given, settings
from hypothesis import strategies as st

from forcenet_md.graph.edges import Edges, keep_nearest
from forcenet_md.graph.neighbours import NeighbourList, build_edges
from forcenet_md.system import System

VECTORS = Path(__file__).parent / "data" / "vectors" / "structures.npz"


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
    drift(steps=3000, compare_every=23, n=2, skin=0.5)


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
