"""Many structures relaxed in one batch, beside one ASE optimiser for each of them.

    python -m benchmarks.relaxation [MODEL] [--device cpu] [--out benchmarks/results/relaxation.md]

Rattled crystals of 30 to 60 atoms of the model's elements, until no force is above 0.05 eV/Å, at
most 100 steps, by the same ASE optimiser, on the same device: one `ForceNetCalculator` after the
other, and all in batches. Both ways make the same steps. Seconds are the processor's on a cpu,
which other programs do not change, and the clock's on a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.optimize import FIRE, LBFGS

from benchmarks.hardware import hardware
from forcenet_md.engines.ase_calculator import ForceNetCalculator, ForcesOnly
from forcenet_md.inference.load import load_evaluator
from forcenet_md.relaxation.batch import relax
from forcenet_md.relaxation.course import Course, Settings

N = 100
REPEATS = ((2, 2, 2), (3, 3, 1), (2, 2, 3), (3, 5, 1))  # of cells of 4 atoms: 32 to 60
KINDS: dict[Literal["lbfgs", "fire"], Any] = {"lbfgs": LBFGS, "fire": FIRE}
BATCHES = {"lbfgs": (300, 1000, 4000), "fire": (1000,)}  # atoms


def structures(numbers: Sequence[int], n: int) -> list[Atoms]:
    rng = np.random.default_rng(0)
    found = []
    for k in range(n):
        atoms = bulk("Cu", a=3.95, cubic=True) * REPEATS[k % len(REPEATS)]
        atoms.numbers = rng.choice(numbers, len(atoms))
        atoms.rattle(0.1, rng=rng)
        found.append(atoms)
    return found


def one_by_one(frames: Sequence[Atoms], model: str, device: str, settings: Settings) -> list[int]:
    """Steps of each."""
    calculator = ForceNetCalculator(model, device=device, threads=1)
    steps = []
    for atoms in frames:
        twin = atoms.copy()
        twin.calc = calculator
        optimizer = KINDS[settings.optimizer](ForcesOnly(twin), logfile=None)
        optimizer.run(fmax=settings.fmax, steps=settings.steps)
        steps.append(optimizer.nsteps)
    return steps


def together(
    frames: Sequence[Atoms], model: str, device: str, settings: Settings, batch_atoms: int
) -> list[Course]:
    evaluator = load_evaluator(model, device=device)
    evaluator.warm_up()
    return list(relax(evaluator, frames, settings, batch_atoms))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="alloy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--structures", type=int, default=N)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    clock = time.process_time if given.device == "cpu" else time.perf_counter
    numbers = sorted(load_evaluator(given.model).capabilities.numbers)
    frames = structures(numbers, given.structures)
    lines = [
        f"# Relaxing {len(frames)} structures of 32 to 60 atoms with the model {given.model}",
        "",
        f"{hardware()}; {given.device}, float32, one thread; to 0.05 eV/Å, at most 100 steps;"
        f" {'processor' if given.device == 'cpu' else 'wall'} time.",
        "Made by `python -m benchmarks.relaxation --out …`.",
        "",
        "| optimiser | way | structures/s | steps/s | ÷ one by one | converged |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for optimizer in KINDS:
        settings = Settings(optimizer, fmax=0.05, steps=100)
        begun = clock()
        steps = one_by_one(frames, given.model, given.device, settings)
        alone = clock() - begun
        rows = [("one by one", alone, sum(steps), sum(n < settings.steps for n in steps))]
        for batch_atoms in BATCHES[optimizer]:
            begun = clock()
            found = together(frames, given.model, given.device, settings, batch_atoms)
            seconds = clock() - begun
            converged = sum(course.ending == "converged" for course in found)
            made = sum(course.steps for course in found)
            rows.append((f"batches of {batch_atoms} atoms", seconds, made, converged))
        for way, seconds, made, converged in rows:
            lines.append(
                f"| {optimizer} | {way} | {len(frames) / seconds:.2f} | {made / seconds:.0f}"
                f" | {alone / seconds:.2f} | {converged} |"
            )
            print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
