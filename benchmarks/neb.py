"""A band of images for ASE's NEB in one batch, beside one calculator for each image.

    python -m benchmarks.neb [MODEL] [--device cpu] [--out benchmarks/results/neb.md]

An atom moves into a vacancy of a random crystal of the model's elements: steps of FIRE from the
interpolated band, by the same NEB and energies (the work of the forces), with one thread. Both ways
make the same steps; the first are not timed. Seconds are the processor's on a cpu, which other
programs do not change, and the clock's on a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.mep import NEB
from ase.optimize import FIRE

from benchmarks.hardware import hardware
from forcenet_md.engines.ase_calculator import ForceNetCalculator
from forcenet_md.engines.neb import Band
from forcenet_md.errors import ForceNetError
from forcenet_md.inference.interface import Evaluator, Request, Session
from forcenet_md.system import Forces

STEPS, WARM_UP = 10, 2
IMAGES = (5, 9, 17)
REPEATS = (2, 3)  # of cells of 4 atoms in each direction, less the vacancy: 31 and 107 atoms


class OneForEachImage:
    """Evaluators, each of which has one image of the band, in the place of one for all."""

    def __init__(self, evaluators: Sequence[Evaluator]) -> None:
        self._evaluators = evaluators
        self._without_session = iter(evaluators)

    def new_session(self) -> Session:
        return next(self._without_session).new_session()

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        return [
            self._evaluators[request.moment.stream].evaluate([request])[0] for request in requests
        ]


def hop(numbers: Sequence[int], repeat: int, images: int) -> list[Atoms]:
    """The nearest neighbour of a vacancy on its way into it, in even steps."""
    rng = np.random.default_rng(0)
    crystal = bulk("Cu", a=3.95, cubic=True) * repeat
    crystal.numbers = rng.choice(numbers, len(crystal))
    crystal.rattle(0.02, rng=rng)
    way = crystal.positions[0] - crystal.positions[1]
    band = []
    for share in np.linspace(0.0, 1.0, images):
        atoms = crystal.copy()
        atoms.positions[1] += share * way
        del atoms[0]
        band.append(atoms)
    return band


def seconds(images: list[Atoms], model: str, device: str, together: bool) -> float:
    """Of a step; the images are moved."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    calculator = ForceNetCalculator(model, device=device, threads=1)
    if not together:
        others = [ForceNetCalculator(model, device=device, threads=1) for _ in images[1:]]
        evaluators = [each.evaluator for each in (calculator, *others)]
        calculator.evaluator = cast(Evaluator, OneForEachImage(evaluators))
    Band(images, calculator, work=True)
    optimizer = FIRE(NEB(images, method="improvedtangent"), logfile=None)
    optimizer.run(fmax=0.0, steps=WARM_UP)
    begun = clock()
    optimizer.run(fmax=0.0, steps=STEPS)
    return (clock() - begun) / STEPS  # a run begins with the forces that it has


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="alloy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    numbers = sorted(ForceNetCalculator(given.model).capabilities.numbers)
    lines = [
        f"# Bands for ASE's NEB with the model {given.model}",
        "",
        f"{hardware()}; {given.device}, float32, one thread;"
        f" {'processor' if given.device == 'cpu' else 'wall'} time of a step of the band.",
        "Made by `python -m benchmarks.neb --out …`.",
        "",
        "| atoms | images | one calculator an image, ms | one batch, ms | ratio |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for repeat in REPEATS:
        for n in IMAGES:
            alone, band = (hop(numbers, repeat, n) for _ in range(2))
            apart = 1e3 * seconds(alone, given.model, given.device, together=False)
            together = 1e3 * seconds(band, given.model, given.device, together=True)
            for image, other in zip(alone, band, strict=True):
                np.testing.assert_allclose(image.positions, other.positions, atol=1e-3)
            lines.append(
                f"| {len(band[0])} | {n} | {apart:.1f} | {together:.1f} | {apart / together:.2f} |"
            )
            print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
