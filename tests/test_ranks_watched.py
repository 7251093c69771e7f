"""A LAMMPS whose atoms ranks have apart: heat and recordings against those of one rank, and what
`forcenet-md watch` shows against LAMMPS's own figures."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from in_process_runs import lammps, processes_in, succeed
from lammps_runs import Run, quick_run
from local_scripts import EXTERNAL
from mpi_launches import CRYSTAL, DOUBLE, PATIENCE, at, lammps_run, server
from recordings import Contents, contents

from forcenet_md.server.client import Client
from forcenet_md.server.runs import RunAddress, running
from forcenet_md.server.status import Status

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
# Without the degrees of freedom that LAMMPS takes off for the centre of mass.
FIGURES = """
group cu type 1
group pt type 2
compute cu cu temp
compute pt pt temp
compute_modify cu extra/dof 0
compute_modify pt extra/dof 0
variable force atom sqrt(fx^2+fy^2+fz^2)
compute force all reduce max v_force
thermo 1
thermo_style custom step atoms c_cu c_pt c_force
fix 1 all nve
"""
NO_LIMITS = ["--guard", "force=off", "--guard", "distance=off", "--guard", "net=off"]
RECORD = ["--record", "run.h5", "--record-every", "5", "--log-file", "log"]


def heat(folder: Path) -> list[float]:
    """The temperatures of the line in the log, without their errors."""
    [line] = re.findall(r"heat: mean of .*", (folder / "log").read_text())
    assert line.startswith("heat: mean of the last 16 of 24 steps: ")
    found = re.search(r"Cu (\S+).* Pt (\S+) ", line)
    assert found, line
    return [float(word) for word in found.groups()]


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


@contextmanager
def at_gate(gate: Path, process: subprocess.Popen[str]) -> Iterator[None]:
    """While LAMMPS reads that pipe, which it does until the end of this context."""
    end = time.monotonic() + PATIENCE
    writer = None
    while writer is None:
        try:
            writer = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
    try:
        yield
    finally:
        os.close(writer)


def look(pids: Sequence[int]) -> Status:
    """What is told of the one of these processes that can be watched."""
    [address] = {RunAddress(pid) for pid in pids} & set(running())
    with Client(address.connect()) as client:
        return client.status()


def assert_lammps_own(status: Status, done: Run) -> None:
    """Of all atoms, though either rank has some of them only."""
    run, relaxation = done.thermo()
    assert run[:, 0].tolist() == list(range(25))
    told = status.simulations[1]
    assert (told["step"], told["atoms"]) == ("31", "108")
    assert (relaxation[-1, :2] == [31, 108]).all()
    found = [float(word) for word in told["temperature"].split()[1::2]]
    np.testing.assert_allclose(found, run[1:, 2:4].mean(axis=0), rtol=1e-3)
    assert float(told["force"]) == pytest.approx(relaxation[-1, 4], rel=1e-3)
    assert float(told["net"]) > 0.01 * float(told["force"])  # it is of forces without that
    assert (status.model, status.ranks) == ("m", 2)
    assert status.atoms == 108 * status.steps
    assert {"network", "graph"} <= status.parts.keys()


def test_with_the_model_on_every_rank(one: Path, small_model: Path, tmp_path: Path) -> None:
    """Watched when LAMMPS has done its steps, and does something else."""
    os.mkfifo(tmp_path / "gate")
    text = script(one).replace("fix 1 all nve\n", FIGURES) + "shell cat gate\n"
    options = [*DOUBLE, *RECORD, *NO_LIMITS, "-log", "none"]
    with lammps(text, tmp_path, 2, options, str(small_model)) as process:
        with at_gate(tmp_path / "gate", process):
            status = look(list(processes_in(tmp_path)))
        output, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (0, "")
    assert_lammps_own(status, Run(0, output))
    assert_same(tmp_path, one)


def test_on_the_ranks_of_a_server(one: Path, small_model: Path, tmp_path: Path) -> None:
    """Watched when LAMMPS has come, gone, and left its figures."""
    text = script(one).replace("fix 1 all nve\n", FIGURES)
    with server(2, tmp_path, small_model, more=[*RECORD, *NO_LIMITS]) as served:
        pid = served.process.ranks()["0"]
        served.process.until(f"to watch it: forcenet-md watch run:{pid}\n")
        assert look([pid]).simulations == {}
        done = lammps_run(at(text, served.address), tmp_path, 2)
        assert done.returncode == 0, done.output
        served.process.until("LAMMPS left")
        assert_lammps_own(look([pid]), done)
        assert served.process.end() == 0
        assert RunAddress(pid) not in running()
    assert_same(served.process.folder, one)
