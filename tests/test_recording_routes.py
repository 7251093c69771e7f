"""Recordings of real runs: what LAMMPS and i-PI write of themselves is the reference."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import serving
from ase.io import read
from in_process_runs import ARGON, NVE, succeed
from ipi_peer import own_name
from lammps_runs import EXTERNAL, NO_PAIR, crystal, lmp, quick_run, real_lmp
from numpy.typing import NDArray
from recordings import contents, universe, until
from serving import LJ, ServeProcess, in_thread

from forcenet_md.cli.main import main
from forcenet_md.inference.load import load_evaluator
from forcenet_md.recording.options import RecordOptions
from forcenet_md.simulation.demo_inputs import inputs_folder
from forcenet_md.watching.watching import Watching

pytestmark = pytest.mark.usefixtures("plugin")
SLOW = pytest.mark.slow
SKEWED = (
    "change_box all triclinic\n"
    "change_box all xy final 1.5 xz final -0.7 yz final 0.9 remap units box\n"
)
DUMP = (
    "dump d all custom 1 dump.txt id x y z vx vy vz fx fy fz\n"
    "dump_modify d sort id format float %.17g flush yes\n"
)
OFTEN = "from forcenet_md.recording import recorder; recorder.PERIOD = 0.05; "


def read_dump(path: Path) -> tuple[list[int], NDArray[np.float64]]:
    """Steps, and [n_frames, n_atoms, 9] of positions, velocities and forces; whole frames only."""
    steps, frames = [], []
    text = path.read_text()
    for block in text.split("ITEM: TIMESTEP\n")[1:]:
        lines = block.splitlines()
        n_atoms = int(lines[2])
        rows = [line.split()[1:] for line in lines[8 : 8 + n_atoms]]
        if len(rows) == n_atoms and all(len(row) == 9 for row in rows) and block.endswith("\n"):
            steps.append(int(lines[0]))
            frames.append(rows)
    return steps, np.array(frames, dtype=float)


@pytest.mark.parametrize("thermostat", ["", "fix hot all langevin 40 40 0.05 1\n"])
def test_frames_are_those_of_lammps_own_dump(thermostat: str, tmp_path: Path) -> None:
    """In a skewed cell. A thermostat's forces are not the model's, and yet velocities are exact,
    but of the very last step, after which LAMMPS asks for nothing more."""
    path = tmp_path / "run.h5"
    watching = Watching(record=RecordOptions(path, 1))
    script = (
        crystal(2)
        + SKEWED
        + NO_PAIR
        + EXTERNAL
        + f"forcenet ext unix:{tmp_path}/s elements Ar\nfix move all nve\n{thermostat}"
        + DUMP
        + "timestep 0.004\nrun 12\nrun 8\n"
    )
    with (
        watching.over(lambda: load_evaluator(LJ), print) as evaluator,
        in_thread(tmp_path / "s", evaluator),
    ):
        done = quick_run(script, tmp_path)
    assert done.returncode == 0, done.output
    steps, dumped = read_dump(tmp_path / "dump.txt")
    found = contents(path)
    assert found.step.tolist() == steps == list(range(21))
    np.testing.assert_allclose(found.time, 0.004 * np.arange(21), rtol=1e-12)
    others = np.arange(21) != 12  # the second run began there, and LAMMPS wrapped the atoms
    np.testing.assert_array_equal(found.position[others], dumped[others, :, :3])
    images = (found.position[12] - dumped[12, :, :3]) @ np.linalg.inv(found.cell[12])
    np.testing.assert_allclose(images, np.round(images), atol=1e-12)
    assert found.velocity is not None
    np.testing.assert_allclose(found.velocity[:20], dumped[:20, :, 3:6], rtol=1e-10, atol=1e-12)
    last = np.abs(found.velocity[20] - dumped[20, :, 3:6]).max()
    if thermostat:
        assert last > 1e-3
    else:
        assert last < 1e-6  # LAMMPS's own constants differ in the eighth digit
        np.testing.assert_allclose(found.force, dumped[:, :, 6:], rtol=1e-12, atol=1e-14)
    trajectory = universe(path).trajectory
    for frame, row in zip(trajectory, found.position, strict=True):
        np.testing.assert_allclose(frame.positions, row, rtol=1e-6, atol=1e-6)
    a, b, c = found.cell[0]
    assert (b[0], c[0], c[1]) == pytest.approx((1.5, -0.7, 0.9))
    np.testing.assert_allclose(trajectory[0].dimensions[:3], [np.linalg.norm(v) for v in (a, b, c)])


def test_a_server_killed_amid_a_run_leaves_a_file_that_opens_and_is_appended_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = OFTEN + "from forcenet_md.cli.main import main; main()"
    monkeypatch.setattr(serving, "COMMAND", [sys.executable, "-c", program])
    path, address = tmp_path / "run.h5", f"unix:{tmp_path}/s"
    options = ["--listen", address, "--record", str(path), "--record-every", "2"]
    script = (
        crystal(2)
        + NO_PAIR
        + EXTERNAL
        + f"forcenet ext {address} elements Ar\n"
        + NVE
        + DUMP
        + "timestep 0.004\nrun {steps}\n"
    )
    lammps, folders = real_lmp()
    with (
        ServeProcess(*options) as server,
        lmp(script.format(steps=100000), tmp_path, 1, folders, lammps) as process,
    ):
        until(lambda: path.exists() and len(contents(path).step) > 10)
        before = len(contents(path).step)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        process.wait(60)
    steps, dumped = read_dump(tmp_path / "dump.txt")
    killed = contents(path)
    assert before <= len(killed.step) <= len(steps) // 2 + 1
    np.testing.assert_array_equal(killed.step, 2 * np.arange(len(killed.step)))
    np.testing.assert_array_equal(killed.position, dumped[killed.step, :, :3])
    trajectory = universe(path).trajectory
    assert len(trajectory) == len(killed.step)
    np.testing.assert_allclose(trajectory[-1].positions, killed.position[-1], rtol=1e-6, atol=1e-6)

    with ServeProcess(*options) as server:
        shutil.copy(tmp_path / "dump.txt", tmp_path / "before.txt")
        # It goes on, as from a restart file; another run.
        for more in ("read_dump before.txt 4 x y z box no\n", ""):
            done = quick_run(script.replace("run {steps}", more + "run 10"), tmp_path)
            assert done.returncode == 0, done.output
        assert server.end() == 0
    found = contents(path)
    first = found.run.count(1)
    assert first >= len(killed.step)  # a segment may have been closed that no index named yet
    assert found.step.tolist() == [*range(0, 2 * first, 2), *range(4, 15, 2)]
    assert found.run == [1] * first + [2] * 6
    np.testing.assert_array_equal(found.position[:first], dumped[: 2 * first : 2, :, :3])
    assert contents(tmp_path / "run.2.h5").step.tolist() == [0, 2, 4, 6, 8, 10]
    with h5py.File(path) as file:
        assert not file["particles/all/position/value"].is_virtual
    assert not path.with_name("run.h5.parts").exists()


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=SLOW)])
def test_in_lammps_own_process(ranks: int, tmp_path: Path) -> None:
    """On two ranks an ASE calculator is behind rank 0, and so is its recording. A relaxation's last
    structure is in it, whatever its step."""
    options = ["--record", "run.h5", "--record-every", "5", "--record-precision", "rounded"]
    relax = "min_style fire\nminimize 0 1e-10 13 99\n"
    succeed(ARGON + NVE + DUMP + "run 20\n" + relax, tmp_path, ranks, options)
    steps, dumped = read_dump(tmp_path / "dump.txt")
    assert steps == list(range(34))
    found = contents(tmp_path / "run.h5")
    assert found.step.tolist() == [0, 5, 10, 15, 20, 25, 30, 33]
    shift = (found.position - dumped[found.step, :, :3]) / np.diag(found.cell[0])
    np.testing.assert_allclose(shift, np.round(shift), rtol=0, atol=1e-5)
    assert not (tmp_path / "run.h5.parts").exists()


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """The sentence of a command that ends before a model is loaded."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["forcenet-md", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        assert end.value.code == 1
        assert err.count("forcenet-md: error: ") == 1
        assert "loading" not in out
        return err

    return run


