"""The guards as they are by default, on a run of the shipped alloy that goes well, and then not."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
from in_process_runs import run

HEALTHY, STEPS = (300, 1500), 100
START = """
units metal
atom_modify map array
lattice fcc 3.97
region box block 0 2 0 2 0 2
create_box 5 box
create_atoms 1 box
set group all type/fraction 2 0.2 1
set group all type/fraction 3 0.25 2
set group all type/fraction 4 0.33 3
set group all type/fraction 5 0.5 4
mass 1 107.87
mass 2 196.97
mass 3 63.546
mass 4 106.42
mass 5 195.08
pair_style zero 5.6
pair_coeff * *
fix ext all external pf/callback 1 1
forcenet ext unix:/nowhere/s elements Ag Au Cu Pd Pt
timestep 0.002
fix move all nve
"""
# Velocities of twice the temperature: on its sites the crystal takes half of it.
AT = """
velocity all create $(2*{temperature}) 7 dist gaussian loop geom
fix bath all langevin {temperature} {temperature} 0.1 11
run {steps}
print "reached $(temp) K"
"""
NEAR = """
variable x equal x[1]+0.9
variable y equal y[1]
variable z equal z[1]
set atom 2 x ${x} y ${y} z ${z}
run 20
"""


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
def test_a_healthy_run_is_not_warned_of_and_a_bad_one_is_stopped(tmp_path: Path) -> None:
    healthy = "".join(AT.format(temperature=t, steps=STEPS) for t in HEALTHY)
    options = ["-log", "none", "--guard-frames", "kept.extxyz"]
    done = run(START + healthy + NEAR, tmp_path, 1, options, "alloy")
    reached = [float(line.split()[1]) for line in done.output.splitlines() if "reached" in line]
    assert all(0.6 < t / wanted < 1.6 for t, wanted in zip(reached, HEALTHY, strict=True))
    assert done.returncode == 1
    assert "0.9 Å apart" in done.errors
    assert "of the shortest of training: the run has left what the model knows" in done.sentence
    at_set_up, after = ase.io.read(tmp_path / "kept.extxyz", index=":")  # and none of before
    assert at_set_up.info["step"] == len(HEALTHY) * STEPS < after.info["step"]
