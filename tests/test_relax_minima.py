"""`forcenet-md relax`, ASE's FIRE, LAMMPS's `min_style fire` and i-PI's `damped_bfgs` find the same
minimum of a rattled alloy, and of an adatom on a slab whose lower layers are held."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.constraints import FixAtoms
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
{hold}
min_style fire
min_modify norm max
timestep 0.002
minimize 0.0 {fmax} 1000 2000
dump 1 all custom 1 end.dump id type x y z
dump_modify 1 sort id format float %.17g
run 0
"""


def crystal() -> Atoms:
    atoms = bulk("Cu", a=3.93, cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(0)
    atoms.numbers = rng.choice(ALLOY, len(atoms))
    atoms.rattle(0.15, rng=rng)
    return atoms


def slab() -> Atoms:
    """The adatom is off its hollow."""
    atoms = fcc111("Cu", (3, 2, 3), a=3.93, vacuum=5.0, orthogonal=True, periodic=True)
    rng = np.random.default_rng(1)
    atoms.numbers = rng.choice(ALLOY, len(atoms))
    add_adsorbate(atoms, "Ag", 1.8, "bridge", offset=(0.1, 0.05))
    atoms.set_constraint(FixAtoms(np.flatnonzero(atoms.get_tags() >= 2)))
    atoms.info.clear()  # which extended XYZ has no words for
    atoms.rattle(0.1, rng=rng)
    return atoms


@pytest.fixture(scope="module", params=[crystal, slab])
def start(request: pytest.FixtureRequest) -> Atoms:
    return request.param()


@pytest.fixture(scope="module")
def minimum(start: Atoms) -> Atoms:
    """Of ASE's FIRE."""
    atoms = start.copy()
    atoms.calc = ForceNetCalculator("alloy")
    assert FIRE(ForcesOnly(atoms), logfile=None).run(fmax=FMAX, steps=1000)
    return atoms


def held(atoms: Atoms) -> list[int]:
    return [int(k) for constraint in atoms.constraints for k in constraint.index]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(Path(shutil.copytree(INPUTS, tmp_path / "ipi")))
    yield folder
    folder.close()


def assert_same(positions: np.ndarray, minimum: Atoms, start: Atoms) -> None:
    """But for a shift where nothing is held: LAMMPS moves light atoms farther than heavy ones."""
    off, _ = find_mic(positions - minimum.positions, minimum.cell)
    if not held(start):
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
    ids = " ".join(str(k + 1) for k in held(start))
    hold = f"group held id {ids}\nfix hold held setforce 0 0 0" if ids else ""
    with ServeProcess(f"--listen=unix:{tmp_path}/s.sock", model="alloy"):
        address = f"unix:{tmp_path}/s.sock"
        script = LAMMPS.format(address=address, elements=ELEMENTS, hold=hold, fmax=FMAX)
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
    text, n = re.subn(
        r"(<motion mode='minimize'>)", rf"\1 <fixatoms> {held(start)} </fixatoms>", text
    )
    assert n == 1
    (folder.path / "relax-damped.xml").write_text(text)
    assert "optimization converged" in folder.run("relax-damped.xml", "alloy")
    assert_same(folder.frames("relax-damped")[-1].positions, minimum, start)
