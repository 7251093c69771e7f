"""benchmarks/scaling: one brick counts as in the whole system, volumes, and the model's limits."""

from __future__ import annotations

from dataclasses import replace
from math import inf, pi
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from benchmarks.scaling.__main__ import machines, options
from benchmarks.scaling.cases import (
    alike,
    compare,
    count_blocks,
    disordered,
    droplet,
    root_seconds,
    scaled,
    slab,
)
from benchmarks.scaling.counting import copper, one_brick, together, whole
from benchmarks.scaling.figure import draw
from benchmarks.scaling.lattice import CONSTANT, DENSITY, HALF, MOVED, Block, Bricks
from benchmarks.scaling.model import (
    Load,
    Machine,
    Network,
    advantage,
    block_load,
    crossings,
    efficiency,
    fits,
    rounded_shell,
    sent_bytes,
    sides,
    square_shell,
    step_seconds,
)
from benchmarks.scaling.report import Found, page, where
from forcenet_md.graph.domains import bisect
from forcenet_md.graph.neighbours import Reference, build_edges
from forcenet_md.inference.ranks import SKIN
from forcenet_md.models.forcenet import ForceNetConfig
from forcenet_md.mpi import Ranks

NETWORK = Network("small", width=128, layers=2, cutoff=5.0, basis=1600.0, layer=25600.0)
PAPER = Network.of("paper", ForceNetConfig.paper(neighbour_cap=None))
FREE = Machine(latency=0.0, bandwidth=inf, copy=inf)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("n_ranks", [pytest.param(2, marks=pytest.mark.slow), 16])
def test_one_brick_alone_counts_as_in_the_whole_system(n_ranks: int, deep: bool) -> None:
    found = compare(16, n_ranks, NETWORK, deep)
    assert found.same == (4 if n_ranks == 16 else 2,) * 2
    assert found.of(lambda c: c.sent).sum() == found.of(lambda c: c.ghosts).sum() > 0
    assert found.of(lambda c: c.atoms).sum() == found.n_atoms == 16384
    assert not alike(found.counts[0], replace(found.counts[0], ghosts=1))


def test_counts_are_those_of_a_plain_search() -> None:
    block = Block(8)
    system = copper(block)
    exchanged, deep = (whole(system, 8, NETWORK, d) for d in (False, True))
    edges = build_edges(system, NETWORK.cutoff)
    assert sum(c.edges[0] for c in exchanged) == edges.n_edges
    _, placement = Reference.of(system, SKIN, NETWORK.reach)
    owner = bisect(placement.along, 8)
    tree = cKDTree(placement.wrapped, boxsize=block.cell.diagonal())
    for rank in range(8):
        own = np.flatnonzero(owner == rank)
        near = tree.query_ball_point(placement.wrapped[own], NETWORK.reach)
        ghosts = np.setdiff1d(np.concatenate(near), own)
        assert exchanged[rank].ghosts == len(ghosts)
        assert exchanged[rank].messages == len(np.unique(owner[ghosts]))
        assert exchanged[rank].rows == (len(own), len(own))
        # the first layer is computed for all that the second reads
        assert deep[rank].rows == (len(own) + len(ghosts), len(own))
        outer = tree.query_ball_point(placement.wrapped[ghosts], NETWORK.reach)
        assert deep[rank].ghosts == len(np.setdiff1d(np.concatenate([*near, *outer]), own))


def test_the_lattice() -> None:
    block = Block(8)
    sites = block.all_sites()
    assert len(sites) == block.n_atoms == 2048
    assert len(np.unique(block.ids(sites))) == 2048
    positions = block.positions(sites)
    moved = positions - (sites + 0.5) * HALF
    assert 0.95 * MOVED < np.abs(moved).max() <= MOVED
    assert abs(moved.mean()) < 0.01 * CONSTANT
    assert len(np.unique(moved)) == moved.size
    tree = cKDTree(positions, boxsize=block.cell.diagonal())
    nearest = tree.query(positions, k=13)[0][:, 1:]
    assert np.abs(nearest - CONSTANT / 2**0.5).max() < 4 * MOVED  # twelve of them
    # an image is the same atom
    shifted = block.positions(sites + np.array([16, -32, 0]))
    assert np.allclose(shifted - positions, block.cell @ [1, -2, 0])
    with pytest.raises(ValueError, match="multiple of 8"):
        Block(12)


