"""What `forcenet-md probe` says of the shipped models.

    python -m benchmarks.probe [--model NAME] [--out benchmarks/results/probe.md]

from the root of the repository, with CHGNet installed beside it: each model at structures of its
kind, first run for a while under a thermostat. Heating is seen by the energy of a model's teacher;
that of water is DFT, and the temperature shows it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

from benchmarks.hardware import hardware
from forcenet_md.data.visiting import Visit, trajectory
from forcenet_md.engines.ase_calculator import ForceNetCalculator
from forcenet_md.engines.prepared import timestep

SHIPPED = Path("tests/data/shipped")
# model, temperature, further options of the command
ROWS = [
    ("alloy", 300, ["--teacher", "zhou2004"]),
    ("alloy", 1500, ["--teacher", "zhou2004"]),
    ("lips", 600, ["--time", "0.5", "--teacher", "chgnet"]),
    ("water", 300, ["--time", "0.25"]),
]


def start_of(model: str) -> Atoms:
    if model == "alloy":
        atoms = bulk("Cu", cubic=True, a=3.975) * (3, 3, 3)
        atoms.numbers = np.random.default_rng(0).choice([29, 46, 47, 78, 79], len(atoms))
        return atoms
    found = read(SHIPPED / f"{model}.extxyz", index=0)
    assert isinstance(found, Atoms)
    return found


def frames_of(model: str, temperature: float) -> list[Atoms]:
    """Three of half a picosecond under a strong thermostat."""
    start = start_of(model)
    plan = Visit(temperature, 0.6, 0.2, 1000.0 * timestep(start), relaxation_ps=0.05)
    calculator = ForceNetCalculator(model)
    found = list(trajectory(start, calculator, plan, seed=1))
    for atoms in found:
        atoms.calc = None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", choices=sorted({model for model, *_ in ROWS}), help="this alone")
    arguments = parser.parse_args()
    lines = [
        "# What `forcenet-md probe` says of the shipped models",
        "",
        f"{hardware()}; float64, one thread. Made by `python -m benchmarks.probe --out …`.",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for model, temperature, options in ROWS:
            if arguments.model not in (None, model):
                continue
            file = Path(folder, f"{model}-{temperature}.extxyz")
            write(file, frames_of(model, temperature), format="extxyz")
            words = ["probe", file.name, "--model", model, "--temperature", str(temperature)]
            begun = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "forcenet_md", *words, *options],
                capture_output=True,
                text=True,
                check=True,
                cwd=folder,
            )
            took = time.perf_counter() - begun
            lines += ["", f"    forcenet-md {' '.join([*words, *options])}", ""]
            lines += [f"    {line}".rstrip() for line in done.stdout.splitlines()]
            lines += ["", f"{took:.0f} s."]
            print("\n".join(lines[-len(done.stdout.splitlines()) - 5 :]), flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
