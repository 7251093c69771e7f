"""LAMMPS moves a structure on a served model, as `forcenet-md prepare` sets it up, in segments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from benchmarks.nvt.files import check_same
from benchmarks.segments import Schedule, data, dump, missing, run_segments, served
from forcenet_md.artifact.export import read_card
from forcenet_md.data.compiling import sha256
from forcenet_md.data.frames import write_frames
from forcenet_md.engines.lammps_input import Plan, write_lammps_input
from forcenet_md.errors import DataError
from forcenet_md.inference.load import model_path, read_capabilities
from forcenet_md.simulation.observables import read_lammps_dump

NAME = "start"  # of the files of `prepare`
DUMP_EVERY = 100  # steps, as `prepare` writes it


@dataclass(frozen=True, slots=True)
class ModelRun:
    """frames: DUMP_EVERY steps apart, with momenta; stopped: why it did not come to its end"""

    frames: list[Atoms]
    stopped: str | None


def run_model(folder: Path, start: Atoms, model: str, plan: Schedule) -> ModelRun:
    """Run the segments that are not there, and read them all.

    Raises DataError if the folder is of another run, or if there is no frame at all.
    """
    write_start(folder, start, model, plan)
    stopped = None
    if todo := missing(folder, plan):
        with served(model, folder / "server.log") as address:
            stopped = run_segments(
                folder, plan, todo, lambda k: segment_script(folder, plan, k), "model", address
            )
    frames = read_dumps(folder, plan)
    if not frames:
        why = stopped or f"see {folder} for why."
        raise DataError(f"the run stopped before its first frame: {why}")
    return ModelRun(frames, stopped)


def write_start(folder: Path, start: Atoms, model: str, plan: Schedule) -> None:
    """The inputs of `forcenet-md prepare`; the folder then is of this model and structure."""
    folder.mkdir(parents=True, exist_ok=True)
    structure = folder / f"{NAME}.extxyz"
    fresh = folder / "asked.extxyz"
    write_frames(fresh, [start])
    settings = {
        "model": read_card(model_path(model)).sha256,
        "structure": sha256(fresh),
        "temperature": plan.temperature,
        "timestep": plan.timestep,
        "segment": plan.segment,
        "seed": plan.seed,
    }
    try:
        check_same(folder / "settings.json", settings)
    finally:
        fresh.unlink()
    if not structure.is_file():
        written = Plan(NAME, model, "unix:/unused", temperature=plan.temperature)
        write_lammps_input(folder, start, written, read_capabilities(model), overwrite=True)
        write_frames(structure, [start])  # last: it says that all is there


def segment_script(folder: Path, plan: Schedule, k: int) -> str:
    """The script of `forcenet-md prepare`, from where the segment before ended.

    Raises DataError where it is not as this version writes it, or was changed since.
    """
    script = folder / f"{NAME}.in"
    text = script.read_text("utf-8")
    start = f"{NAME}.data" if k == 0 else data(folder, k - 1).name
    changes = {
        rf"read_data {NAME}\.data": f"read_data {start}\nreset_timestep {k * plan.segment}",
        rf"\b{NAME}\.dump\b": dump(folder, k, whole=False).name,
        r"^timestep .*": f"timestep {plan.timestep:g}",
        rf"{NAME}-end\.data": f"{data(folder, k).name}.part",
    }
    if k > 0:
        changes[r"^velocity .*\n"] = ""
    for pattern, new in changes.items():
        text, n = re.subn(pattern, new, text, flags=re.MULTILINE)
        if n != 1:
            raise DataError(
                f"{script} is not as this version prepares it ({n} lines match '{pattern}', not 1):"
                " give another --out."
            )
    return text


def read_dumps(folder: Path, plan: Schedule) -> list[Atoms]:
    """Frames of the segments that are whole, and of the one where the run stopped.

    A segment begins with the frame that the one before ended with, which is taken once.
    """
    frames: list[Atoms] = []
    for k in range(plan.segments):
        path = dump(folder, k, whole=data(folder, k).is_file())
        if not path.is_file() or not path.stat().st_size:
            break
        frames += read_lammps_dump(path)[min(k, 1) :]
    return frames
