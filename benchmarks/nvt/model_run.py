"""LAMMPS moves a structure on a served model, in segments.

Every segment is a LAMMPS of its own that starts from the positions and velocities with which the
one before ended (a data file, in full precision), with random numbers of its own. Segments that are
whole are kept and the one that was cut is run again, so that a run which was stopped comes to the
same trajectory as one which was not.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from ase import Atoms

from benchmarks.nvt.files import check_same
from forcenet_md.artifact.export import read_card
from forcenet_md.data.compiling import sha256
from forcenet_md.data.frames import write_frames
from forcenet_md.engines.lammps_input import Plan, write_lammps_input
from forcenet_md.engines.processes import EngineRun, ProcessError, run_lammps, serving
from forcenet_md.errors import DataError
from forcenet_md.inference.load import model_path, read_capabilities
from forcenet_md.simulation.observables import read_lammps_dump

NAME = "start"  # of the files of `prepare`
DUMP_EVERY = 100  # steps, as `prepare` writes it


@dataclass(frozen=True, slots=True)
class Schedule:
    """temperature: K; timestep: ps; segment: steps; segments: how many"""

    temperature: float
    timestep: float
    segment: int
    segments: int
    seed: int = 1

    @property
    def steps(self) -> int:
        return self.segment * self.segments

    @property
    def ps(self) -> float:
        return self.steps * self.timestep

    @property
    def spacing(self) -> float:
        """ps between frames."""
        return DUMP_EVERY * self.timestep


def schedule(temperature: float, ps: float, segment_ps: float, timestep: float) -> Schedule:
    """Of segments with a whole number of dumped frames, at least as long as asked for."""
    frames = max(1, round(segment_ps / timestep / DUMP_EVERY))
    segment = frames * DUMP_EVERY
    return Schedule(temperature, timestep, segment, max(1, ceil(ps / (segment * timestep) - 1e-9)))


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
    missing = [k for k in range(plan.segments) if not data(folder, k).is_file()]
    stopped = run_segments(folder, model, plan, missing) if missing else None
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


def run_segments(folder: Path, model: str, plan: Schedule, missing: list[int]) -> str | None:
    """None, or in a sentence why the model's run stopped."""
    began, n = time.monotonic(), len(missing)
    with tempfile.TemporaryDirectory(prefix="forcenet-nvt-") as private:
        address = f"unix:{private}/model.sock"
        with serving(model, address, folder / "server.log"):
            for done, k in enumerate(missing, 1):
                reached = k * plan.segment

                def at(step: int) -> None:
                    nonlocal reached
                    reached = step

                try:
                    run = run_segment(folder, address, plan, k, at)
                except ProcessError as fault:
                    return f"after {reached * plan.timestep:.3f} ps: {fault}"
                left = (time.monotonic() - began) * (n - done) / done / 60.0
                print(
                    f"model: {(k + 1) * plan.segment * plan.timestep:g} of {plan.ps:g} ps,"
                    f" {run.steps_per_second:.1f} steps/s, {left:.0f} min left",
                    flush=True,
                )
    return None


def run_segment(
    folder: Path, address: str, plan: Schedule, k: int, at: Callable[[int], None]
) -> EngineRun:
    """One LAMMPS. Raises ProcessError with its words if it stops."""
    script = folder / f"{segment_name(k)}.in"
    script.write_text(segment_script(folder, plan, k), encoding="utf-8")
    dump(folder, k, whole=False).unlink(missing_ok=True)  # one who died may still write to it
    variables = {
        "address": address,
        "temperature": plan.temperature,
        "steps": plan.segment,
        "seed": 100 * plan.seed + k,
    }
    run = run_lammps(script, variables=variables, on_step=at)
    dump(folder, k, whole=False).replace(dump(folder, k))
    end = data(folder, k)
    end.with_name(f"{end.name}.part").replace(end)  # last: the segment is whole
    return run


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


def segment_name(k: int) -> str:
    return f"segment-{k:04d}"


def dump(folder: Path, k: int, whole: bool = True) -> Path:
    return folder / f"{segment_name(k)}.dump{'' if whole else '.part'}"


def data(folder: Path, k: int) -> Path:
    """Where segment k ended; its presence says that the segment is whole."""
    return folder / f"{segment_name(k)}.data"
