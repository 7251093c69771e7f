"""What the runs of a study begin with: positions, velocities and a density of the teacher's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read
from ase.io.lammpsdata import write_lammps_data

from benchmarks.nvt.files import check_same, read_start
from benchmarks.nvt.teacher import run_teacher
from benchmarks.segments import schedule
from benchmarks.truth.studies import LATTICE, Study
from forcenet_md.data.eam import write_setfl
from forcenet_md.data.teachers import ZHOU
from forcenet_md.engines.processes import run_lammps

START = "start.data"
TABLE = "teacher.eam.alloy"
WARMED = 2.0  # ps, of a crystal by a teacher that is slow

READ = """units metal
atom_style atomic
atom_modify sort 0 0
comm_modify cutoff 8.0
read_data ${begins}
"""
BY_TEACHER = f"""pair_style eam/alloy
pair_coeff * * ../{TABLE} ${{elements}}
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


def make_start(folder: Path, study: Study) -> Path:
    """The structure and velocities that all runs of a study begin with.

    Raises ProcessError with LAMMPS's words, DataError where the folder is of another study.
    """
    check_same(folder / "settings.json", {
        "model": study.model, "teacher": study.teacher, "repeat": study.repeat,
        "temperature": study.temperature, "melt": study.melt, "timestep": study.timestep,
        "every": study.every, "segment": study.segment,
    })  # fmt: skip
    start = folder / START
    if not start.is_file():
        made = _settled(folder, study) if study.teacher == ZHOU else _warmed(folder, study)
        made.replace(start)
    return start


def _settled(folder: Path, study: Study) -> Path:
    """By LAMMPS, at the density that has no pressure."""
    work = folder / "start"
    work.mkdir(exist_ok=True)
    write_setfl(study.elements, folder / TABLE)
    _write(work / "crystal.data", solid_solution(study), study)
    script = work / "start.in"
    values = {"begins": "crystal.data", "melt": study.melt or 0.0, "end": START,
              "elements": " ".join(study.elements)}  # fmt: skip
    melt = MELT if study.melt else ""
    text = variables(values) + READ + BY_TEACHER + WARM + melt + FIND_START
    script.write_text(text, encoding="utf-8")
    print("start: by the teacher", flush=True)
    run_lammps(script, variables={"temperature": study.temperature})
    return work / START


def _warmed(folder: Path, study: Study) -> Path:
    """By ASE, in the cell of the crystal."""
    assert study.crystal is not None
    crystal = read_start(study.crystal, study.repeat)
    plan = schedule(study.temperature, WARMED, 1.0, study.timestep, 10, seed=11)
    warm = run_teacher(folder / "start", crystal, study.teacher, study.elements, plan)[-1]
    path = folder / "start" / START
    _write(path, warm, study)
    return path


def solid_solution(study: Study) -> Atoms:
    """Fcc, of equal parts, shuffled the same way every time."""
    atoms = bulk("Cu", "fcc", a=LATTICE, cubic=True) * study.repeat
    symbols = np.resize(study.elements, len(atoms))
    np.random.default_rng(5).shuffle(symbols)
    atoms.symbols = symbols
    return atoms


def read_data(path: Path) -> Atoms:
    """A data file of the study's, with velocities."""
    atoms = read(path, format="lammps-data", atom_style="atomic", units="metal")
    assert isinstance(atoms, Atoms)
    return atoms


def variables(values: Mapping[str, object]) -> str:
    """As LAMMPS reads them."""
    return "".join(f'variable {name} string "{value}"\n' for name, value in values.items())


def _write(path: Path, atoms: Atoms, study: Study) -> None:
    with open(path, "w", encoding="ascii") as file:
        write_lammps_data(
            file, atoms, specorder=list(study.elements), masses=True,
            velocities=atoms.has("momenta"),
        )  # fmt: skip
