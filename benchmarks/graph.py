"""Neighbour graph: time per step against a search at every step and against ASE.

    OMP_NUM_THREADS=1 python -m benchmarks.graph [--write]

Copper at its density, 6 Å; the atoms move as in a melt at 1500 K (velocities that are forgotten
within 100 fs, steps of 2 fs). All in one run on one core, medians of processor time.
With --write the table replaces benchmarks/results/graph.md.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ase
import numpy as np
import vesin
from ase.build import bulk
from ase.neighborlist import primitive_neighbor_list

from forcenet_md.graph.neighbours import NeighbourList, build_edges
from forcenet_md.system import System

CUTOFF = 6.0
SIZES = {64: (2, 2, 4), 500: (5, 5, 5), 4000: (10, 10, 10)}
RESULT = Path(__file__).parent / "results" / "graph.md"


def melt(repeat: tuple[int, int, int]) -> Iterator[System]:
    atoms = bulk("Cu", cubic=True).repeat(repeat)
    rng = np.random.default_rng(0)
    speed = np.sqrt(1500 * 8.617e-5 / 63.546) * 0.0982  # Å/fs, per component
    kept = np.exp(-2.0 / 100.0)
    velocity = rng.normal(scale=speed, size=atoms.positions.shape)
    while True:
        yield System.from_ase(atoms.copy())
        kick = rng.normal(scale=speed, size=velocity.shape)
        velocity = kept * velocity + np.sqrt(1 - kept**2) * kick
        atoms.positions += 2.0 * velocity


def per_step(step: Callable[[System], object], systems: list[System]) -> tuple[float, float]:
    """Mean and median seconds of processor time: the mean holds the searches, too."""
    times = []
    for system in systems:
        start = time.thread_time()
        step(system)
        times.append(time.thread_time() - start)
    return float(np.mean(times[1:])), float(np.median(times[1:]))


def ase_list(system: System) -> object:
    return primitive_neighbor_list("ijDS", system.pbc, system.cell, system.positions, CUTOFF)


def rows() -> Iterator[str]:
    for n_atoms, repeat in SIZES.items():
        frames = melt(repeat)
        systems = [next(frames) for _ in range(400)]
        neighbours = NeighbourList(CUTOFF, skin=0.5)
        mean, median = per_step(neighbours.update, systems)
        every, _ = per_step(lambda s: build_edges(s, CUTOFF), systems[:40])
        by_ase, _ = per_step(ase_list, systems[: max(3, 4000 // n_atoms)])
        scale = 1e6 / n_atoms
        yield (
            f"| {n_atoms} | {mean * scale:.2f} | {median * scale:.2f} | {every * scale:.1f} |"
            f" {by_ase * scale:.0f} | {every / mean:.1f} | {by_ase / mean:.0f} |"
            f" {len(systems) / neighbours.rebuilds:.0f} |"
        )


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"put the table into {RESULT}")
    write = parser.parse_args().write
    table = [
        "| atoms | µs/atom, mean | between searches | search each step | ASE | search ÷ ours |"
        " ASE ÷ ours | steps per search |",
        "|---|---|---|---|---|---|---|---|",
        *rows(),
    ]
    lines = [
        "# Neighbour graph",
        "",
        f"fcc Cu density, {CUTOFF:g} Å, skin 0.5 Å, atoms moving as in a melt at 1500 K, 2 fs.",
        f"One core of: {processor()}. Python {platform.python_version()}, NumPy {np.__version__},"
        f" vesin {vesin.__version__}, ASE {ase.__version__}.",
        "Processor time per atom and step of the edges with their vectors, sorted and filtered.",
        "",
        *table,
        "",
        "Made by `python -m benchmarks.graph --write`.",
    ]
    print("\n".join(lines))
    if write:
        RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