@pytest.mark.parametrize("n_ranks", [1, 2, 8, 32, 512])
def test_bricks_are_cut_as_bisection_cuts_all_atoms(n_ranks: int) -> None:
    block = Block(8)
    bricks = Bricks.cut(block, n_ranks)
    assert set(np.bincount(bricks.owner.ravel())) == {512 // n_ranks}
    sites = block.all_sites()
    owner = bisect(block.positions(sites), n_ranks)
    real = Bricks.of(block, sites, owner)
    assert np.array_equal(real.of_sites(sites - 32), owner)
    expected = sorted(sides(block.n_atoms, n_ranks)[0])
    for some in (bricks, real):
        for rank in {0, n_ranks - 1}:
            low, high = some.brick(rank)
            assert sorted((high - low) * HALF) == pytest.approx(expected)
    with pytest.raises(ValueError, match="planes of the grid"):
        Bricks.of(block, sites, np.arange(len(sites), dtype=np.int32))


def test_a_fault_of_one_simulated_rank_ends_all() -> None:
    def work(ranks: Ranks) -> int:
        if ranks.rank == 1:
            raise KeyError("one")
        return len(ranks.allgather(np.zeros(1)))

    with pytest.raises(KeyError, match="one"):
        together(3, work)
    assert together(3, lambda ranks: int(ranks.allgather(np.array(ranks.rank)).sum())) == [3] * 3


def test_volumes() -> None:
    rng = np.random.default_rng(0)
    brick, depth = np.array([3.0, 4.0, 6.0]), 2.0
    points = rng.random((400_000, 3)) * (brick + 2 * depth) - depth
    outside = np.maximum(np.maximum(-points, points - brick), 0.0)
    box = float(np.prod(brick + 2 * depth))
    for parts in ([2, 2, 2], [2, 2, 1], [4, 1, 1], [1, 1, 1]):
        cut = np.array(parts) > 1
        inside = (outside[:, ~cut] == 0.0).all(axis=1)
        distance = np.linalg.norm(outside[:, cut], axis=1)
        shell = box * float(np.mean(inside & (distance > 0.0) & (distance <= depth)))
        assert rounded_shell(brick, parts, depth) == pytest.approx(shell, rel=0.01, abs=1e-9)
    assert square_shell(brick, depth) == box - 72.0
    assert rounded_shell([1.0] * 3, [2] * 3, 1.0) == pytest.approx(6 + 3 * pi + 4 / 3 * pi)
    with pytest.raises(ValueError, match="power of two"):
        sides(1e6, 3)
    assert sides(1e6, 32)[1] == [4, 4, 2]


def test_ghosts_are_never_more_than_the_others_atoms() -> None:
    load = block_load(4000, 8, PAPER, deep=True)
    assert load.ghosts == pytest.approx(3500)
    assert load.messages == 7


def test_one_rank_sends_nothing() -> None:
    for deep in (False, True):
        load = block_load(1e6, 1, PAPER, deep)
        assert (load.ghosts, load.messages, load.rounds) == (0.0, 0, 0)
        assert sent_bytes(load, PAPER) == 0.0
        assert load.edges == pytest.approx([1e6 * PAPER.neighbours] * 5)
        slow = Machine(latency=1.0, bandwidth=1.0, copy=1.0)
        assert step_seconds(load, PAPER, slow, 1e6) == step_seconds(load, PAPER, FREE, 1e6)


def test_what_costs_nothing_is_never_worse_than_computing_twice() -> None:
    for network in (NETWORK, PAPER):
        assert list(crossings(network, FREE)) == []
        assert where(network, FREE) == "always"
        ratios = [advantage(n, network, replace(FREE, launch=0.0)) for n in (1e3, 1e5, 1e7)]
        assert ratios[0] > ratios[1] > ratios[2] > 1.0
    assert where(PAPER, Machine(bandwidth=1e3)) == "never"


def test_where_exchange_beats_deep_ghosts() -> None:
    slow = Machine(latency=1e-3, launch=0.0)  # small bricks wait longer than they compute
    turns = list(crossings(PAPER, slow))
    assert turns
    for at, begins in turns:  # which jump where a brick begins to see ranks beyond the next
        assert (advantage(at * 1.03, PAPER, slow) > 1.0) == begins
        assert (advantage(at / 1.03, PAPER, slow) > 1.0) != begins
    at, begins = turns[-1]
    assert begins
    assert where(PAPER, slow).endswith(f"above {at:,.0f}")


def test_the_time_of_a_step() -> None:
    load = Load(1000.0, 1000.0, (50_000.0, 50_000.0), 600.0, 26, 1)
    machine = Machine(
        peak=2e12, efficiency=0.5, launch=1e-4, latency=1e-6, bandwidth=1e9, copy=2e9, edges=2e-6
    )
    machine = replace(machine, root=1e-7)
    work = 50_000 * 1600 + 100_000 * 25_600
    sent = 600 * (24 + 128 * 4)
    assert sent_bytes(load, NETWORK) == sent
    expected = work / 0.5e12 + 2e-4 + 52e-6 + sent / 1e9 + 600 * 128 * 4 * 2 / 2e9
    expected += 1000 * 2e-6 + 8000 * 1e-7
    assert step_seconds(load, NETWORK, machine, 8000.0) == pytest.approx(expected)
    assert not fits(load, NETWORK, replace(machine, memory=1e6))
    assert fits(load, NETWORK, machine)


def test_the_form_of_a_network() -> None:
    """Multiply-adds of the paper's: two hidden layers of 512 beside 36 basis functions."""
    assert PAPER.layer == 36 * 512 + 2 * 512**2
    assert PAPER.basis == 4 * 50 * 4
    assert PAPER.neighbours == pytest.approx(76.6, abs=0.1)


def test_efficiency() -> None:
    for weak in (False, True):
        assert efficiency(1e6, 1, PAPER, Machine(), weak) == 1.0
        alone = efficiency(1e7, 64, PAPER, replace(FREE, launch=0.0), weak)
        assert alone == pytest.approx(1.0)
        assert efficiency(1e7, 64, PAPER, Machine(), weak) < 1.0
    root = Machine(root=1e-7)
    assert efficiency(1e8, 1024, PAPER, root, True) < 0.2
    strong = [efficiency(1e7, n, PAPER, Machine(), False) for n in (8, 64, 512)]
    assert strong == sorted(strong, reverse=True)


@pytest.mark.slow
def test_bricks_that_are_not_counted_are_scaled() -> None:
    for deep in (False, True):
        cases = list(count_blocks([NETWORK], [8, 16], [1, 8], 2500))[4 * deep : 4 * deep + 4]
        assert [len(c.counts) for c in cases] == [1, 4, 0, 4]
        counted, large = cases[3], cases[2]
        assert scaled(counted, cases).ghosts == counted.mean(lambda c: c.ghosts)
        load = scaled(large, cases)
        assert (load.atoms, load.ghosts) == (pytest.approx(16384), 0.0)
        per_atom = counted.mean(lambda c: c.edges[-1]) / 2048
        assert load.edges == pytest.approx([16384 * per_atom] * 2)
        # a crystal cut along its planes shows fewer atoms than its density
        assert 0.6 < counted.ratios[2] < 0.7  # two planes of the 3.04 in 5.5 Å
        as_if = replace(counted, counts=[])
        assert scaled(as_if, cases).ghosts == pytest.approx(scaled(counted, cases).ghosts)


def test_without_planes_edges_are_as_volumes_say_and_ghosts_fewer() -> None:
    """The cap of a ball that reaches over a face by less than 0.8 Å has seldom an atom in it."""
    counts = whole(disordered(16), 8, NETWORK, False)
    load = block_load(16384, 8, NETWORK, deep=False)
    shorter = replace(NETWORK, cutoff=NETWORK.cutoff - 0.8)
    ghosts = np.mean([c.ghosts for c in counts])
    assert ghosts == pytest.approx(block_load(16384, 8, shorter, deep=False).ghosts, rel=0.05)
    assert ghosts < load.ghosts
    assert np.mean([c.edges[0] for c in counts]) == pytest.approx(load.edges[0], rel=0.03)


def test_films_and_droplets() -> None:
    film, drop = slab(16, 4), droplet(16)
    assert film.n_atoms == 4096
    assert film.cell[2, 2] == pytest.approx(4 * CONSTANT + 20.0)
    assert drop.n_atoms == pytest.approx(DENSITY * pi / 6 * (16 * CONSTANT) ** 3, rel=0.02)
    assert np.ptp(drop.positions, axis=0).max() < 16 * CONSTANT
    counts = whole(drop, 8, NETWORK, False)
    assert max(c.atoms for c in counts) - min(c.atoms for c in counts) <= 3
    assert sum(c.edges[0] for c in counts) == build_edges(drop, NETWORK.cutoff).n_edges


@pytest.mark.slow
def test_the_page_and_the_figure(tmp_path: Path) -> None:
    given = options(["--latency", "5e-6", "--today-root", "1e-7"])
    networks = [replace(NETWORK, name="alloy"), replace(NETWORK, name="paper", width=512)]
    cases = list(count_blocks(networks, [8, 16], [1, 8], 2500))
    found = machines(given, networks, cases)
    (gpu, today, core) = found.values()
    assert gpu["alloy"] == replace(Machine(), latency=5e-6)
    assert today["alloy"].root == 1e-7
    assert 0.0 < today["paper"].edges < 1e-3
    assert 1e9 < core["alloy"].rate < 1e13
    assert root_seconds(8) > 0.0
    wholes = [compare(8, 8, networks[0], False)]
    text = page(Found(cases, wholes, wholes, networks, found, "A line."))
    assert "| 16,384 | 1 | ~ | 16,384 |" in text
    assert "NO" not in text
    assert "| alloy | exchanged | 8 | 1.0" in text
    assert "4 of 4" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(cell for line in rows for cell in line.split("|")[1:2])
    widths = [len(line.split("|")) for line in rows]
    assert {a for a, line in zip(widths, rows, strict=True) if "---" in line} == set(widths)
    draw(Found(cases, wholes, wholes, networks, found, ""), tmp_path / "x.svg")
    assert (tmp_path / "x.svg").stat().st_size > 10_000


def test_a_brick_that_sees_itself() -> None:
    """A cell so small that deep ghosts go round it: each atom is one ghost."""
    bricks = Bricks.cut(Block(8), 2)
    found = one_brick(bricks, 1, replace(NETWORK, layers=4), True)
    assert found.ghosts == 1024
    assert found.points > 4 * 1024
