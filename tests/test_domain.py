"""A rank's part of a structure, without MPI: ranks are threads, the exchange is recorded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import ALLOY, write_model
from torch import Tensor

from forcenet_md.artifact.card import Card
from forcenet_md.errors import ModelFileError, StructureError, TooManyEdgesError
from forcenet_md.graph import pieces
from forcenet_md.graph.domains import bisect
from forcenet_md.graph.exchange import Plan, make_plan
from forcenet_md.graph.frame import Frame, Placement
from forcenet_md.graph.ghosts import Surroundings, surroundings
from forcenet_md.graph.pieces import Division, divide
from forcenet_md.inference.domain import Domain
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.inference.load import check_shareable
from forcenet_md.mpi import One
from forcenet_md.system import System

Array = np.ndarray[Any, Any]


class Threads:
    """Some of the collective calls of `Ranks`, between threads."""

    def __init__(self, rank: int, size: int, common: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, size
        self._common, self._barrier = common, barrier

    def _all(self, mine: Any) -> list[Any]:
        self._common[self.rank] = mine
        self._barrier.wait()
        found = list(self._common)
        self._barrier.wait()
        return found

    def allgather(self, mine: Array) -> Array:
        return np.array(self._all(mine))

    def swap(self, out: Mapping[int, Any]) -> dict[int, Any]:
        return {
            r: said[self.rank] for r, said in enumerate(self._all(dict(out))) if self.rank in said
        }


def on_threads(size: int, work: Callable[[Any], Any]) -> list[Any]:
    common, barrier = [None] * size, threading.Barrier(size)
    results: list[Any] = [None] * size

    def one(rank: int) -> None:
        try:
            results[rank] = work(Threads(rank, size, common, barrier))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class RecordingExchange:
    """Gives the ghost rows of a run on one rank; `events` tells what came when.

    rows: of each layer's output, all atoms' [n_atoms, width]; own, ghosts: ids of ours
    """

    bytes = 0
    waited = 0.0

    def __init__(self, rows: list[Tensor], own: Array, ghosts: Array, positions: Array) -> None:
        self._rows, self._own, self._ghosts, self._positions = rows, own, ghosts, positions
        self.events: list[str] = []
        self._round = -1
        self.worst = 0.0

    def open(self, rounds: int) -> None:
        self.events.append(f"open {rounds}")
        self._round = -1

    def start(self, rows: Tensor) -> None:
        self.events.append("start")
        self._round += 1
        error = (rows - self._rows[self._round][self._own]).abs().max()
        self.worst = max(self.worst, float(error))

    def finish(self) -> Tensor:
        self.events.append("finish")
        return self._rows[self._round][self._ghosts]

    def refresh(self, positions: Array) -> Array:
        self.events.append("positions")
        return self._positions[self._ghosts]

    def give_up(self) -> None:
        self.events.append("give up")

    def close(self) -> None:
        """Nothing is held."""


def system(n: int = 200, edge: float = 24.0) -> System:
    rng = np.random.default_rng(3)
    points = np.empty((0, 3))
    while len(points) < n:
        new = rng.random(3) * edge
        apart = new - points
        apart -= np.rint(apart / edge) * edge
        if not len(points) or np.linalg.norm(apart, axis=1).min() > 1.7:
            points = np.vstack([points, new])
    return System.make(points, rng.choice(ALLOY, n), np.eye(3) * edge, True)


@pytest.fixture
def network(tmp_path: Path) -> ModelEvaluator:
    write_model(tmp_path / "m.pt", n_layers=3, cutoff=4.0)
    return ModelEvaluator(tmp_path / "m.pt", dtype="float64")


class Listening:
    """A model that keeps what each layer gives, and writes into `events` that it was called."""

    def __init__(self, model: Any, events: list[str]) -> None:
        self._model, self._events = model, events
        self.rows: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def interact(self, *arguments: Any) -> Tensor:
        self._events.append(f"layer {arguments[0]} of {arguments[-1]}")
        self.rows.append(self._model.interact(*arguments))
        return self.rows[-1]


def layers(network: ModelEvaluator, whole: System) -> tuple[list[Tensor], Array]:
    """What each layer but the last gives on one rank, and the forces with their mean."""
    model = network.model
    listening = Listening(model, [])
    network.model = listening  # type: ignore[assignment]
    (answer,) = network.evaluate([Request(network.new_session(), whole, True)])
    network.model = model
    return listening.rows[:-1], answer.forces  # type: ignore[union-attr]


def divided(
    whole: System, size: int, reach: float, depth: int = 1
) -> tuple[list[tuple[Array, Surroundings, Division, Plan]], Placement]:
    frame = Frame.of(whole)
    placement = Placement.of(whole.positions, frame, reach)
    owner = bisect(placement.along, size)

    def work(ranks: Any) -> Any:
        own = np.flatnonzero(owner == ranks.rank)
        around = surroundings(
            own, whole.numbers[own], placement.wrapped[own], frame, depth * reach, ranks
        )
        division = divide(around, reach, ranks.rank, depth)
        return own, around, division, make_plan(division, ranks)

    return on_threads(size, work), placement


@pytest.mark.parametrize("size", [2, 5])
def test_a_layer_s_rows_are_exchanged_while_others_are_computed(
    size: int, network: ModelEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = system()
    rows, forces = layers(network, whole)
    reach = network.card.cutoff + 0.4
    parts, placement = divided(whole, size, reach)
    asked = {r: p[3].receive for r, p in enumerate(parts)}
    for rank, (own, around, division, plan) in enumerate(parts):
        assert np.array_equal(np.sort(around.ids[: len(own)]), own)
        ghosts = around.ids[division.home[len(own) :]]
        assert len(np.unique(ghosts)) == len(ghosts) == plan.n_ghosts  # one row an atom
        assert not np.isin(ghosts, own).any()
        for other, sent in plan.send.items():
            assert asked[other][rank] == len(sent)
            theirs = parts[other]
            wanted = theirs[1].ids[theirs[2].home[len(theirs[0]) :]]
            assert np.isin(own[sent], wanted).all()

        exchange = RecordingExchange(rows, own, ghosts, placement.wrapped)
        events = exchange.events
        domain = Domain(network, division, exchange)
        monkeypatch.setattr(network, "model", Listening(network.model, events))
        found = domain.forces_of(placement.wrapped[own], whole.cell)
        monkeypatch.undo()
        assert np.abs(found - forces[own]).max() < 1e-12 * np.abs(forces).max()
        assert exchange.worst < 1e-12
        inner, outer = (
            sum(piece.n_targets for piece in division.pieces if piece.ghosts is ghost)
            for ghost in (False, True)
        )
        assert inner + outer == len(own)
        assert outer > 0
        inside = [f"layer {{}} of {inner}"] if inner else []
        order = ["positions", "open 2", *inside, f"layer {{}} of {outer}"]
        for _ in range(2):
            order += ["start", *inside, "finish", f"layer {{}} of {outer}"]
        layer = iter("0" * (len(inside) + 1) + "1" * (len(inside) + 1) + "2" * (len(inside) + 1))
        assert events == [e.format(next(layer)) if "{}" in e else e for e in order]
        assert domain.edges[0] == domain.edges[1] == domain.edges[2] > 0
    assert sum(p[2].n_owned for p in parts) == whole.n_atoms


def test_deep_ghosts_need_no_rows_and_shrink_from_layer_to_layer(network: ModelEvaluator) -> None:
    whole = system()
    rows, forces = layers(network, whole)
    parts, placement = divided(whole, 4, network.card.cutoff + 0.4, depth=3)
    for own, around, division, _ in parts:
        ghosts = around.ids[division.home[len(own) :]]
        exchange = RecordingExchange(rows, own, ghosts, placement.wrapped)
        domain = Domain(network, division, exchange)
        found = domain.forces_of(placement.wrapped[own], whole.cell)
        assert exchange.events == ["positions", "open 0"]
        assert np.abs(found - forces[own]).max() < 1e-12 * np.abs(forces).max()
        assert domain.edges[0] > domain.edges[1] > domain.edges[2] > 0


def test_pieces_share_out_the_atoms(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = system()
    monkeypatch.setattr(pieces, "MOST_TARGETS", 13)
    parts, _ = divided(whole, 2, 4.4)
    for own, _, division, _ in parts:
        targets = np.concatenate([p.rows[: p.n_targets] for p in division.pieces])
        assert np.array_equal(np.sort(targets), np.arange(len(own)))
        assert max(p.n_targets for p in division.pieces) <= 13
        assert [p.ghosts for p in division.pieces] == sorted(p.ghosts for p in division.pieces)
        for piece in division.pieces:
            assert (piece.rows >= len(own)).any() == piece.ghosts


def test_a_fault_is_followed_by_the_rounds_that_others_wait_for(network: ModelEvaluator) -> None:
    whole = system()
    rows, _ = layers(network, whole)
    x = whole.positions.copy()
    x[3] = x[5]
    whole = System.make(x, whole.numbers, whole.cell, True)
    parts, placement = divided(whole, 2, network.card.cutoff + 0.4)
    ends = []
    for own, around, division, _ in parts:
        ghosts = around.ids[division.home[len(own) :]]
        exchange = RecordingExchange(rows, own, ghosts, placement.wrapped)
        domain = Domain(network, division, exchange)
        with contextlib.suppress(StructureError):
            domain.forces_of(placement.wrapped[own], whole.cell)
        ends.append((np.isin([3, 5], own).any(), exchange.events[-1] == "give up"))
    assert sorted(ends) == [(False, False), (True, True)]


def test_a_network_without_stages_is_for_one_rank(network: ModelEvaluator) -> None:
    check_shareable(network.card)
    card: Card = network.card.model_copy(update={"staged": False})
    with pytest.raises(ModelFileError, match=r"2 × cutoff × layers.*run it on one rank"):
        check_shareable(card)


def test_what_would_take_all_memory_is_refused(network: ModelEvaluator) -> None:
    """Before images are made of an absurd cell, and pairs of atoms on top of one another."""
    grain = System.make([[0.0, 0.0, 0.0]], [29], np.eye(3) * 0.1, True)
    with pytest.raises(TooManyEdgesError, match="images of the cell within 8 Å"):
        surroundings(np.arange(1), grain.numbers, grain.positions, Frame.of(grain), 8.0, One())
    crowd = System.make(np.random.default_rng(0).random((8000, 3)), [29] * 8000, np.eye(3), False)
    around = surroundings(
        np.arange(8000), crowd.numbers, crowd.positions, Frame.of(crowd), 4.0, One()
    )
    with pytest.raises(TooManyEdgesError, match=r"8000 atoms have .* neighbour pairs"):
        divide(around, 4.0, 0)
    with pytest.raises(TooManyEdgesError, match="at most 10 are allowed"):
        divide(around, 0.1, 0, max_edges=10)
