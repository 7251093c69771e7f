"""Long dynamics at constant volume and temperature: does a model stay within physics?

    python benchmarks/nvt.py START --model M --teacher T --temperature K --out F

LAMMPS moves START on the model as `forcenet-md prepare` sets it up (Langevin, 0.1 ps). Then: the
mean temperature of each element, g(r) of every pair beside that of the teacher's own dynamics (as
above, of START or, for slow teachers, of a smaller piece at the same density), and the teacher's
forces on frames of the path. Every stage leaves files in F and is not repeated; F/result.md and
two pictures are the outcome.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from hardware import hardware

from forcenet_md.artifact.export import read_card
from forcenet_md.data.frames import write_frames
from forcenet_md.data.visiting import Visit, trajectory
from forcenet_md.data.workers import Crew
from forcenet_md.distill.teacher_calculator import TeacherCalculator
from forcenet_md.engines.prepared import file_name, timestep
from forcenet_md.inference.load import model_path
from forcenet_md.simulation.observables import (
    PairDistribution,
    element_temperatures,
    pair_distribution,
    read_lammps_dump,
)
from forcenet_md.simulation.plots import (
    TemperatureCurves,
    plot_pair_distributions,
    plot_temperatures,
)

SKIPPED = 0.1  # of the run, while it warms up
DUMP_EVERY = 100  # steps, as `prepare` writes it
REFERENCE_SPACING = 0.1  # ps
LABELLED = 25  # frames of the path
R_MAX, N_BINS = 6.0, 60


def main(given: argparse.Namespace) -> None:
    folder: Path = given.out
    folder.mkdir(parents=True, exist_ok=True)
    frames = run(folder, given)
    after = int(SKIPPED * len(frames))
    path = evaluate_path(folder, frames[after:], given)
    step = timestep(frames[0])
    time = np.arange(len(frames)) * DUMP_EVERY * step
    curves = TemperatureCurves(time, element_temperatures(frames), float(time[after]))
    plot_temperatures(folder / "temperatures.png", {"LAMMPS": curves}, given.temperature)
    reference = read_reference(folder, given)
    half = len(reference) // 2
    model_g, teacher_g = g(frames[after:]), g(reference)
    plot_pair_distributions(
        folder / "pair-distributions.png", {"model": model_g, "teacher": teacher_g}
    )
    result = {
        "start": f"{frames[0].get_chemical_formula()}, {len(frames[0])} atoms",
        "ps": float(time[-1]),
        "timestep_fs": 1000.0 * step,
        "target": given.temperature,
        "temperatures": {e: mean_and_error(t[after:]) for e, t in curves.temperatures.items()},
        "g": model_g.deviation(teacher_g),
        "g_noise": g(reference[:half]).deviation(g(reference[half:])),
        "path": path,
        "test": read_card(model_path(given.model)).test_errors,
        "nearest": min(nearest(atoms) for atoms in frames[after:]),
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    text = table(result, given)
    (folder / "result.md").write_text(text, encoding="utf-8")
    print(text)


def run(folder: Path, given: argparse.Namespace) -> list[Atoms]:
    """The dump's frames; LAMMPS runs where there is none that is whole."""
    name = file_name(given.start)
    done = folder / "whole"
    if not done.is_file():
        words = ["--out", folder, "--temperature", given.temperature, "--overwrite"]
        command(folder, "prepare", given.start.absolute(), "--model", given.model, *words)
        steps = round(given.ps / timestep(read(given.start)))
        inside = ["--model", given.model, "-in", f"{name}.in", "-var", "steps", steps]
        command(folder, "lammps", *inside, "-screen", "none")
        done.touch()
    return read_lammps_dump(folder / f"{name}.dump")


def read_reference(folder: Path, given: argparse.Namespace) -> list[Atoms]:
    """Frames of the teacher's dynamics, without its beginning."""
    path = folder / "reference.extxyz"
    if not path.is_file():
        start = read(given.reference_start or given.start)
        fs = 1000.0 * timestep(start)
        plan = Visit(given.temperature, given.reference_ps, REFERENCE_SPACING, fs, heat=2.0)
        elements = given.elements.split(",") if given.elements else []
        print(f"{given.reference_ps:g} ps of {given.teacher}", flush=True)
        with Crew(given.teacher, elements, 1, None) as crew:
            frames = list(trajectory(start, TeacherCalculator(crew), plan, seed=1))
        write_frames(path, frames[int(SKIPPED * len(frames)) :])
    return list(read(path, index=":"))


