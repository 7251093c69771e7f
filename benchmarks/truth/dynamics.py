"""Runs of a study, from its start: on the served model through LAMMPS, and by the teacher.

All are under the same thermostat; where the forces come from is all that differs.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.nvt.files import check_same, read_segment
from benchmarks.nvt.teacher import run_teacher, segment_file
from benchmarks.segments import (
    Schedule,
    data,
    dump,
    missing,
    run_segments,
    schedule,
    segment_name,
    served,
)
from benchmarks.truth.starts import BY_TEACHER, READ, START, make_start, read_data, variables
from benchmarks.truth.studies import DAMP, Study
from forcenet_md.artifact.export import read_card
from forcenet_md.data.compiling import sha256
from forcenet_md.data.teachers import ZHOU
from forcenet_md.inference.load import model_path

BY_MODEL = """fix ext all external pf/callback 1 1
forcenet ext ${address} elements ${elements}
"""
RUN = f"""
reset_timestep ${{first}}
timestep ${{timestep}}
fix move all nve
fix bath all langevin ${{temperature}} ${{temperature}} {DAMP:g} ${{seed}} tally yes
thermo_style custom step time temp ke f_bath cpu
thermo_modify format float %.10g
thermo ${{every}}
dump trajectory all custom ${{every}} ${{dump}} id element x y z vx vy vz
dump_modify trajectory sort id element ${{elements}} delay ${{dumped}}
run ${{steps}}
write_data ${{end}} nocoeff
"""


@dataclass(frozen=True, slots=True)
class Made:
    """folder: of the segments; files: their frames; seconds: that they took together; stopped: why
    it did not come to its end"""

    folder: Path
    plan: Schedule
    files: list[Path]
    seconds: float
    stopped: str | None


def run_model(folder: Path, study: Study, ps: float) -> Made:
    """The segments that are not there, on a served model.

    Raises DataError where the folder is of another run.
    """
    path = model_path(study.model).absolute()
    work = folder / "model"
    work.mkdir(parents=True, exist_ok=True)
    todo = missing(work, _plan(study, ps, 1))
    with served(str(path), work / "server.log") if todo else nullcontext("") as address:
        return _by_lammps(folder, study, ps, 1, address, read_card(path).sha256)


def run_teachers(folder: Path, study: Study, ps: float) -> list[Made]:
    """As `run_model`, one for each seed."""
    length = min(ps, study.teacher_ps or ps)
    how = _by_lammps if study.teacher == ZHOU else _by_ase
    return [how(folder, study, length, 2 + k) for k in range(study.teachers)]


def _plan(study: Study, ps: float, seed: int) -> Schedule:
    every = round(study.every / study.timestep)
    return schedule(study.temperature, ps, study.segment, study.timestep, every, seed)


def _by_lammps(
    folder: Path, study: Study, ps: float, seed: int, address: str = "", model: str = ""
) -> Made:
    """address, model: of the server, and its model's sha256; none: the teacher"""
    start = make_start(folder, study)
    plan = _plan(study, ps, seed)
    name = "model" if model else f"teacher-{seed}"
    work = folder / name
    forces = model or study.teacher
    check_same(work / "settings.json", {"forces": forces, "start": sha256(start), "seed": seed})

    def script(k: int) -> str:
        first = k * plan.segment
        values = {
            "begins": f"../{START}" if k == 0 else data(work, k - 1).name,
            "elements": " ".join(study.elements),
            "first": first,
            "timestep": plan.timestep,
            "every": plan.every,
            "dump": dump(work, k, whole=False).name,
            "dumped": first + bool(k),  # the frame that a segment begins with is there
            "end": f"{data(work, k).name}.part",
        }
        return variables(values) + READ + (BY_MODEL if model else BY_TEACHER) + RUN

    todo = missing(work, plan)
    stopped = run_segments(work, plan, todo, script, name, address)
    files = [path for k in range(plan.segments) if (path := dump(work, k)).is_file()]
    return Made(work, plan, files, _looped(work, plan), stopped)


def _looped(folder: Path, plan: Schedule) -> float:
    """Seconds of LAMMPS's own loops together."""
    logs = [folder / f"{segment_name(k)}.log" for k in range(plan.segments)]
    text = [path.read_text(encoding="utf-8") for path in logs if path.is_file()]
    loops = [line for each in text for line in each.splitlines() if line.startswith("Loop time")]
    return sum(float(line.split()[3]) for line in loops)


def _by_ase(folder: Path, study: Study, ps: float, seed: int) -> Made:
    start = read_data(make_start(folder, study))
    plan = _plan(study, ps, seed)
    work = folder / f"teacher-{seed}"
    run_teacher(work, start, study.teacher, study.elements, plan)
    files = [segment_file(work, k) for k in range(plan.segments)]
    took = sum(float(read_segment(path)[-1].info["seconds"]) for path in files)
    return Made(work, plan, files, took, None)
