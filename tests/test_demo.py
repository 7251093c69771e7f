"""The demo and the processes it starts: what passes, what fails, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.io import read
from serving import COMMAND, PATIENCE

from forcenet_md.engines.processes import ProcessError, run_ipi, run_lammps, serving
from forcenet_md.errors import DataError
from forcenet_md.simulation.demo import Outcome, Trajectory, judge, run_demo
from forcenet_md.simulation.demo_inputs import (
    ELEMENTS,
    IPI_INPUT,
    SCRIPT,
    inputs_folder,
    ipi_input,
    prepare_folders,
    teacher_script,
)
from forcenet_md.simulation.observables import element_temperatures


def frames(n: int, kelvin: float = 1000.0, spread: float = 0.15, seed: int = 0) -> list[Atoms]:
    """An alloy crystal with displacements and velocities drawn anew for each frame."""
    rng = np.random.default_rng(seed)
    crystal = bulk("Cu", a=3.98, cubic=True) * 4
    crystal.symbols = np.random.default_rng(0).permutation(np.resize(ELEMENTS, len(crystal)))
    speed = np.sqrt(units.kB * kelvin / crystal.get_masses())[:, None]
    found = []
    for _ in range(n):
        atoms = crystal.copy()
        atoms.positions += rng.normal(scale=spread, size=atoms.positions.shape)
        atoms.set_velocities(rng.normal(size=atoms.positions.shape) * speed)
        found.append(atoms)
    return found


def run_of(frames: list[Atoms], engine: str = "LAMMPS") -> Trajectory:
    return Trajectory(engine, frames, np.arange(len(frames)) * 0.04, element_temperatures(frames))


def test_good_run_is_good() -> None:
    verdict, own, theirs = judge(run_of(frames(50)), frames(100, seed=1), 1000.0)
    assert verdict.faults == []
    assert 0.0 < verdict.noise < 0.06
    assert len(verdict.pairs) == 15
    assert verdict.pairs == own.deviation(theirs)


def test_faults_are_told() -> None:
    teacher = frames(100, seed=1)
    softer, *_ = judge(run_of(frames(50, spread=0.22)), teacher, 1000.0)
    (fault,) = softer.faults
    assert fault.startswith("LAMMPS: g(r) is off by ")
    hotter, *_ = judge(run_of(frames(50, kelvin=1100), "i-PI"), teacher, 1000.0)
    assert len(hotter.faults) == 5
    assert hotter.faults[0].startswith("i-PI: Ag is at 1")
    broken, *_ = judge(run_of(frames(50, kelvin=np.nan)), teacher, 1000.0)
    assert len(broken.faults) == 5
    both = Outcome((softer, hotter), {}, (Path(), Path()))
    assert both.faults == softer.faults + hotter.faults
    with pytest.raises(DataError, match="too short"):
        judge(run_of(frames(50)), frames(60), 1000.0)


def test_temperatures_may_be_sampled_more_often_than_frames() -> None:
    sparse = frames(50)
    dense = np.repeat(1000.0, 500)
    dense[:100] = 2000.0  # the fifth that is left out
    run = Trajectory("i-PI", sparse, np.arange(500) * 0.004, dict.fromkeys(ELEMENTS, dense))
    verdict, *_ = judge(run, frames(100, seed=1), 1000.0)
    assert set(verdict.temperatures.values()) == {1000.0}
    assert run.curves.averaged_from == pytest.approx(0.4)


def test_teacher_runs_the_same_script_with_its_potential() -> None:
    script = (inputs_folder() / "lammps" / SCRIPT).read_text()
    changed = teacher_script(script, "table")
    theirs = set(changed.splitlines()) - set(script.splitlines())
    ours = {line.split()[0] for line in set(script.splitlines()) - set(changed.splitlines())}
    assert theirs == {"pair_style eam/alloy", "pair_coeff * * table Ag Au Cu Pd Pt"}
    assert ours == {"fix", "forcenet", "comm_modify"}


def test_ipi_runs_the_same_input_at_its_own_socket() -> None:
    text = (inputs_folder() / "ipi" / IPI_INPUT).read_text()
    changed = ipi_input(text, 77, 650.0, "my-socket")
    pairs = zip(text.splitlines(), changed.splitlines(), strict=True)
    different = [" ".join(new.split("<!--")[0].split()) for old, new in pairs if new != old]
    assert different == [
        "<total_steps> 77 </total_steps>",
        "<address> my-socket </address>",
        "<velocities mode='thermal' units='kelvin'> 1300 </velocities>",
        "<ensemble> <temperature units='kelvin'> 650 </temperature> </ensemble>",
    ]


def test_output_of_an_earlier_demo_is_not_read(tmp_path: Path) -> None:
    folders = prepare_folders(tmp_path, 100, 1000.0)
    for name in ("alloy-nvt.out", "#alloy-nvt.out#0#", "RESTART", "mine.txt"):
        (folders.ipi / name).touch()
    prepare_folders(tmp_path, 100, 1000.0)
    left = {path.name for path in folders.ipi.iterdir()}
    assert left == {"alloy-nvt.xml", "alloy.xyz", "mine.txt"}


def test_a_full_disk_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "lammps").mkdir()
    (tmp_path / "lammps" / SCRIPT).symlink_to("/dev/full")
    with pytest.raises(DataError) as raised:
        run_demo(tmp_path)
    assert str(raised.value).startswith(f"the folder {tmp_path} cannot be written to (No space ")


@pytest.mark.usefixtures("plugin")
@pytest.mark.slow
def test_demo_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [*COMMAND, "demo", "--model", "ase:emt", "--steps", "100", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    # EMT is not the teacher, and the atoms have not even warmed up
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("forcenet-md: LAMMPS: g(r) is off by ")
    assert "forcenet-md: i-PI: g(r) is off by " in done.stderr
    assert "steps/s" in done.stdout
    assert (out / "pair-distributions.png").stat().st_size > 10_000
    assert (out / "temperatures.png").stat().st_size > 10_000
    assert len(read(out / "lammps" / "alloy-nvt.dump", ":", format="lammps-dump-text")) == 6
    assert len(read(out / "ipi" / "alloy-nvt.pos_0.extxyz", ":")) == 6
    assert len(read(out / "teacher" / "alloy-nvt.dump", ":", format="lammps-dump-text")) == 11
    assert "stopped" in (out / "server.log").read_text()


@pytest.mark.slow
def test_demo_of_the_shipped_model(tmp_path: Path) -> None:
    command = [*COMMAND, "demo", "--steps", "700", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("file", ["lammps/alloy-nvt.dump", "ipi/alloy-nvt.out"])
def test_terminated_demo_leaves_no_process(file: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--model", "ase:emt", "--steps", "100", "--out", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    output = tmp_path / file
    end = time.monotonic() + 120
    while not (output.exists() and output.stat().st_size) and time.monotonic() < end:
        time.sleep(0.1)
    started = children(process.pid)
    assert len(started) >= 2  # the server and LAMMPS, or i-PI
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < end:
        time.sleep(0.1)
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []


def children(pid: int) -> list[int]:
    """All processes that descend from one."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


