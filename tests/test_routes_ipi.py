"""The same structure gives the same forces through i-PI as through ASE, however it is asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lammps import Prism
from ipi_peer import own_name, socket_file
from ipi_runs import Run, Served, difference, run_all
from ipi_xml import STRUCTURE, dynamics, simulation, system, thermostat
from models import write_model
from serving import COMMAND, PATIENCE
from test_routes import ACCURACY, alloy

from forcenet_md import ForceNetCalculator
from forcenet_md.inference.frames import Symmetry
from forcenet_md.inference.load import model_path
from forcenet_md.units import IPI

BEADS, STEPS = 4, 2
WAYS: dict[str, dict[str, object]] = {
    "one by one": {},
    "batch": {"elements": f"<batch_size> {BEADS} </batch_size>"},
    "sockets": {"sockets": BEADS},
}
Route = tuple[str, str]  # of WAYS, of ACCURACY
FEW = [("batch", "float32"), ("sockets", "float32"), ("one by one", "float64")]
ALL = list(product(WAYS, ACCURACY))


def assert_equal_routes(model: Path, routes: Sequence[Route], folder: Path) -> None:
    atoms = alloy()
    fields = {
        f"{way} {dtype}": [Served(str(model), settings={"dtype": dtype}, **WAYS[way])]  # type: ignore[arg-type]
        for way, dtype in routes
    }
    paths = system(dynamics("nvt", thermostat("pile_g")), beads=BEADS, temperature=3000.0)
    runs = run_all(fields, paths, atoms, folder, STEPS)
    for way, dtype in routes:
        assert_forces_of_ase(runs[f"{way} {dtype}"], atoms, model, dtype)


def assert_forces_of_ase(
    run: Run, atoms: Atoms, model: Path, dtype: str, committee: Sequence[Path] = ()
) -> np.ndarray:
    """Every frame of every bead, at i-PI's positions and in its cell, which it has turned.

    Returns a committee's spread [BEADS, STEPS + 1, n_atoms].
    """
    calculator = ForceNetCalculator(str(model), dtype=dtype, committee=committee)
    positions = run.vectors("positions") / IPI.angstrom
    expected = np.zeros((BEADS, STEPS + 1, len(atoms), 3))
    spread = np.zeros((BEADS, STEPS + 1, len(atoms)))
    for bead, frame in np.ndindex(BEADS, STEPS + 1):
        twin = atoms.copy()
        twin.positions = positions[bead, frame]
        twin.cell[:] = run.cells()[frame].T / IPI.angstrom
        expected[bead, frame] = calculator.get_forces(twin)
        spread[bead, frame] = calculator.results.get("force_spread", np.nan)
    assert difference(run.vectors("forces") / IPI.force, expected) <= ACCURACY[dtype]
    for bead in range(1, BEADS):  # none could be taken for another
        assert difference(expected[bead, -1], expected[0, -1]) > 100 * ACCURACY[dtype]
    return spread


@pytest.mark.parametrize("routes", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])
def test_i_pi_equals_ase_for_the_shipped_model(tmp_path: Path, routes: Sequence[Route]) -> None:
    assert_equal_routes(model_path("alloy"), routes, tmp_path)


@pytest.mark.slow
def test_i_pi_equals_ase_for_a_random_model(tmp_path: Path) -> None:
    write_model(tmp_path / "m.pt")
    assert_equal_routes(tmp_path / "m.pt", ALL, tmp_path)


@pytest.mark.slow
def test_a_committee_in_i_pi_equals_ase(tmp_path: Path) -> None:
    """`forcenet-md ipi`: mean forces, and the spread in i-PI's own files and in the log."""
    members = [tmp_path / name for name in ("a.pt", "b.pt", "c.pt")]
    for seed, member in enumerate(members):
        write_model(member, seed)
    atoms = alloy()
    atoms.write(tmp_path / STRUCTURE)
    address = own_name()
    socket = f"<ffsocket name='model' mode='unix'> <address> {address} </address> </ffsocket>"
    paths = system(dynamics("nvt", thermostat("pile_g")), beads=BEADS, temperature=3000.0)
    extras = "".join(
        f"<trajectory filename='{name}' extra_type='{name}'> extras </trajectory>"
        for name in ("force_spread", "force_spread_max")
    )
    text = simulation([socket], paths, STEPS).replace("</output>", extras + "</output>")
    (tmp_path / "input.xml").write_text(text)
    command = [*COMMAND, "ipi", "input.xml", "--model", *members[:1], "--committee", *members[1:]]
    done = subprocess.run(
        [*command, "--dtype", "float64"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    socket_file(address).unlink(missing_ok=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "serves committee of 3 (a, b, c): forces, their spread; " in done.stdout
    run = Run(tmp_path, done.stdout)
    spread = assert_forces_of_ase(run, atoms, members[0], "float64", members[1:])
    for bead in range(BEADS):
        # 1e-6 eV/Å are the digits that i-PI is given of each atom's
        written = np.loadtxt(tmp_path / f"out.force_spread_{bead}")
        np.testing.assert_allclose(written.reshape(spread[bead].shape), spread[bead], atol=2e-6)
        largest = np.loadtxt(tmp_path / f"out.force_spread_max_{bead}").ravel()
        np.testing.assert_allclose(largest, spread[bead].max(axis=1), rtol=1e-7)
    assert spread.min() > 1e-4
    assert f"had a committee's spread of at most {spread.max():.2g} eV/Å" in done.stdout


@pytest.mark.slow
def test_a_cell_that_i_pi_has_turned_gets_the_forces_of_ase(tmp_path: Path) -> None:
    """Averaged over frames; and without --align they differ."""
    atoms = alloy()
    atoms.rotate(33.0, (1, 2, 3), rotate_cell=True)
    settings = {"dtype": "float64", "symmetry": Symmetry(4, align=True)}
    fields = {"aligned": [Served(str(model_path("alloy")), settings=settings)]}
    run = run_all(fields, system(dynamics("nve")), atoms, tmp_path, 1)["aligned"]
    forces = Prism(atoms.cell.array).vector_to_ase(run.vectors("forces")[0, 0] / IPI.force)
    for align in (True, False):
        atoms.calc = ForceNetCalculator("alloy", dtype="float64", frames=4, align=align)
        off = difference(forces, atoms.get_forces())
        assert off < 1e-6 if align else off > 1e-4  # the file has eight places
