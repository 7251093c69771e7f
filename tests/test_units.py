"""The unit table against the tables of the LAMMPS manual and against LAMMPS itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from forcenet_md.errors import UnitsError
from forcenet_md.units import STYLES, unit_style

# CODATA 2022 values in SI, typed in: e and N_A are exact.
E = 1.602176634e-19
N_A = 6.02214076e23
AMU = 1.66053906892e-27
HARTREE = 4.3597447222060e-18
BOHR = 5.29177210544e-11

# docs.lammps.org/units.html: energy J, length m, mass kg, time s, force N
MANUAL = {
    "metal": (E, 1e-10, AMU, 1e-12, E / 1e-10),
    "real": (4184 / N_A, 1e-10, AMU, 1e-15, 4184 / N_A / 1e-10),
    "si": (1.0, 1.0, 1.0, 1.0, 1.0),
    "cgs": (1e-7, 1e-2, 1e-3, 1.0, 1e-5),
    "electron": (HARTREE, BOHR, AMU, 1e-15, HARTREE / BOHR),
    "micro": (1e-15, 1e-6, 1e-15, 1e-6, 1e-9),
    "nano": (1e-21, 1e-9, 1e-21, 1e-9, 1e-12),
}


@pytest.mark.parametrize("name", STYLES)
def test_factors_against_si(name):
    style = unit_style(name)
    energy, length, mass, time, force = MANUAL[name]
    assert style.energy == pytest.approx(energy / E, rel=2e-7)
    assert style.length == pytest.approx(length / 1e-10, rel=2e-7)
    assert style.mass == pytest.approx(mass / AMU, rel=2e-7)
    assert style.time == pytest.approx(time / 1e-12, rel=1e-15)
    assert style.force == pytest.approx(force / (E / 1e-10), rel=2e-7)


def test_metal_changes_no_bit():
    metal = unit_style("metal")
    assert (metal.energy, metal.length, metal.mass, metal.time) == (1.0, 1.0, 1.0, 1.0)
    assert (metal.force, metal.velocity) == (1.0, 1.0)


@pytest.mark.parametrize("name", ["lj", "furlongs", "METAL"])
def test_styles_without_scale_are_refused_by_name(name):
    with pytest.raises(UnitsError, match=name):
        unit_style(name)


SCRIPT = """
units {name}
atom_style atomic
atom_modify map array
boundary p p p
region box block 0 100 0 100 0 100
create_box 1 box
create_atoms 1 single 50 50 50
mass 1 2.0
velocity all set 3.0 0 0
timestep 0.125
fix 1 all nve
compute kinetic all ke
thermo_style custom step c_kinetic
variable kinetic equal c_kinetic
variable x equal x[1]-50
run 0
print "MOTION ${{x}}"
run 1
print "MOTION ${{x}}"
print "KINETIC ${{kinetic}}"
"""


@pytest.mark.parametrize("name", STYLES)
def test_lammps_agrees_about_energy_mass_length_and_time(name, tmp_path: Path):
    """½mv² in energy units, and x = vt, as LAMMPS itself computes them."""
    (tmp_path / "in.units").write_text(SCRIPT.format(name=name))
    done = subprocess.run(
        [Path(sys.executable).with_name("lmp"), "-in", "in.units"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    moved = [float(w[1]) for w in words if w[:1] == ["MOTION"]][-1]
    kinetic = next(float(w[1]) for w in words if w[:1] == ["KINETIC"])

    style = unit_style(name)
    velocity = 3.0 * style.velocity * 1e2  # Å/ps is 100 m/s
    distance = velocity * 0.125 * style.time * 1e-12
    assert moved * style.length * 1e-10 == pytest.approx(distance, rel=1e-12)
    energy = 0.5 * 2.0 * style.mass * AMU * velocity**2
    # LAMMPS's own constants have six to nine digits
    assert kinetic * style.energy * E == pytest.approx(energy, rel=3e-6)