@pytest.mark.slow
def test_server_that_does_not_start(tmp_path: Path) -> None:
    with (
        pytest.raises(ProcessError, match=r"the server did not start: .*nothing\.pt"),
        serving("nothing.pt", f"unix:{tmp_path}/s.sock", tmp_path / "log"),
    ):
        pass


@pytest.mark.slow
def test_ipi_that_fails(tmp_path: Path) -> None:
    xml = tmp_path / "a.xml"
    xml.write_text("<simulation></simulation>")
    with pytest.raises(ProcessError, match=r"has no <ffsocket>.*a\.log"):
        run_ipi(xml, "ase:emt", tmp_path / "a.out")


@pytest.mark.slow
def test_ipi_reports_its_steps(tmp_path: Path) -> None:
    folders = prepare_folders(tmp_path, 10, 1000.0)
    xml = folders.ipi / IPI_INPUT
    xml.write_text(xml.read_text().replace("stride='10'", "stride='5'"))
    steps: list[int] = []
    run = run_ipi(xml, "alloy", folders.ipi / "alloy-nvt.out", steps.append)
    assert steps[0] == 0
    assert steps[-1] == 10
    assert run.steps == 10
    assert 0 < run.seconds < 60
    assert "i-PI has finished" in xml.with_suffix(".log").read_text()


def test_lammps_that_fails(tmp_path: Path) -> None:
    script = tmp_path / "in.lammps"
    script.write_text("units metal\nnonsense\n")
    with pytest.raises(ProcessError, match="Unknown command: nonsense"):
        run_lammps(script)
    assert "nonsense" in script.with_suffix(".log").read_text()
    script.write_text("print 'nothing was run'\n")
    with pytest.raises(ProcessError, match="LAMMPS stopped"):
        run_lammps(script)


def test_lammps_reports_its_steps(tmp_path: Path) -> None:
    script = tmp_path / "in.lammps"
    script.write_text(
        "units lj\nlattice fcc 0.8\nregion b block 0 4 0 4 0 4\ncreate_box 1 b\n"
        "create_atoms 1 box\nmass 1 1.0\nvelocity all create 1.0 1\npair_style lj/cut 2.5\n"
        "pair_coeff 1 1 1.0 1.0\nfix 1 all nve\nthermo ${every}\nrun 20\n"
    )
    steps: list[int] = []
    run = run_lammps(script, ranks=2, variables={"every": 10}, on_step=steps.append)
    assert steps == [0, 10, 20]
    assert run.steps == 20
    assert run.steps_per_second > 0
    assert not [p for p in os.listdir(tmp_path) if p not in ("in.lammps", "in.log")]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


HOLDER = """
import sys, time
from pathlib import Path
from forcenet_md.engines.processes import serving
folder = Path(sys.argv[1])
with serving("ase:lj,sigma=2.5", f"unix:{folder}/s.sock", folder / "log"):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_server_ends_where_its_caller_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        server = children(holder.pid)
        assert len(server) == 2  # the leash and what it holds
        holder.kill()
    end = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in server):
        assert time.monotonic() < end, "the server is still there"
        time.sleep(0.05)
