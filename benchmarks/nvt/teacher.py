"""What the teacher adds: dynamics of its own, and its forces on frames of the model's path."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from benchmarks.nvt.files import check_same, read_segment
from benchmarks.segments import Schedule, segment_name
from forcenet_md.data.compiling import sha256
from forcenet_md.data.frames import write_frames
from forcenet_md.data.visiting import heated, langevin
from forcenet_md.data.workers import Crew
from forcenet_md.distill.teacher_calculator import TeacherCalculator
from forcenet_md.engines.prepared import DAMP
from forcenet_md.errors import DataError

SPACING = 0.1  # ps between frames
SEGMENT = 1.0  # ps: what is lost when the run is cut
HEAT = 2.0  # at the start: a crystal at rest takes half of it, as `prepare` has it


def run_teacher(
    folder: Path, start: Atoms, teacher: str, elements: Sequence[str], plan: Schedule
) -> list[Atoms]:
    """Frames of Langevin dynamics by the teacher, plan.every steps apart, with momenta.

    Every segment is a file that the next one starts from: the run goes on after a stop, and comes
    to the same trajectory. start: with random velocities if it has none.
    Raises DataError if the folder is of another run, or where the teacher fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    structure = folder / "start.extxyz"
    write_frames(structure, [start])
    settings = {"teacher": teacher, "structure": sha256(structure), "seed": plan.seed,
                "temperature": plan.temperature, "timestep": plan.timestep, "every": plan.every,
                "segment": plan.segment}  # fmt: skip
    check_same(folder / "settings.json", settings)
    files = [segment_file(folder, k) for k in range(plan.segments)]
    missing = [k for k, file in enumerate(files) if not file.is_file()]
    began = time.monotonic()
    with Crew(teacher, elements, 1) as crew:
        for done, k in enumerate(missing, 1):
            rng = np.random.default_rng([plan.seed, k])
            atoms = read_segment(files[k - 1])[-1] if k else start.copy()
            if not atoms.has("momenta"):
                atoms = heated(atoms, plan.temperature, rng, HEAT)
            write_frames(files[k], _segment(atoms, crew, plan, k, rng))
            left = (time.monotonic() - began) * (len(missing) - done) / done / 60.0
            told = f"{(k + 1) * plan.segment * plan.timestep:g} of {plan.ps:g} ps"
            print(f"{teacher}: {told}, {left:.0f} min left", flush=True)
    return [atoms for file in files for atoms in read_segment(file)]


def segment_file(folder: Path, k: int) -> Path:
    return folder / f"{segment_name(k)}.extxyz"


def _segment(
    atoms: Atoms, crew: Crew, plan: Schedule, k: int, rng: np.random.Generator
) -> list[Atoms]:
    """The frames of segment k; each says its step, the last one what they took together."""
    began = time.monotonic()
    atoms.info.clear()
    atoms.calc = TeacherCalculator(crew)
    dynamics = langevin(atoms, plan.temperature, 1000.0 * plan.timestep, DAMP, rng)
    frames = []
    for step in range(plan.every, plan.segment + 1, plan.every):
        dynamics.run(plan.every)
        frames.append(atoms.copy())
        frames[-1].info["step"] = k * plan.segment + step
    frames[-1].info["seconds"] = time.monotonic() - began
    return frames


def path_errors(
    folder: Path,
    frames: Sequence[Atoms],
    model: str,
    teacher: str,
    elements: Sequence[str],
    labelled: int,
) -> dict[str, float]:
    """Errors of the model on frames evenly spread over its path, labelled by the teacher.

    In eV/Å, under the names of a card. What is labelled already is not labelled again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.unique(np.linspace(0, len(frames) - 1, labelled).round().astype(int))
    given, out, found = (folder / n for n in ("path.extxyz", "labelled.extxyz", "errors.json"))
    plain = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc) for a in frames]
    if not given.is_file():
        write_frames(given, [plain[k] for k in chosen])
    words = ["--teacher", teacher, "--elements", ",".join(elements), "--out", out]
    if not out.is_file():
        command("label", given, *words, "--no-screen", "--resume")
    command("evaluate", out, "--model", model, "--out", found, "--rotations", 0)
    result = json.loads(found.read_text("utf-8"))
    errors = result["all"]
    return {
        "force_mae": float(errors["mae"]),
        "mean_abs_force": float(errors["mean_abs_force"]),
        "relative": float(errors["relative"]),
        "n_frames": int(result["data"]["n_frames"]),
    }


def command(*words: object) -> None:
    """A command of ours, with its words on standard error. Raises DataError if it fails."""
    program = [sys.executable, "-m", "forcenet_md", *(str(word) for word in words)]
    print("$ forcenet-md", *program[3:], flush=True)
    if subprocess.run(program, stdout=subprocess.DEVNULL).returncode != 0:
        raise DataError(f"forcenet-md {words[0]} failed: mend what it said above, and go on.")
