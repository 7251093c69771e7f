"""`forcenet-md relax`, ASE's FIRE, LAMMPS's `min_style fire` and i-PI's `damped_bfgs` find the same
minimum of a rattled alloy."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry import find_mic
from ase.io import read, write
from ase.optimize import FIRE
from lammps_runs import run
from models import ALLOY
from serving import ServeProcess
from test_inputs_ipi import INPUTS, Folder
from test_relax_cli import relax
from test_routes import ELEMENTS, write_data

from forcenet_md import ForceNetCalculator, ForcesOnly

pytestmark = pytest.mark.slow

FMAX = 0.005  # eV/Å
SAME = 0.01  # Å; the softest modes have about 1 eV/Å²
LAMMPS = """
units metal
read_data alloy.data
mass 1 63.546
mass 2 106.42
mass 3 107.8682
mass 4 195.084
mass 5 196.96657
fix ext all external pf/callback 1 1
forcenet ext {address} elements {elements}
min_style fire
min_modify norm max
timestep 0.002
minimize 0.0 {fmax} 1000 2000
dump 1 all custom 1 end.dump id type x y z
dump_modify 1 sort id format float %.17g
run 0
"""


@pytest.fixture(scope="module")
def start() -> Atoms:
    atoms = bulk("Cu", a=3.93, cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(0)
    atoms.numbers = rng.choice(ALLOY, len(atoms))
    atoms.rattle(0.15, rng=rng)
    return atoms


@pytest.fixture(scope="module")
def minimum(start: Atoms) -> Atoms:
    """Of ASE's FIRE."""
    atoms = start.copy()
    atoms.calc = ForceNetCalculator("alloy")
    assert FIRE(ForcesOnly(atoms), logfile=None).run(fmax=FMAX, steps=1000)
    return atoms


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(Path(shutil.copytree(INPUTS, tmp_path / "ipi")))
    yield folder
    folder.close()


def assert_same(positions: np.ndarray, minimum: Atoms, start: Atoms) -> None:
    """But for a shift of the whole crystal: LAMMPS moves light atoms farther than heavy ones."""
    off, _ = find_mic(positions - minimum.positions, minimum.cell)
    off -= off.mean(axis=0)
    assert np.linalg.norm(off, axis=1).max() < SAME
    moved = minimum.positions - start.positions
    assert np.linalg.norm(moved, axis=1).max() > 20 * SAME


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_relax(start: Atoms, minimum: Atoms, tmp_path: Path, optimizer: str) -> None:
    write(tmp_path / "in.extxyz", start)
    relax(
        tmp_path / "in.extxyz", "-m", "alloy", "-o", tmp_path / "out.extxyz",
        "--fmax", FMAX, "--steps", 1000, "--optimizer", optimizer,
    )  # fmt: skip
    found = read(tmp_path / "out.extxyz")
    assert found.info["converged"]
    assert_same(found.positions, minimum, start)


@pytest.mark.usefixtures("plugin")
def test_lammps(start: Atoms, minimum: Atoms, tmp_path: Path) -> None:
    write_data(start, tmp_path)
    with ServeProcess(f"--listen=unix:{tmp_path}/s.sock", model="alloy"):
        script = LAMMPS.format(address=f"unix:{tmp_path}/s.sock", elements=ELEMENTS, fmax=FMAX)
        done = run(script, tmp_path)
    assert done.returncode == 0, done.output
    assert "Stopping criterion = force tolerance" in done.output
    rows = np.loadtxt(tmp_path / "end.dump", skiprows=9)
    assert_same(rows[:, 2:5], minimum, start)


def test_i_pi(start: Atoms, minimum: Atoms, folder: Folder) -> None:
    """The input of inputs/ipi, with another structure."""
    write(folder.path / "vacancy.xyz", start, format="extxyz")
    text = (folder.path / "relax-damped.xml").read_text()
    text, n = re.subn(r"(<force units='ev/ang'>) \S+ <", rf"\1 {FMAX / 2} <", text)
    assert n == 1
    (folder.path / "relax-damped.xml").write_text(text)
    assert "optimization converged" in folder.run("relax-damped.xml", "alloy")
    assert_same(folder.frames("relax-damped")[-1].positions, minimum, start)
