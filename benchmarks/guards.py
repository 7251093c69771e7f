"""What the guards take of a step of the evaluator, in this process.

    python -m benchmarks.guards [--out benchmarks/results/guards.md]

Atoms vibrate about their sites. Each step is evaluated twice, in turn first: as it is served, with
guards and the search of the closest pair, and without both. The difference of the medians drowns in
the noise of a step; so the two are also timed alone, within the steps that have them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from benchmarks.hardware import hardware
from forcenet_md.errors import ForceNetError
from forcenet_md.inference.graph_evaluator import GraphEvaluator
from forcenet_md.inference.interface import Evaluator, Moment, Request
from forcenet_md.inference.load import load_evaluator
from forcenet_md.inference.watched import WatchedEvaluator
from forcenet_md.system import System
from forcenet_md.watching.guard_limits import Limits
from forcenet_md.watching.guards import Guards

STEPS = {108: 150, 192: 150, 500: 60, 4000: 12}
AMPLITUDE, PERIOD = 0.15, 80  # Å, steps


class Clock:
    """Seconds in calls of functions, summed."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            start = perf_counter()
            try:
                return call(*arguments)
            finally:
                self.seconds += perf_counter() - start

        return wrapper


def alloy(repeat: int) -> Atoms:
    """4 repeat³ atoms of Ag Au Cu Pd Pt."""
    atoms = bulk("Ag", "fcc", a=3.95, cubic=True) * (repeat, repeat, repeat)
    metals = [47, 79, 29, 46, 78]
    atoms.numbers = np.random.default_rng(0).choice(metals, len(atoms))
    return atoms


def water() -> Atoms:
    """64 molecules on a lattice, at 1 g/cm³: bonds are nearer than the measure of other pairs, so
    that the closest pair is searched at every step."""
    one = molecule("H2O", cell=3 * [3.104], pbc=True)
    return one * (4, 4, 4)


def measure(model: str, atoms: Atoms, steps: int) -> str:
    """One row."""
    evaluator = load_evaluator(model)
    assert isinstance(evaluator, GraphEvaluator)
    limits = Limits.of_model(evaluator.capabilities).without_stops()  # of made-up displacements
    guards = Guards(limits, None, lambda _: None)
    watched = WatchedEvaluator(evaluator, [guards])
    evaluator.warm_up()
    clock = Clock()
    closest = evaluator.contacts.closest
    search, see = clock.timed(closest), clock.timed(guards.see)
    phase = np.random.default_rng(1).uniform(0, 2 * np.pi, (len(atoms), 3))
    sessions = [evaluator.new_session(), evaluator.new_session()]
    times: list[list[float]] = [[], []]
    own: list[float] = []

    def step(k: int, guarded: bool) -> None:
        x = atoms.positions + AMPLITUDE * np.sin(2 * np.pi * k / PERIOD + phase)
        system = System.make(x, atoms.numbers, atoms.cell.array, True)
        chosen: Evaluator = watched if guarded else evaluator
        evaluator.contacts.closest = search if guarded else lambda *_: None  # type: ignore[method-assign]
        guards.see = see  # type: ignore[method-assign]
        clock.seconds = 0.0
        request = Request(sessions[guarded], system, moment=Moment(step=k))
        start = perf_counter()
        (answer,) = chosen.evaluate([request])
        times[guarded].append(perf_counter() - start)
        if isinstance(answer, ForceNetError):
            raise answer
        if guarded:
            own.append(clock.seconds)

    for k in range(steps):
        for guarded in (k % 2 == 0, k % 2 == 1):
            step(k, guarded)
    late = slice(steps // 10, None)
    without, with_ = (1e3 * float(np.median(t[late])) for t in times)
    alone = 1e3 * float(np.median(own[late]))
    worst = 1e3 * float(np.quantile(own[late], 0.99))
    return (
        f"| {model} | {len(atoms)} | {without:.2f} | {with_:.2f} | {1e3 * alone:.0f}"
        f" | {1e3 * worst:.0f} | {100 * alone / without:.2f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines = [
        "# What the guards take of a step",
        "",
        f"{hardware()}; float32, one thread, no engine and no socket; medians.",
        "Timed alone: the search of the closest pair and the guards. Made by"
        " `python -m benchmarks.guards --out …`.",
        "",
        "| model | atoms | step without, ms | step with, ms | guards alone, µs | 99 % of them, µs"
        " | of a step |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, atoms in (("alloy", alloy(3)), ("alloy", alloy(5)), ("alloy", alloy(10)),
                         ("water", water())):  # fmt: skip
        lines.append(measure(model, atoms, STEPS[len(atoms)]))
        print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
