"""LAMMPS scripts of a study: the start, by its teacher, and runs of the teacher and of the model.

Both run under the same thermostat; where the forces come from is all that differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io.lammpsdata import write_lammps_data

from benchmarks.nvt.files import check_same
from benchmarks.segments import Schedule, data, dump, missing, run_segments, schedule, served
from benchmarks.truth.studies import DAMP, ELEMENTS, LATTICE, Study
from forcenet_md.artifact.export import read_card
from forcenet_md.data.compiling import sha256
from forcenet_md.data.eam import write_setfl
from forcenet_md.engines.processes import run_lammps
from forcenet_md.inference.load import model_path

START = "start.data"
TABLE = "teacher.eam.alloy"

READ = """units metal
atom_style atomic
atom_modify sort 0 0
comm_modify cutoff 8.0
read_data ${begins}
"""
TEACHER = f"""pair_style eam/alloy
pair_coeff * * ../{TABLE} {" ".join(ELEMENTS)}
"""
MODEL = f"""fix ext all external pf/callback 1 1
forcenet ext ${{address}} elements {" ".join(ELEMENTS)}
"""
# The density that has no pressure, of the last 20 ps of 40; then 10 ps at it.
FIND_START = """
fix move all npt temp ${temperature} ${temperature} 0.1 iso 0.0 0.0 1.0
run 10000
variable volume equal vol
fix mean all ave/time 10 1000 10000 v_volume
run 10000
variable length equal f_mean^(1.0/3.0)
variable found equal ${length}
change_box all x final 0.0 ${found} y final 0.0 ${found} z final 0.0 ${found} remap units box
unfix move
fix move all nve
fix bath all langevin ${temperature} ${temperature} 0.1 12
run 5000
unfix mean
reset_timestep 0
write_data ${end} nocoeff
"""
WARM = """timestep 0.002
velocity all create $(2.0*v_temperature) 11 dist gaussian loop geom
"""
MELT = """fix move all npt temp ${melt} ${melt} 0.1 iso 0.0 0.0 1.0
run 10000
unfix move
fix move all npt temp ${melt} ${temperature} 0.1 iso 0.0 0.0 1.0
run 10000
unfix move
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
dump_modify trajectory sort id element {" ".join(ELEMENTS)} delay ${{dumped}}
run ${{steps}}
write_data ${{end}} nocoeff
"""


@dataclass(frozen=True, slots=True)
class Made:
    """folder: of the segments; stopped: why it did not come to its end"""

    folder: Path
    plan: Schedule
    stopped: str | None

    @property
    def dumps(self) -> list[Path]:
        paths = [dump(self.folder, k) for k in range(self.plan.segments)]
        return [path for path in paths if path.is_file()]


def crystal(cells: int) -> Atoms:
    """An fcc solid solution of equal parts, shuffled the same way every time."""
    atoms = bulk("Cu", "fcc", a=LATTICE, cubic=True) * cells
    symbols = np.resize(ELEMENTS, len(atoms))
    np.random.default_rng(5).shuffle(symbols)
    atoms.symbols = symbols
    return atoms


def make_start(folder: Path, study: Study) -> Path:
    """The structure and velocities that all runs of a study begin with.

    Raises ProcessError with LAMMPS's words, DataError where the folder is of another study.
    """
    check_same(folder / "settings.json", {
        "cells": study.cells, "temperature": study.temperature, "melt": study.melt,
        "timestep": study.timestep, "every": study.every, "segment": study.segment,
    })  # fmt: skip
    start = folder / START
    if start.is_file():
        return start
    work = folder / "start"
    work.mkdir(exist_ok=True)
    write_setfl(ELEMENTS, folder / TABLE)
    with open(work / "crystal.data", "w", encoding="ascii") as file:
        write_lammps_data(file, crystal(study.cells), specorder=list(ELEMENTS), masses=True)
    script = work / "start.in"
    values = {"begins": "crystal.data", "melt": study.melt or 0.0, "end": START}
    melt = MELT if study.melt else ""
    text = variables(values) + READ + TEACHER + WARM + melt + FIND_START
    script.write_text(text, encoding="utf-8")
    print("start: by the teacher", flush=True)
    run_lammps(script, variables={"temperature": study.temperature})
    (work / START).replace(start)
    return start


def run(folder: Path, study: Study, ps: float, seed: int, model: str | None = None) -> Made:
    """The segments that are not there, on a served model, or by the teacher.

    Raises DataError where the folder is of another run.
    """
    start = make_start(folder, study)
    every = round(study.every / study.timestep)
    plan = schedule(study.temperature, ps, study.segment, study.timestep, every, seed)
    name = f"teacher-{seed}" if model is None else "model"
    work = folder / name
    source = TEACHER if model is None else MODEL
    path = None if model is None else str(model_path(model).absolute())
    sha = read_card(Path(path)).sha256 if path else "zhou2004"
    check_same(work / "settings.json", {"forces": sha, "start": sha256(start), "seed": seed})

    def script(k: int) -> str:
        first = k * plan.segment
        values = {
            "begins": f"../{START}" if k == 0 else data(work, k - 1).name,
            "first": first,
            "timestep": plan.timestep,
            "every": plan.every,
            "dump": dump(work, k, whole=False).name,
            "dumped": first + bool(k),  # the frame that a segment begins with is there
            "end": f"{data(work, k).name}.part",
        }
        return variables(values) + READ + source + RUN

    stopped = None
    if todo := missing(work, plan):
        if path is None:
            stopped = run_segments(work, plan, todo, script, name)
        else:
            with served(path, work / "server.log") as address:
                stopped = run_segments(work, plan, todo, script, name, address)
    return Made(work, plan, stopped)


def variables(values: Mapping[str, object]) -> str:
    """As LAMMPS reads them."""
    return "".join(f"variable {name} string {value}\n" for name, value in values.items())
