"""Run under mpirun: all ranks compute forces together, and rank 0 holds them against its own.

`python ranks_program.py FOLDER CASE…` prints one line of JSON for each case.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import numpy as np
import torch
from models import ALLOY, write_model

from forcenet_md.errors import ForceNetError
from forcenet_md.graph import pieces
from forcenet_md.inference.crew import Crew, DividedEvaluator, Order, follow, next_order
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.inference.ranks import Sharing
from forcenet_md.mpi import World, join_world, share_fault
from forcenet_md.system import Forces, System

WORLD = World(join_world())
FOLDER = Path(sys.argv[1])
NAN = 99


def network(name: str, dtype: str = "float64", **settings: object) -> ModelEvaluator:
    path = FOLDER / f"{name}-{WORLD.rank}.pt"
    write_model(path, **settings)  # type: ignore[arg-type]
    return ModelEvaluator(path, dtype=dtype)


def gas(n: int, cell: np.ndarray, pbc: object, seed: int = 0, nearest: float = 1.6) -> System:
    """Atoms of all elements at random, at least `nearest` Å apart, anywhere near the cell."""
    rng = np.random.default_rng(seed)
    periodic = np.broadcast_to(pbc, 3)
    points = np.empty((0, 3))
    inverse = np.linalg.inv(cell)
    while len(points) < n:
        new = rng.random(3)
        apart = new - points
        apart -= np.rint(apart) * periodic
        if len(points) == 0 or np.linalg.norm(apart @ cell, axis=1).min() > nearest:
            points = np.vstack([points, new])
    points += rng.integers(-1, 2, (n, 3)) * periodic  # wrapped anyhow
    assert np.isfinite(inverse).all()
    return System.make(points @ cell, rng.choice(ALLOY, n), cell, periodic)


@contextmanager
def together(evaluator: ModelEvaluator, sharing: Sharing) -> Iterator[DividedEvaluator | None]:
    """The evaluator of all ranks on rank 0; None on the others, when their work is done."""
    crew = Crew(evaluator, WORLD, sharing)
    if WORLD.rank > 0:
        follow(crew)
        yield None
        return
    try:
        yield DividedEvaluator(crew)
    finally:
        next_order(WORLD, Order.STOP)
        crew.close()


def worst(
    evaluator: ModelEvaluator, systems: list[System], sharing: Sharing | None = None
) -> dict[str, float]:
    """The largest difference of forces over max |F|, over the systems, each in its own session."""
    with together(evaluator, sharing or Sharing()) as all_ranks:
        if all_ranks is None:
            return {}
        found = 0.0
        for system in systems:
            # with the net force: taking it out would hide an error that all atoms share
            (one,) = evaluator.evaluate([Request(evaluator.new_session(), system, True)])
            (many,) = all_ranks.evaluate([Request(all_ranks.new_session(), system, True)])
            for answer in (one, many):
                if isinstance(answer, ForceNetError):
                    raise answer
            difference = np.abs(many.forces - one.forces).max() / np.abs(one.forces).max()
            found = max(found, float(difference), different_contact(one, many))
        return {"worst": found, "systems": len(systems)}


def different_contact(one: Forces, many: Forces) -> float:
    """How far apart the ratios of the closest pairs are; infinity for other atoms."""
    a, b = one.contact, many.contact
    if a is None or b is None:
        return 0.0 if a is b else inf
    # one pair in a lattice is as close as the next but for rounding
    same = a[2:] == b[2:] or abs(a.ratio - b.ratio) < 1e-9
    return abs(a.ratio - b.ratio) if same else inf


def shapes() -> list[System]:
    cube = np.eye(3)
    tilted = np.array([[13.0, 0, 0], [4.0, 12.0, 0], [-5.0, 3.0, 14.0]])
    thin = np.diag([3.1, 14.0, 15.0])
    slab = gas(60, np.diag([12.0, 12.0, 9.0]), [True, True, False], seed=3)
    vacuum = System.make(slab.positions, slab.numbers, np.diag([12.0, 12.0, 60.0]), True)
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    lattice = System.make(grid * 3.0, np.resize(ALLOY, 64), cube * 12.0, True)  # on the cuts
    droplet = System.make(grid[:9] * 2.7 + 20.0, np.resize(ALLOY, 9), cube * 90.0, True)
    far = System.make(np.vstack([grid[:5] * 2.5, grid[:5] * 2.5 + 500.0]), [29] * 10, cube, False)
    alone = System.make([[1.0, 2.0, 3.0]], [78], cube * 4.0, True)
    two = System.make([[0.0, 0, 0], [2.5, 0, 0]], [29, 78], np.zeros((3, 3)), False)
    return [
        gas(90, cube * 14.0, True),
        gas(90, cube * 14.0, False),
        gas(70, tilted, True),
        gas(70, tilted, [True, False, True]),
        gas(24, thin, True),
        gas(24, thin, [True, True, False]),
        slab,
        vacuum,
        lattice,
        droplet,
        far,
        alone,
        two,
    ]


def float64() -> dict[str, float]:
    return worst(network("plain"), shapes())


def float32() -> dict[str, float]:
    return worst(network("plain", "float32"), shapes())


def capped() -> dict[str, float]:
    """On the lattice many neighbours are equally near: all ranks must take the same."""
    return worst(network("capped", neighbour_cap=9), shapes())


def floor() -> dict[str, float]:
    return worst(network("floor", floor="zbl", floor_outer=1.2), shapes())


def deep() -> dict[str, float]:
    return worst(network("plain"), shapes(), Sharing(deep=True))


def bfloat16() -> dict[str, float]:
    return worst(network("plain", "float32"), shapes(), Sharing(wire="bfloat16"))


def pieced() -> dict[str, float]:
    """More pieces than one per rank, and bases that are computed anew in each layer."""
    from forcenet_md.inference import domain

    pieces.MOST_TARGETS, domain.MOST_KEPT = 11, 0
    try:
        return worst(network("plain"), shapes()) | {}
    finally:
        pieces.MOST_TARGETS, domain.MOST_KEPT = 8192, 10_000_000


def dynamics() -> dict[str, float]:
    """A thousand steps in which atoms wander from rank to rank, each held against one rank's."""
    evaluator = network("plain")
    with together(evaluator, Sharing()) as all_ranks:
        if all_ranks is None:
            return {}
        system = gas(60, np.eye(3) * 12.0, True)
        rng = np.random.default_rng(5)
        drift = rng.normal(size=(60, 3)) * 0.02
        one, many = evaluator.new_session(), all_ranks.new_session()
        found, orders = 0.0, set()
        positions = system.positions
        for _ in range(1000):
            positions = positions + drift + rng.normal(size=(60, 3)) * 0.005
            now = System.make(positions, system.numbers, system.cell, True)
            (a,) = evaluator.evaluate([Request(one, now)])
            (b,) = all_ranks.evaluate([Request(many, now)])
            assert not isinstance(a, ForceNetError), a
            assert not isinstance(b, ForceNetError), b
            found = max(found, float(np.abs(a.forces - b.forces).max() / np.abs(a.forces).max()))
            orders.add(many.order.tobytes())
        return {"worst": found, "divisions": len(orders)}


