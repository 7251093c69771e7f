"""Heat and recordings of a LAMMPS whose atoms ranks have apart, against those of one rank."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from in_process_runs import GUARDS_OFF, succeed
from lammps_runs import quick_run
from local_scripts import EXTERNAL
from mpi_launches import CRYSTAL, DOUBLE, at, lammps_run, server
from recordings import Contents, contents

pytestmark = [pytest.mark.usefixtures("plugin"), pytest.mark.slow]

# Made by one rank, for ids depend on their number.
DATA = CRYSTAL.replace("create 300", "create 1500") + "write_data DATA nocoeff\n"
# Atoms change ranks in every second step; then a relaxation, of which the last frame is kept.
SCRIPT = (
    "units metal\nread_data DATA\npair_style zero 5.0\npair_coeff * *\n"
    + EXTERNAL
    + "neigh_modify every 2 delay 0 check no\nfix 1 all nve\ntimestep 0.002\nrun 24\n"
    + "min_style fire\nminimize 0 1e-10 7 99\n"
)
RECORD = ["--record", "run.h5", "--record-every", "5", "--log-file", "log"]


def heat(folder: Path) -> list[float]:
    """The figures of the line in the log, without its errors."""
    [line] = re.findall(r"heat: mean of .*", (folder / "log").read_text())
    assert line.startswith("heat: mean of the last 16 of 24 steps: ")
    found = re.search(r"Cu (\S+).* Pt (\S+).* heat by (\S+)", line)
    assert found, line
    return [float(word.strip(";,")) for word in found.groups()]


@pytest.fixture(scope="module")
def one(plugin: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    made = quick_run(DATA.replace("DATA", "data"), folder)
    assert made.returncode == 0, made.output
    succeed(script(folder), folder, 1, [*DOUBLE, *RECORD], str(small_model))
    return folder


def script(one: Path) -> str:
    return SCRIPT.replace("DATA", str(one / "data"))


def assert_same(folder: Path, one: Path) -> None:
    ours, theirs = contents(folder / "run.h5"), contents(one / "run.h5")
    assert ours.step.tolist() == theirs.step.tolist() == [0, 5, 10, 15, 20, 25, 30, 31]
    for name in Contents.__dataclass_fields__:
        if name == "observables":
            continue
        a, b = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * np.abs(b).max(), err_msg=name)
    assert ours.observables.keys() == theirs.observables.keys() >= {"net_force", "largest_force"}
    for name, values in theirs.observables.items():
        np.testing.assert_allclose(ours.observables[name], values, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(heat(folder), heat(one), rtol=0.02)
    assert not (folder / "run.h5.parts").exists()


def test_with_the_model_on_every_rank(one: Path, small_model: Path, tmp_path: Path) -> None:
    succeed(script(one), tmp_path, 2, [*DOUBLE, *RECORD], str(small_model))
    assert_same(tmp_path, one)


def test_on_the_ranks_of_a_server(one: Path, small_model: Path, tmp_path: Path) -> None:
    with server(2, tmp_path, small_model, more=[*RECORD, *GUARDS_OFF]) as served:
        done = lammps_run(at(script(one), served.address), tmp_path, 2)
        assert done.returncode == 0, done.output
        assert served.process.end() == 0
    assert_same(served.process.folder, one)
