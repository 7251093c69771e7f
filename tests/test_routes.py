"""The same structure gives the same forces by ASE and LAMMPS on 1, 2 and 3 ranks, whether the model
is behind a socket or in LAMMPS's process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import in_process_runs
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from lammps_runs import run
from models import ALLOY, write_model
from serving import ServeProcess

from forcenet_md import ForceNetCalculator

pytestmark = pytest.mark.usefixtures("plugin")

ACCURACY = {"float32": 1e-6, "float64": 1e-10}  # of the largest force
ELEMENTS = "Cu Pd Ag Pt Au"
SCRIPT = """
units {units}
boundary {boundary}
read_data alloy.data
mass 1 63.546
mass 2 106.42
mass 3 107.8682
mass 4 195.084
mass 5 196.96657
fix ext all external pf/callback 1 1
forcenet ext {address} elements Cu Pd Ag Pt Au
dump 1 all custom 1 forces.dump id type x y z fx fy fz
dump_modify 1 sort id format float %.17g
run 0
"""


def alloy(slab: bool = False) -> Atoms:
    """108 atoms: in a triclinic cell, some outside of it, or a slab with vacuum."""
    atoms = bulk("Cu", "fcc", a=3.95, cubic=slab) * ((3, 3, 3) if slab else (4, 3, 9))
    if slab:
        atoms.center(vacuum=4.0, axis=2)
        atoms.pbc = (True, True, False)
    rng = np.random.default_rng(0)
    atoms.numbers = rng.choice(ALLOY, len(atoms))
    atoms.numbers[:5] = ALLOY
    atoms.rattle(0.1, rng=rng)
    return atoms


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("routes")
    write_model(folder / "m.pt")
    with ServeProcess(f"--listen=unix:{folder}/s.sock", model=str(folder / "m.pt")):
        yield folder


def write_data(atoms: Atoms, folder: Path) -> None:
    species = ELEMENTS.split()
    write(folder / "alloy.data", atoms, format="lammps-data", specorder=species, units="metal")


def assert_forces_of_ase(atoms: Atoms, folder: Path, model: Path, dtype: str = "float32") -> None:
    """LAMMPS turns a triclinic cell: compare in its own frame, with its own positions."""
    turned = read(folder / "forces.dump", format="lammps-dump-text")
    assert isinstance(turned, Atoms)
    rows = np.loadtxt(folder / "forces.dump", skiprows=9)
    turned.numbers = np.array(ALLOY)[rows[:, 1].astype(int) - 1]
    turned.positions = rows[:, 2:5]
    turned.pbc = atoms.pbc
    turned.calc = ForceNetCalculator(str(model), dtype=dtype)
    expected = turned.get_forces()
    assert np.abs(rows[:, 5:8] - expected).max() <= ACCURACY[dtype] * np.abs(expected).max()
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("boundary", ["p p p", "p p f"])
def test_lammps_equals_ase(served: Path, tmp_path: Path, ranks: int, boundary: str) -> None:
    atoms = alloy(slab=boundary == "p p f")
    write_data(atoms, tmp_path)
    script = SCRIPT.format(units="metal", boundary=boundary, address=f"unix:{served}/s.sock")
    done = run(script, tmp_path, ranks)
    assert done.returncode == 0, done.output
    assert_forces_of_ase(atoms, tmp_path, served / "m.pt")


@pytest.mark.parametrize(
    ("ranks", "dtype"),
    [
        (1, "float64"),
        pytest.param(1, "float32", marks=pytest.mark.slow),
        pytest.param(2, "float32", marks=pytest.mark.slow),
        pytest.param(3, "float64", marks=pytest.mark.slow),
    ],
)
def test_lammps_in_process_equals_ase(served: Path, tmp_path: Path, ranks: int, dtype: str) -> None:
    """The same script, with the address of a server that is not there."""
    atoms = alloy()
    write_data(atoms, tmp_path)
    script = SCRIPT.format(units="metal", boundary="p p p", address=in_process_runs.NOWHERE)
    model = served / "m.pt"
    options = ["--dtype", dtype]
    in_process_runs.succeed(script, tmp_path, ranks, options, model=str(model))
    assert_forces_of_ase(atoms, tmp_path, model, dtype)


def test_real_units_are_the_same_forces(served: Path, tmp_path: Path) -> None:
    """units real: Å and kcal/mol/Å; 1 eV = 23.060549 kcal/mol."""
    atoms = alloy()
    write_data(atoms, tmp_path)
    forces = {}
    for units in ("metal", "real"):
        script = SCRIPT.format(units=units, boundary="p p p", address=f"unix:{served}/s.sock")
        done = run(script, tmp_path)
        assert done.returncode == 0, done.output
        forces[units] = np.loadtxt(tmp_path / "forces.dump", skiprows=9)[:, 5:8]
    np.testing.assert_allclose(forces["real"], 23.060549 * forces["metal"], rtol=3e-7, atol=1e-9)
