"""How much energy the forces of a run put into it that does not come back.

The thermostat counts what it takes (`fix langevin … tally yes`). That, the atoms' kinetic energy
and the teacher's energy of their positions together stay the same under the teacher's forces; what
they gain under a model's is heat. LAMMPS and the teacher tell it, nothing of the model or of the
server does. A teacher's own runs by ASE have no such count.
"""

from __future__ import annotations

import numpy as np
from ase import units
from numpy.typing import NDArray

from benchmarks.segments import data, missing, segment_name
from benchmarks.truth.dynamics import Made
from benchmarks.truth.starts import read_data
from benchmarks.truth.studies import Study
from forcenet_md.data.teachers import open_teacher
from forcenet_md.simulation.statistics import Estimate, mean_of

KELVIN = 1.0 / (3.0 * units.kB)  # of energy per atom in eV, of which half is kinetic


def heat(made: Made, study: Study) -> Estimate | None:
    """eV per atom and ps, once settled; None of less than two segments of LAMMPS's."""
    time, energy = energies(made, study)
    late = energy[time >= study.settle - 1e-9]
    if len(late) < 2:
        return None
    return mean_of(np.diff(late)).times(1.0 / (made.plan.segment * made.plan.timestep))


def energies(made: Made, study: Study) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times (ps) of the ends of the segments that are whole, and what is kept (eV per atom)."""
    plan, taken = made.plan, 0.0
    whole = plan.segments - len(missing(made.folder, plan))
    time, energy = np.empty(whole), np.empty(whole)
    with open_teacher(study.teacher, study.elements) as teacher:
        for k in range(whole):
            atoms = read_data(data(made.folder, k))
            kinetic, bath = last_row(made, k)
            taken += bath
            potential = teacher.label(atoms).get_potential_energy()
            time[k] = (k + 1) * plan.segment * plan.timestep
            energy[k] = (potential + kinetic + taken) / len(atoms)
    return time, energy


def last_row(made: Made, k: int) -> tuple[float, float]:
    """eV: kinetic energy at the end of a segment, and what the thermostat took during it."""
    lines = (made.folder / f"{segment_name(k)}.log").read_text(encoding="utf-8").splitlines()
    begins = next(i for i, line in enumerate(lines) if line.split()[:1] == ["Step"])
    ends = next(i for i, line in enumerate(lines) if line.startswith("Loop time"))
    row = dict(zip(lines[begins].split(), lines[ends - 1].split(), strict=True))
    return float(row["KinEng"]), float(row["f_bath"])