def sessions() -> dict[str, float]:
    """Two simulations in turn, one of which ends: what is kept of them is freed."""
    evaluator = network("plain")
    with together(evaluator, Sharing()) as all_ranks:
        if all_ranks is None:
            return {}
        first, second = all_ranks.new_session(), all_ranks.new_session()
        systems = gas(40, np.eye(3) * 11.0, True), gas(30, np.eye(3) * 10.0, True, seed=1)
        for _ in range(2):
            all_ranks.evaluate(
                [Request(s, x) for s, x in zip((first, second), systems, strict=True)]
            )
        before = len(all_ranks.crew.bricks)
        del first
        all_ranks.evaluate([Request(second, systems[1])])
        return {"before": before, "after": len(all_ranks.crew.bricks)}


def fault() -> dict[str, object]:
    """One rank runs out of memory in one layer: all end the step, rank 0 has the sentence, and the
    next step is whole."""
    evaluator = network("plain", n_layers=3)
    original = evaluator.model
    state = {"calls": 0, "fail_at": -1}

    class Failing:
        def __getattr__(self, name: str) -> object:
            return getattr(original, name)

        def interact(self, *arguments: object) -> torch.Tensor:
            state["calls"] += 1
            if state["calls"] == state["fail_at"] and WORLD.rank == WORLD.size - 1:
                raise torch.OutOfMemoryError("cannot allocate")
            return original.interact(*arguments)

        def readout(self, *arguments: torch.Tensor) -> dict[str, torch.Tensor]:
            out = original.readout(*arguments)
            if state["fail_at"] == NAN and WORLD.rank == WORLD.size - 1:
                out["forces"] = out["forces"] * torch.nan
            return out

    evaluator.model = Failing()  # type: ignore[assignment]
    told: list[str] = []
    system = gas(60, np.eye(3) * 12.0, True)
    for fail_at in (1, 2, 3, NAN):
        state.update(calls=0, fail_at=fail_at)
        with together(evaluator, Sharing()) as all_ranks:
            if all_ranks is None:
                continue
            session = all_ranks.new_session()
            (bad,) = all_ranks.evaluate([Request(session, system)])
            if fail_at == NAN:  # the other ranks go on to give them
                told.append(str(bad))
                continue
            state["fail_at"] = -1
            (good,) = all_ranks.evaluate([Request(session, system)])
            told += [str(bad), type(good).__name__]
    return {"told": told}


def coincident() -> dict[str, object]:
    """Two atoms on one point, at the end of the list: named as the user's list has them."""
    evaluator = network("plain")
    system = gas(60, np.eye(3) * 12.0, True)
    x = system.positions.copy()
    x[59] = x[7]
    with together(evaluator, Sharing()) as all_ranks:
        if all_ranks is None:
            return {}
        bad = System.make(x, system.numbers, system.cell, True)
        (told,) = all_ranks.evaluate([Request(all_ranks.new_session(), bad)])
        return {"told": str(told)}


def loading() -> dict[str, object]:
    """What goes wrong on one rank is known to all."""
    fault = None
    if WORLD.rank == WORLD.size - 1:
        fault = ForceNetError("there is no file here.")
    told = share_fault(WORLD, fault)
    return {"told": str(told)}


CASES: dict[str, Callable[[], dict[str, object]]] = {
    case.__name__: case  # type: ignore[misc]
    for case in (
        float64,
        float32,
        capped,
        floor,
        deep,
        bfloat16,
        pieced,
        dynamics,
        sessions,
        fault,
        coincident,
        loading,
    )
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        result = CASES[name]()
        if WORLD.rank == 0:
            print(json.dumps({"case": name} | result), flush=True)
