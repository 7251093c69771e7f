"""Two ranks against one, beside what two independent processes reach at the same time.

    python -m benchmarks.ranks [--out benchmarks/results/ranks.md]

Everything is measured in one run of two MPI processes, in turn, several times: one rank alone while
the other sleeps, both at once with a system each, both together on one system.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import bulk

from benchmarks.hardware import hardware
from benchmarks.step import BIN
from forcenet_md.graph.frame import Array
from forcenet_md.inference.crew import Crew, DividedEvaluator, Order, follow, next_order
from forcenet_md.inference.interface import Evaluator, Request
from forcenet_md.inference.ranks import Sharing
from forcenet_md.mpi import World, join_world
from forcenet_md.system import System

SIZES = (108, 500, 4000, 16384)
REPEATS = 11
WAYS = ("exchanged", "bfloat16", "deep")
SHARINGS = {
    "exchanged": Sharing(),
    "bfloat16": Sharing(wire="bfloat16"),
    "deep": Sharing(deep=True),
}
IDLE = (0.0, 0.1, 2.0)  # s


def alloy(n: int, numbers: frozenset[int]) -> System:
    """About n atoms of an fcc alloy near room temperature."""
    repeat = round((n / 4) ** (1 / 3))
    atoms = bulk("Cu", cubic=True, a=3.9) * repeat
    rng = np.random.default_rng(0)
    x = atoms.positions + 0.1 * rng.normal(size=(len(atoms), 3))
    return System.make(x, rng.choice(sorted(numbers), len(atoms)), atoms.cell.array, True)


def steps(evaluator: Evaluator, system: System) -> Callable[[], Array]:
    """A function that computes the forces of one step; the search is done before."""
    session = evaluator.new_session()

    def step() -> Array:
        (answer,) = evaluator.evaluate([Request(session, system)])
        if isinstance(answer, Exception):
            raise answer
        return answer.forces

    step()
    return step


def timed(step: Callable[[], Array], seconds: float) -> list[float]:
    """Seconds of each step, for about that long, at least three."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return found


def program(model: str) -> None:
    """On both ranks; rank 0 prints a line of JSON for each size."""
    from forcenet_md.inference.load import load_network

    world = World(join_world())
    network = load_network(model)
    network.warm_up()
    numbers = network.capabilities.numbers
    for n in SIZES:
        system = alloy(n, numbers)
        apart = steps(network, system)
        forces = apart()
        times: dict[str, list[float]] = {name: [] for name in ("one", "independent", *WAYS)}
        counts: dict[str, float] = {}
        for _ in range(REPEATS):
            world.allgather(np.zeros(1))
            if world.rank == 0:
                times["one"].append(float(np.median(timed(apart, 0.3))))
            world.allgather(np.zeros(1))
            # both at once, for the same time
            mine = timed(apart, 0.6)
            all_ = world.allgather(np.array([np.median(mine)]))
            times["independent"].append(float(all_.mean()))
            for way in WAYS:
                crew = Crew(network, world, SHARINGS[way])
                if world.rank > 0:
                    follow(crew)
                else:
                    step = steps(DividedEvaluator(crew), system)
                    times[way].append(float(np.median(timed(step, 0.3))))
                    domain = crew.bricks[1].domain
                    before = domain.exchange.bytes
                    error = np.abs(step() - forces).max() / np.abs(forces).max()
                    counts[f"{way} error"] = float(error)
                    counts[f"{way} bytes"] = domain.exchange.bytes - before
                    counts[f"{way} ghosts"] = len(domain.division.ghost_row)
                    counts[f"{way} work"] = sum(domain.edges)
                    counts[f"{way} owned work"] = domain.edges[-1] * len(domain.edges)
                    next_order(world, Order.STOP)
                    crew.close()
        if world.rank == 0:
            found: dict[str, Any] = {name: min(t) for name, t in times.items()}
            # Two systems in the time of `independent`; what is near in time saw the same machine.
            whole = np.array(times["independent"]) / 2.0
            found |= {f"{way} part": (whole / times[way]).tolist() for way in WAYS}
            print(json.dumps({"atoms": system.n_atoms} | found | counts), flush=True)
    idle(network, world)


def idle(network: object, world: World) -> None:
    """How much later a small step ends where the ranks had been idle before it."""
    from forcenet_md.inference.evaluator import ModelEvaluator

    assert isinstance(network, ModelEvaluator)
    system = alloy(108, network.capabilities.numbers)
    crew = Crew(network, world, Sharing())
    if world.rank > 0:
        follow(crew)
        return
    step = steps(DividedEvaluator(crew), system)
    found = {}
    for pause in IDLE:
        late = []
        for _ in range(20 if pause < 1 else 5):
            time.sleep(pause)
            late += timed(step, 0.0)[:1]
        found[str(pause)] = float(np.median(late))
    next_order(world, Order.STOP)
    crew.close()
    print(json.dumps({"idle": found}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", default="alloy")
    parser.add_argument("--program", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.program:
        program(arguments.model)
        return
    command = [str(BIN / "mpirun"), "-n", "2", sys.executable, "-m", "benchmarks.ranks"]
    done = subprocess.run(
        [*command, "--program", "--model", arguments.model],
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    text = page([json.loads(line) for line in done.stdout.splitlines()], arguments.model)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def page(rows: list[dict[str, Any]], model: str) -> str:
    lines = [
        "# Two ranks against one",
        "",
        f"{hardware()}; model `{model}`, float32, one thread a rank; ms per step without a search,"
        f" the best of {REPEATS} turns, in each of which all ways were timed.",
        "`independent`: both ranks with a system each, at once, which is what two cores can give;"
        " the last columns are the part of it that two ranks on one system reach: the median of the"
        " turns, and half of the turns lie between the figures in brackets.",
        "Made by `python -m benchmarks.ranks --out …`.",
        "",
        "| atoms | one | independent, each | exchanged | bfloat16 | deep | speed-up of independent"
        " | exchanged / independent | bfloat16 / | deep / |",
        "|" + "---|" * 10,
    ]
    for row in rows[:-1]:
        times = [row["one"], row["independent"], *(row[way] for way in WAYS)]
        most = 2.0 * row["one"] / row["independent"]
        cells = [f"{1e3 * t:.1f}" for t in times] + [f"{most:.2f}"]
        for way in WAYS:
            low, middle, high = np.percentile(row[f"{way} part"], (25, 50, 75))
            cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f})")
        lines.append(f"| {row['atoms']} | {' | '.join(cells)} |")
    lines += [
        "",
        "What rank 0 does and sends in a step:",
        "",
        "| atoms | ghosts | kB sent | in bfloat16 | largest error of bfloat16 / largest force"
        " | deep ghosts | kB | work / that of own atoms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows[:-1]:
        kilobytes = [f"{row[f'{way} bytes'] / 1e3:.0f}" for way in WAYS]
        work = row["deep work"] / row["deep owned work"]
        lines.append(
            f"| {row['atoms']} | {row['exchanged ghosts']} | {kilobytes[0]} | {kilobytes[1]}"
            f" | {row['bfloat16 error']:.0e} | {row['deep ghosts']} | {kilobytes[2]} | {work:.2f} |"
        )
    idle = rows[-1]["idle"]
    said = ", ".join(f"{1e3 * t:.1f} ms after {pause} s" for pause, t in idle.items())
    lines += ["", f"A step of 108 atoms by ranks that have been idle: {said}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