def test_what_cannot_be_recorded_is_refused_by_name(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    serve = ("serve", "--model", "ase:lj", "--record", "run.h5")
    inputs = inputs_folder() / "ipi"
    ipi = (*serve, "--ipi", "unix:x", "--template", str(inputs / "argon.xyz"))
    assert "let i-PI write trajectories" in refused(*ipi, "--sockets", "2")
    together = refused(*ipi, "--listen", f"unix:{tmp_path}/s")
    assert "cannot be recorded together" in together
    for file in (*inputs.glob("*.xml"), *inputs.glob("*.xyz")):
        shutil.copy(file, tmp_path)
    beads = refused("ipi", "path-4.xml", "--model", "alloy", "--record", "run.h5")
    assert "i-PI does not say which bead it sends" in beads
    assert not (tmp_path / "run.h5.parts").exists()
    (tmp_path / "run.h5").write_text("a diary")
    assert "is not a recording" in refused(*serve)
    # In a process of its own: LAMMPS and MPI change what signals do.
    lammps = ["lammps", "--model", "ase:lj", "--record", "run.h5", "-in", "run.h5"]
    done = subprocess.run(
        [*serving.COMMAND, *lammps], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "is not a recording" in done.stderr


@SLOW
def test_one_bead_of_ipi(tmp_path: Path) -> None:
    """Steps are i-PI's own, also where some lie between that were not recorded: each frame is what
    i-PI wrote at that step."""
    for name in ("argon-nvt.xml", "argon.xyz"):
        shutil.copy(inputs_folder() / "ipi" / name, tmp_path)
    text = (tmp_path / "argon-nvt.xml").read_text().replace("stride='20'", "stride='10'")
    (tmp_path / "argon-nvt.xml").write_text(text.replace("> argon-nvt <", f"> {own_name()} <"))
    model = ["--model", "ase:lj,sigma=3.405,epsilon=0.01032,rc=8.5"]
    record = ["--record", "run.h5", "--record-every", "10"]

    def run(input: str, steps: int, *options: str) -> None:
        path = tmp_path / input
        text = re.sub(r"(<total_steps>)\s*\d+\s*<", rf"\1 {steps} <", path.read_text())
        path.write_text(text)
        command = [*serving.COMMAND, "ipi", input, *model, *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr

    run("argon-nvt.xml", 35, *record)
    run("RESTART", 52)
    run("RESTART", 70, *record)
    found = contents(tmp_path / "run.h5")
    [written] = tmp_path.glob("argon-nvt.pos*.extxyz")
    own = [frame.positions for frame in read(written, ":")]
    assert len(own) == 8
    assert found.step.tolist() == [0, 10, 20, 30, 60, 70]
    assert found.run == [1] * 4 + [2] * 2
    np.testing.assert_allclose(found.time, 0.005 * found.step, rtol=1e-6)
    np.testing.assert_allclose(
        found.position, np.array(own)[found.step // 10], rtol=3e-8, atol=1e-8
    )
    assert np.isfinite(found.observables["potential_energy"]).all()
    run("argon-nvt.xml", 10, *record)  # from the beginning
    assert contents(tmp_path / "run.2.h5").step.tolist() == [0, 10]
    assert contents(tmp_path / "run.h5").step.tolist() == found.step.tolist()
