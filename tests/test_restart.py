"""Runs gone on with from LAMMPS's restart file: inputs/lammps/alloy-long.in and alloy-go-on.in."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.io import read, write
from lammps_runs import quick_run
from recordings import Contents, contents
from serving import in_thread

from forcenet_md.inference.interface import Evaluator
from forcenet_md.inference.load import load_evaluator
from forcenet_md.recording.options import RecordOptions
from forcenet_md.simulation.demo_inputs import inputs_folder
from forcenet_md.units import ACCELERATION
from forcenet_md.watching.watching import Watching

pytestmark = pytest.mark.usefixtures("plugin")
ELEMENTS = ["Ag", "Au", "Cu", "Pd", "Pt"]


@cache
def evaluator_of(model: str) -> Evaluator:
    return load_evaluator(model, dtype="float64")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The inputs, with a small alloy in the place of theirs."""
    folder = Path(shutil.copytree(inputs_folder() / "lammps", tmp_path / "lammps"))
    atoms = bulk("Cu", a=3.98, cubic=True) * 2
    atoms.symbols = np.random.default_rng(0).choice(ELEMENTS, len(atoms))
    write(folder / "alloy.data", atoms, format="lammps-data", specorder=ELEMENTS, masses=True)
    return folder


def lived(
    model: str, folder: Path, record: str, *parts: tuple[str, int], **variables: object
) -> Contents:
    """What is recorded of scripts and their steps, each part with a server of its own."""
    path = folder / record
    for script, steps in parts:
        watching = Watching(record=RecordOptions(path, 1))
        watched = watching.over(lambda: evaluator_of(model), print)
        with watched as evaluator, in_thread(folder / "s", evaluator):
            settings = {"address": f"unix:{folder}/s", "steps": steps} | variables
            lines = [f"variable {name} index {value}\n" for name, value in settings.items()]
            done = quick_run("".join(lines) + f"include {script}\n", folder)
            assert done.returncode == 0, done.output
    return contents(path)


@pytest.mark.parametrize(
    ("model", "thermostat"),
    [
        ("ase:emt", "nvt"),
        pytest.param("alloy", "csvr", marks=pytest.mark.slow),
    ],
)
def test_half_and_half_is_the_whole(model: str, thermostat: str, folder: Path) -> None:
    """Not to the last bit: a run begins with atoms in the box and with new neighbour lists, so that
    sums are added up in another order."""
    whole = lived(model, folder, "whole.h5", ("alloy-long.in", 100), thermostat=thermostat)
    parts = (("alloy-long.in", 50), ("alloy-go-on.in", 50))
    found = lived(model, folder, "parts.h5", *parts, thermostat=thermostat)
    assert found.step.tolist() == whole.step.tolist() == list(range(101))
    assert found.run == [1] * 51 + [2] * 50
    np.testing.assert_allclose(found.time, whole.time, rtol=1e-12)
    images = (found.position - whole.position) @ np.linalg.inv(whole.cell)
    np.testing.assert_allclose(images, np.round(images), rtol=0, atol=1e-12)
    assert found.velocity is not None
    assert whole.velocity is not None
    for ours, all_ in ((found.velocity[51:], whole.velocity[51:]), (found.force, whole.force)):
        np.testing.assert_allclose(ours, all_, rtol=0, atol=1e-12 * np.abs(all_).max())
    assert np.abs(whole.position[100] - whole.position[50]).max() > 0.1


@pytest.mark.slow
def test_a_langevin_run_goes_on_where_it_was_with_other_noise_and_as_warm(folder: Path) -> None:
    parts = (("alloy-long.in", 150), ("alloy-go-on.in", 500))
    found = lived("ase:emt", folder, "run.h5", *parts, temperature=600, damp=0.02)
    assert found.step.tolist() == list(range(651))
    assert found.run == [1] * 151 + [2] * 500
    atoms = read(folder / "alloy.data", format="lammps-data", units="metal")
    assert isinstance(atoms, Atoms)
    masses = atoms.get_masses()[:, None]

    # The run has no kink where it was taken up, but of the noise, which is like that before.
    away = np.diff(found.position, axis=0) @ np.linalg.inv(found.cell[0])
    half = (away - np.round(away)) @ found.cell[0] / 0.002  # Å/ps, between two steps
    noise = np.diff(half, axis=0) - 0.002 * ACCELERATION * found.force[1:-1] / masses
    noise *= np.sqrt(masses)  # [649, 32, 3], of steps 1, 2, …
    size = noise.std()
    assert noise[149].std() == pytest.approx(size, rel=0.3)
    first, second = noise[:149], noise[150:299]  # 149 is that of the step where it was taken up
    assert abs((first * second).mean()) < 5.0 * size**2 / np.sqrt(first.size)

    assert found.velocity is not None
    kinetic = (masses * found.velocity[150:] ** 2).sum(axis=(1, 2)) / ACCELERATION
    temperature = kinetic / (3 * len(atoms) * units.kB)
    # 600 K, with 100 times the time in which a kinetic energy is forgotten
    error = 600.0 * np.sqrt(2.0 / (3 * len(atoms)) / 100)
    assert temperature.mean() == pytest.approx(600.0, abs=5.0 * error)
