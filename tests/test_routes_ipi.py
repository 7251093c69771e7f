"""The same structure gives the same forces through i-PI as through ASE, however it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ipi_runs import Run, Served, difference, run_all
from ipi_xml import dynamics, system, thermostat
from models import write_model
from test_routes import ACCURACY, alloy

from forcenet_md import ForceNetCalculator
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


def assert_forces_of_ase(run: Run, atoms: Atoms, model: Path, dtype: str) -> None:
    """Every frame of every bead, at i-PI's positions and in its cell, which it has turned."""
    calculator = ForceNetCalculator(str(model), dtype=dtype)
    positions = run.vectors("positions") / IPI.angstrom
    expected = np.zeros((BEADS, STEPS + 1, len(atoms), 3))
    for bead, frame in np.ndindex(BEADS, STEPS + 1):
        twin = atoms.copy()
        twin.positions = positions[bead, frame]
        twin.cell[:] = run.cells()[frame].T / IPI.angstrom
        expected[bead, frame] = calculator.get_forces(twin)
    assert difference(run.vectors("forces") / IPI.force, expected) <= ACCURACY[dtype]
    for bead in range(1, BEADS):  # none could be taken for another
        assert difference(expected[bead, -1], expected[0, -1]) > 100 * ACCURACY[dtype]


@pytest.mark.parametrize("routes", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])
def test_i_pi_equals_ase_for_the_shipped_model(tmp_path: Path, routes: Sequence[Route]) -> None:
    assert_equal_routes(model_path("alloy"), routes, tmp_path)


@pytest.mark.slow
def test_i_pi_equals_ase_for_a_random_model(tmp_path: Path) -> None:
    write_model(tmp_path / "m.pt")
    assert_equal_routes(tmp_path / "m.pt", ALL, tmp_path)
