"""The inputs of inputs/ipi run as they stand, by one command and in two terminals."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from ase.optimize import FIRE
from ipi_peer import own_name, socket_file
from serving import COMMAND, PATIENCE

from forcenet_md.engines.ase_calculator import ForceNetCalculator, ForcesOnly
from forcenet_md.engines.ipi_plan import make_plan
from forcenet_md.inference.load import read_capabilities
from forcenet_md.simulation.demo_inputs import inputs_folder

INPUTS = inputs_folder() / "ipi"
ARGON = "ase:lj,sigma=3.405,epsilon=0.01032,rc=8.5"
STRUCTURES = {
    "alloy-nvt": "alloy",
    "path-4": "small",
    "path-16": "small",
    "relax-damped": "vacancy",
    "relax-trust": "vacancy",
    "argon-nvt": "argon",
}
DYNAMICS = ("alloy-nvt", "path-4", "path-16", "argon-nvt")
RELAXATIONS = ("relax-damped", "relax-trust")


def model_of(name: str) -> str:
    return ARGON if name == "argon-nvt" else "alloy"


class Folder:
    """A copy of the inputs with sockets of its own; every run is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sockets: list[str] = []
        for file in path.glob("*.xml"):
            text, name = file.read_text(), own_name()
            file.write_text(text.replace(f"<address> {file.stem} <", f"<address> {name} <"))
            self._sockets.append(name)

    def set(self, file: str, steps: int, stride: int | None = None) -> None:
        """Other numbers of steps, in all and between outputs."""
        text = (self.path / file).read_text()
        text, n = re.subn(r"<total_steps>.*?<", f"<total_steps> {steps} <", text)
        assert n == 1
        if stride is not None:
            text = re.sub(r"stride='\d+'", f"stride='{stride}'", text)
        (self.path / file).write_text(text)

    def address(self, file: str) -> str:
        found = re.search(r"<address>\s*(\S+)\s*</address>", (self.path / file).read_text())
        assert found is not None
        return found[1]

    def run(self, file: str, model: str) -> str:
        """By one command; what it said."""
        done = subprocess.run(
            [*COMMAND, "ipi", file, "--model", model],
            cwd=self.path,
            capture_output=True,
            text=True,
            check=False,
            timeout=10 * PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(
        self, file: str, model: str, template: str, *options: str
    ) -> list[subprocess.Popen[str]]:
        """As in two terminals: i-PI and the server, with more options for it."""
        i_pi = [str(Path(sys.executable).with_name("i-pi")), file]
        serve = [*COMMAND, "serve", "--model", model, "--template", template]
        serve += ["--ipi", f"unix:{self.address(file)}", *options]
        return [
            subprocess.Popen(
                command,
                cwd=self.path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for command in (i_pi, serve)
        ]

    def run_in_two_terminals(self, file: str, model: str, template: str) -> str:
        """What i-PI said."""
        processes = self.start(file, model, template)
        try:
            said = [process.communicate(timeout=10 * PATIENCE)[0] for process in processes]
        finally:
            stop(processes)
        assert [process.returncode for process in processes] == [0, 0], said
        return said[0]

    def frames(self, name: str, bead: str = "0") -> list[Atoms]:
        return list(read(self.path / f"{name}.pos_{bead}.extxyz", ":", format="extxyz"))

    def close(self) -> None:
        for name in self._sockets:
            socket_file(name).unlink(missing_ok=True)


def stop(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(Path(shutil.copytree(INPUTS, tmp_path / "ipi")))
    yield folder
    folder.close()


def steps_of(frames: list[Atoms]) -> list[int]:
    return [int(re.findall(r"Step:\s*(\d+)", frame.info["ipi_comment"])[0]) for frame in frames]


def test_every_input_is_known_here() -> None:
    assert {file.stem for file in INPUTS.glob("*.xml")} == set(STRUCTURES)


@pytest.mark.parametrize("name", STRUCTURES)
def test_nothing_is_said_against_an_input(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(INPUTS)
    model = read_capabilities(model_of(name))
    plan = make_plan(Path(f"{name}.xml"), model)
    assert plan.warnings == ()
    assert plan.address == f"unix:/tmp/ipi_{name}"  # its own, and the one in the README
    assert plan.sockets == 1
    structure = read(f"{STRUCTURES[name]}.xyz")
    np.testing.assert_array_equal(plan.template.numbers, structure.numbers)
    if name.startswith("path-"):
        assert plan.forcefield.batch_size == plan.ipi.systems[0].beads == int(name[5:])


@pytest.mark.slow
def test_beads_in_one_batch(folder: Folder) -> None:
    folder.set("path-4.xml", 10, 5)
    said = folder.run("path-4.xml", "alloy")
    assert "i-PI has finished: step 10 of 10." in said
    beads = [folder.frames("path-4", str(bead)) for bead in range(4)]
    assert [steps_of(frames) for frames in beads] == [[0, 5, 10]] * 4
    ends = np.array([frames[-1].positions for frames in beads])
    assert np.abs(ends - ends.mean(axis=0)).max() > 0.01
    # atoms on their sites, and the velocities of one temperature
    assert np.loadtxt(folder.path / "path-4.out")[0, 2] == pytest.approx(300, rel=0.3)


@pytest.mark.slow
def test_two_terminals(folder: Folder) -> None:
    folder.set("argon-nvt.xml", 20, 10)
    said = folder.run_in_two_terminals("argon-nvt.xml", ARGON, "argon.xyz")
    assert "Exiting cleanly" in said
    assert steps_of(folder.frames("argon-nvt")) == [0, 10, 20]
    conserved = np.loadtxt(folder.path / "argon-nvt.out")[:, 4]
    assert np.ptp(conserved) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", DYNAMICS)
def test_dynamics_both_ways(name: str, folder: Folder) -> None:
    folder.set(f"{name}.xml", 10, 5)
    bead = "00" if name == "path-16" else "0"
    folder.run(f"{name}.xml", model_of(name))
    one = folder.frames(name, bead)
    folder.run_in_two_terminals(f"{name}.xml", model_of(name), f"{STRUCTURES[name]}.xyz")
    other = folder.frames(name, bead)
    assert steps_of(one) == steps_of(other) == [0, 5, 10]
    # the same seed, so the same run but for the last digits of float32
    np.testing.assert_allclose(one[-1].positions, other[-1].positions, atol=1e-4)
    assert np.abs(one[-1].positions - one[0].positions).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alloy-nvt", "path-4", "argon-nvt"])
def test_restart_goes_on(name: str, folder: Folder) -> None:
    bead = "0"
    file, structure = f"{name}.xml", f"{STRUCTURES[name]}.xyz"
    folder.set(file, 20, 5)
    folder.run(file, model_of(name))
    whole = folder.frames(name, bead)
    folder.set(file, 10)
    folder.run(file, model_of(name))
    folder.set("RESTART", 15)
    folder.run("RESTART", model_of(name))
    folder.set("RESTART", 20)
    folder.run_in_two_terminals("RESTART", model_of(name), structure)
    parts = folder.frames(name, bead)
    assert steps_of(parts) == steps_of(whole) == [0, 5, 10, 15, 20]
    np.testing.assert_allclose(parts[-1].positions, whole[-1].positions, atol=1e-4)


@pytest.mark.slow
def test_relaxations_reach_the_minimum_of_fire(folder: Folder) -> None:
    ends = {}
    for name in RELAXATIONS:
        assert "optimization converged" in folder.run(f"{name}.xml", "alloy")
        ends[name] = folder.frames(name)[-1]
    start = read(INPUTS / "vacancy.xyz")
    fire = start.copy()
    fire.calc = ForceNetCalculator("alloy")
    FIRE(ForcesOnly(fire), logfile=None).run(fmax=0.002, steps=1000)
    moved = np.linalg.norm(fire.positions - start.positions, axis=1)
    assert moved.max() > 0.1
    for name, end in ends.items():
        end.calc = ForceNetCalculator("alloy")
        assert np.abs(end.get_forces()).max() <= 0.005 * 1.01, name
        off = np.linalg.norm(end.positions - fire.positions, axis=1)
        assert off.max() < 0.02, name


@pytest.mark.slow
@pytest.mark.parametrize("name", RELAXATIONS)
def test_relaxations_restart_in_two_terminals(name: str, folder: Folder) -> None:
    file = f"{name}.xml"
    folder.run(file, "alloy")
    whole = folder.frames(name)
    folder.set(file, 15)
    assert "made its 15 steps and the relaxation has not converged" in folder.run(file, "alloy")
    folder.set("RESTART", 500)
    said = folder.run_in_two_terminals("RESTART", "alloy", "vacancy.xyz")
    assert "Geometry optimization converged" in said
    parts = folder.frames(name)
    assert abs(len(parts) - len(whole)) <= 2
    np.testing.assert_allclose(parts[-1].positions, whole[-1].positions, atol=0.01)
    largest = [
        float(line)
        for line in (folder.path / f"{name}.fmax_0").read_text().splitlines()
        if "EXTRAS" not in line
    ]
    assert len(largest) == len(parts)
    assert largest[-1] < 0.005 * np.sqrt(3) < largest[0]


@pytest.mark.slow
def test_ipi_ends_with_a_restart_when_its_server_is_stopped(folder: Folder) -> None:
    """By SIGTERM: one that is killed with a question unread resets the connection, of which the
    thread of i-PI that would have seen it may end."""
    folder.set("argon-nvt.xml", 1_000_000, 10)
    i_pi, serve = processes = folder.start("argon-nvt.xml", ARGON, "argon.xyz")
    out, end = folder.path / "argon-nvt.out", time.monotonic() + PATIENCE
    try:
        while not (out.exists() and len(out.read_text().splitlines()) > 10):
            assert time.monotonic() < end
            time.sleep(0.1)
        serve.terminate()
        i_pi.communicate(timeout=PATIENCE)
    finally:
        stop(processes)
    assert i_pi.returncode == 0
    step = re.search(r"<step>\s*(\d+)", (folder.path / "RESTART").read_text())
    assert step is not None
    assert int(step[1]) > 10
    folder.set("RESTART", int(step[1]) + 20)
    assert "i-PI has finished" in folder.run("RESTART", ARGON)


@pytest.mark.slow
def test_a_model_that_fails_ends_ipi_in_the_other_terminal(folder: Folder) -> None:
    i_pi, serve = processes = folder.start(
        "path-4.xml", "alloy", "small.xyz", "--max-edges", "1000"
    )
    try:
        said = serve.communicate(timeout=PATIENCE)[0]
        i_pi.communicate(timeout=PATIENCE)
    finally:
        stop(processes)
    assert serve.returncode == 1
    assert "error: 108 atoms have too many neighbour pairs" in said
    assert i_pi.returncode == 0
    assert (folder.path / "RESTART").exists()
