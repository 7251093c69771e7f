"""The scripts of inputs/lammps run as they stand."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from serving import ServeProcess

from forcenet_md.engines.processes import run_lammps
from forcenet_md.simulation.demo_inputs import inputs_folder

INPUTS = inputs_folder() / "lammps"

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(INPUTS, tmp_path / "lammps"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"unix:{tmp_path_factory.mktemp('server')}/s.sock"
    with ServeProcess("--listen", address, model="alloy"):
        yield address


def test_structures_are_what_their_script_writes(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(INPUTS.parent, tmp_path / "inputs"))
    written = [*copy.glob("lammps/*.data"), *copy.glob("ipi/*.xyz")]
    assert len(written) >= 6
    for path in written:
        path.unlink()
    runpy.run_path(str(copy / "make_structures.py"), run_name="__main__")
    for path in written:
        assert path.read_text() == (INPUTS.parent / path.relative_to(copy)).read_text()
    alloy = read(copy / "lammps" / "alloy.data", format="lammps-data")
    assert np.unique(alloy.numbers, return_counts=True)[1].tolist() == [100] * 5
    same = read(copy / "ipi" / "alloy.xyz")
    assert same.symbols.formula == alloy.symbols.formula
    np.testing.assert_allclose(same.positions, alloy.positions, atol=1e-8)


@pytest.mark.slow
def test_melt_and_quench(folder: Path, address: str) -> None:
    variables = {"address": address, "melt_steps": 20, "quench_steps": 30}
    run = run_lammps(folder / "melt-quench.in", 2, variables)
    assert run.steps == 20
    frames = read(folder / "melt-quench.dump", ":", format="lammps-dump-text")
    start, end = frames[0], read(folder / "melt-quench.data", format="lammps-data")
    ratio = (end.get_volume() / start.get_volume()) ** (1 / 3)
    assert ratio == pytest.approx(1.045 * 0.956, rel=1e-6)
    assert len(end) == 500


def test_slab_relaxes_over_its_held_layers(folder: Path, address: str) -> None:
    run_lammps(folder / "slab-relax.in", 1, {"address": address})
    text = (folder / "slab-relax.log").read_text()
    assert "Stopping criterion = force tolerance" in text
    frames = read(folder / "slab-relax.dump", ":", format="lammps-dump-text")
    start, end = frames[0], frames[-1]
    held = start.positions[:, 2] < start.positions[:, 2].min() + 3.5
    assert held.sum() == 60
    moved = np.linalg.norm(end.positions - start.positions, axis=1)
    assert moved[held].max() == 0.0
    assert moved[~held].min() > 0.0
    assert np.abs(end.get_forces()[~held]).max() <= 0.02
    assert np.abs(start.get_forces()[~held]).max() > 0.2


def test_alloy(folder: Path, address: str) -> None:
    run = run_lammps(folder / "alloy-nvt.in", 2, {"address": address, "steps": 20})
    assert run.steps == 20
    frames = read(folder / "alloy-nvt.dump", ":", format="lammps-dump-text")
    assert len(frames) == 2
    assert 800 < frames[-1].get_temperature() < 1400