def evaluate_path(folder: Path, frames: list[Atoms], given: argparse.Namespace) -> dict[str, float]:
    """Errors on frames that are spread over the path, by the teacher's labels."""
    labelled, out = folder / "path-labelled.extxyz", folder / "path.json"
    if not labelled.is_file():
        chosen = np.linspace(0, len(frames) - 1, LABELLED).round().astype(int)
        plain = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc) for a in frames]
        write_frames(folder / "path.extxyz", [plain[k] for k in chosen])
        words = ["--teacher", given.teacher, "--out", labelled.name, "--no-screen"]
        words += ["--elements", given.elements] if given.elements else []
        command(folder, "label", "path.extxyz", *words)
    if not out.is_file():
        words = ["--model", given.model, "--out", out.name, "--rotations", "0"]
        command(folder, "evaluate", labelled.name, *words)
    errors = json.loads(out.read_text("utf-8"))["all"]
    return {key: float(errors[key]) for key in ("mae", "mean_abs_force", "relative")}


def command(folder: Path, *words: object) -> None:
    program = [sys.executable, "-m", "forcenet_md", *(str(word) for word in words)]
    print("$ forcenet-md", *program[3:], flush=True)
    subprocess.run(program, cwd=folder, check=True)


def g(frames: list[Atoms]) -> PairDistribution:
    return pair_distribution(frames, R_MAX, N_BINS)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean, and its standard error from ten blocks."""
    blocks = [block.mean() for block in np.array_split(values, 10)]
    return float(values.mean()), float(np.std(blocks, ddof=1) / np.sqrt(10.0))


def table(result: dict[str, Any], given: argparse.Namespace) -> str:
    """What was found, as Markdown."""
    path, test = result["path"], result["test"]
    lines = [
        f"# {given.model} in {result['ps']:.0f} ps of NVT",
        "",
        f"{result['start']}, {given.temperature:g} K, Langevin 0.1 ps,"
        f" {result['timestep_fs']:g} fs."
        f" {hardware()}. Made by `python benchmarks/nvt.py`; the first tenth is left out.",
        "",
        "| | temperature, K | off by |",
        "|---|---|---|",
    ]
    for element, (mean, error) in result["temperatures"].items():
        off = mean / given.temperature - 1.0
        lines.append(f"| {element} | {mean:.1f} ± {error:.1f} | {off:+.2%} |")
    lines += [
        "",
        f"Shortest distance: {result['nearest']:.2f} Å.",
        f"Error along the path by {given.teacher}: {path['mae']:.4f} eV/Å, {path['relative']:.2%}"
        f" of mean |F|; test error {test['relative']:.2%}; ratio"
        f" {path['relative'] / test['relative']:.2f}.",
        "",
        "g(r) against the teacher's own dynamics, ∫|Δg|/∫g; noise: of the two halves of those.",
        "",
        "| pair | model | noise |",
        "|---|---|---|",
    ]
    for pair, value in result["g"].items():
        lines.append(f"| {pair} | {value:.1%} | {result['g_noise'][pair]:.1%} |")
    return "\n".join(lines) + "\n"


def nearest(atoms: Atoms) -> float:
    """Å"""
    distances = atoms.get_all_distances(mic=True)
    return float(distances[np.triu_indices(len(atoms), 1)].min())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start", type=Path, help="structure at the density of the run")
    parser.add_argument("--model", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--elements", help="of a LAMMPS teacher")
    parser.add_argument("--temperature", type=float, required=True, help="K")
    parser.add_argument("--ps", type=float, default=100.0)
    parser.add_argument("--reference-start", type=Path)
    parser.add_argument("--reference-ps", type=float, default=20.0)
    parser.add_argument("--out", type=Path, required=True)
    main(parser.parse_args())
