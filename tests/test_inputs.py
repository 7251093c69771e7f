"""The scripts of inputs/lammps run as they stand."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from lammps_runs import BIN
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


@pytest.mark.slow
def test_replicas_in_partitions(folder: Path, address: str) -> None:
    """Each is what a LAMMPS of its own computes."""
    variables = ["-var", "address", address, "-var", "steps", "20"]
    command = [str(BIN / "mpirun"), "-n", "2", str(BIN / "lmp"), "-partition", "2x1"]
    script = folder / "replicas.in"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-in", script.name, *variables],
        cwd=folder,
        env=environment,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    for temperature, seed in ((800, 20240), (1000, 20241)):
        name = f"replica-{temperature}K.dump"
        frames = read(folder / name, ":", format="lammps-dump-text")
        assert len(frames) == 2
        (folder / name).unlink()
        own = {"temperature": temperature, "seed": seed, "address": address, "steps": 20}
        text = (INPUTS / script.name).read_text()
        script.write_text("".join(x + "\n" for x in text.splitlines() if " world " not in x))
        run_lammps(script, 1, own)
        alone = read(folder / name, ":", format="lammps-dump-text")
        np.testing.assert_allclose(frames[-1].positions, alone[-1].positions, atol=1e-3)


def test_a_bias_is_added_to_the_models_forces(folder: Path, address: str) -> None:
    script = folder / "restrained-distance.in"
    dump = folder / "restrained-distance.dump"
    text = script.read_text().replace(  # every digit of the forces
        "dump_modify ", "dump_modify trajectory format float %.17g\ndump_modify "
    )
    script.write_text(text)
    run_lammps(script, 1, {"address": address, "steps": 40})
    biased = read(dump, ":", format="lammps-dump-text")
    distances = [frame.get_distance(0, 1, mic=True) for frame in biased]
    assert distances[0] < 2.9
    assert distances[-1] > 3.1
    script.write_text(text.replace("fix             bias", "#").replace("f_bias", ""))
    run_lammps(script, 1, {"address": address, "steps": 0})
    free = read(dump, format="lammps-dump-text")
    np.testing.assert_allclose(free.positions, biased[0].positions, rtol=0, atol=0)
    added = biased[0].get_forces() - free.get_forces()
    pull = 4.0 * (3.5 - distances[0]) * free.get_distance(0, 1, mic=True, vector=True)
    np.testing.assert_allclose(added[:2], [-pull / distances[0], pull / distances[0]], atol=1e-9)
    assert (added[2:] == 0.0).all()
