"""The same structure gives the same forces by ASE and LAMMPS on 1, 2 and 3 ranks, whether the model
is behind a socket or in LAMMPS's process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import in_process_runs
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from lammps_runs import Run, run
from models import ALLOY, write_model
from serving import ServeProcess

from forcenet_md import ForceNetCalculator

pytestmark = pytest.mark.usefixtures("plugin")

# Of the largest force, where the same rows are computed in the same order; the rounding of float32
# itself is some 5e-6 here, and other numbers of rows in a matrix product round otherwise.
ACCURACY = {"float32": 1e-6, "float64": 1e-10}
ON_RANKS = {"float32": 1e-5, "float64": 1e-10}
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


SPREAD = """
dump 2 all custom 1 spread.dump id f_FORCENET_ext
dump_modify 2 sort id format float %.17g
thermo_style custom step f_FORCENET_ext
thermo_modify format float %.15g
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


def assert_forces_of_ase(
    atoms: Atoms,
    folder: Path,
    model: Path,
    dtype: str = "float32",
    committee: Sequence[Path] = (),
    accuracy: dict[str, float] = ACCURACY,
) -> np.ndarray:
    """LAMMPS turns a triclinic cell: compare in its own frame, with its own positions.

    Returns a committee's spread, for `assert_spread`.
    """
    turned = read(folder / "forces.dump", format="lammps-dump-text")
    assert isinstance(turned, Atoms)
    rows = np.loadtxt(folder / "forces.dump", skiprows=9)
    turned.numbers = np.array(ALLOY)[rows[:, 1].astype(int) - 1]
    turned.positions = rows[:, 2:5]
    turned.pbc = atoms.pbc
    turned.calc = ForceNetCalculator(str(model), dtype=dtype, committee=committee)
    expected = turned.get_forces()
    assert np.abs(rows[:, 5:8] - expected).max() <= accuracy[dtype] * np.abs(expected).max()
    assert np.abs(expected).max() > 1e-3
    return turned.calc.results.get("force_spread", np.empty(0))


def assert_spread(done: Run, folder: Path, expected: np.ndarray, accuracy: float) -> None:
    """Of each atom in the dump, and the largest in LAMMPS's table."""
    spread = np.loadtxt(folder / "spread.dump", skiprows=9)[:, 1]
    assert np.abs(spread - expected).max() <= accuracy * expected.max()
    assert expected.min() > 100 * accuracy * expected.max()
    assert done.thermo()[0].tolist() == [[0.0, pytest.approx(spread.max(), rel=1e-12)]]


@pytest.mark.parametrize(
    ("boundary", "ranks"),
    [
        ("p p p", 1),
        pytest.param("p p p", 2, marks=pytest.mark.slow),
        ("p p p", 3),
        ("p p f", 2),
        pytest.param("p p f", 1, marks=pytest.mark.slow),
        pytest.param("p p f", 3, marks=pytest.mark.slow),
    ],
)
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
    assert_forces_of_ase(atoms, tmp_path, model, dtype, accuracy=ON_RANKS)


@pytest.fixture(scope="module")
def committee(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Random members: two layers, and three."""
    folder = tmp_path_factory.mktemp("committee")
    write_model(folder / "a.pt", seed=1)
    write_model(folder / "b.pt", seed=2, n_layers=3)
    return [folder / "a.pt", folder / "b.pt"]


def test_a_committee_in_lammps_equals_ase(committee: list[Path], tmp_path: Path) -> None:
    """Mean forces and spread on one and two ranks, in units metal and real, and in the log."""
    first, second = committee
    atoms = alloy()
    write_data(atoms, tmp_path)
    options = [f"--listen=unix:{tmp_path}/s", "--committee", str(second)]
    forces = {}
    with ServeProcess(*options, model=str(first)) as server:
        assert "serves committee of 2 (a, b): forces, their spread; " in server.text
        for ranks, units in ((2, "metal"), (1, "real")):
            script = SCRIPT.format(units=units, boundary="p p p", address=f"unix:{tmp_path}/s")
            done = run(script.replace("run 0", SPREAD + "run 0"), tmp_path, ranks)
            assert done.returncode == 0, done.output
            forces[units] = np.loadtxt(tmp_path / "forces.dump", skiprows=9)[:, 5:8]
            if units == "metal":
                spread = assert_forces_of_ase(atoms, tmp_path, first, committee=[second])
                assert_spread(done, tmp_path, spread, ACCURACY["float32"])
            else:
                assert_spread(done, tmp_path, 23.060549 * spread, 3e-7)
        server.until("left after 1 steps")
        assert f"had a committee's spread of at most {spread.max():.2g} eV/Å" in server.text
    np.testing.assert_allclose(forces["real"], 23.060549 * forces["metal"], rtol=3e-7, atol=1e-9)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_committee_in_the_process_of_lammps_equals_ase(
    committee: list[Path], tmp_path: Path, ranks: int
) -> None:
    first, second = committee
    atoms = alloy()
    write_data(atoms, tmp_path)
    script = SCRIPT.format(units="metal", boundary="p p p", address=in_process_runs.NOWHERE)
    script = script.replace("run 0", SPREAD + "run 0")
    options = ["--committee", str(second), "--dtype", "float64"]
    done = in_process_runs.succeed(script, tmp_path, ranks, options, model=str(first))
    spread = assert_forces_of_ase(atoms, tmp_path, first, "float64", [second])
    assert_spread(done, tmp_path, spread, ACCURACY["float64"])


def test_one_model_has_no_spread_to_ask_for(served: Path, tmp_path: Path) -> None:
    write_data(alloy(), tmp_path)
    script = SCRIPT.format(units="metal", boundary="p p p", address=f"unix:{served}/s.sock")
    done = run(script.replace("run 0", SPREAD + "run 0"), tmp_path)
    assert done.returncode == 1
    assert "f_FORCENET_ext" in done.error or "FORCENET_ext does not" in done.error


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
