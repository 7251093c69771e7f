"""`mpirun -n R forcenet-md serve`: LAMMPS, i-PI and ASE clients, signals, faults, sleep."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.socketio import SocketIOCalculator
from ase.io import read, write
from in_process_runs import nothing_left
from ipi_peer import own_name
from lammps_runs import BIN, quick_run
from models import write_model
from ranks_runs import RanksProcess, processor_time
from serving import COMMAND, ask, in_thread

from forcenet_md.engines.ase_calculator import ForceNetCalculator
from forcenet_md.errors import AddressError, RequestError
from forcenet_md.inference.load import load_evaluator
from forcenet_md.server.client import Client
from forcenet_md.simulation.demo_inputs import inputs_folder

SLOW = pytest.mark.slow
SCRIPT = """
units metal
lattice fcc 3.9
region box block 0 3 0 3 0 3
create_box 2 box
create_atoms 1 box
set group all type/fraction 2 0.5 11
mass 1 63.546
mass 2 195.084
velocity all create 300 4711 loop geom
pair_style zero 8.0
pair_coeff * *
timestep 0.002
fix ext all external pf/callback 1 1
forcenet ext ADDRESS elements Cu Pt
fix 1 all nve
dump 1 all custom 20 out.dump id x y z fx fy fz
dump_modify 1 sort id format float %.15g
run 20
"""


@contextmanager
def ranks(
    count: int, folder: Path, *options: str, wait: bool = True, driver: str = ""
) -> Iterator[tuple[RanksProcess, str]]:
    address = f"unix:{folder}/s"
    folder.joinpath("server").mkdir()
    model = folder / "m.pt"
    if not model.exists():
        write_model(model)
    arguments = ["--model", str(model), "--listen", address, *options]
    with RanksProcess(count, folder / "server", *arguments, wait=wait, driver=driver) as process:
        yield process, address


def last_frame(address: str, folder: Path) -> np.ndarray:
    """[n_atoms, 7] after 20 steps of LAMMPS: id, positions, forces."""
    done = quick_run(SCRIPT.replace("ADDRESS", address), folder)
    assert done.returncode == 0, done.output
    rows = (folder / "out.dump").read_text().split("ITEM: ATOMS")[-1].splitlines()[1:]
    return np.array([line.split() for line in rows], dtype=float)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("count", "how"), [(2, "SIGINT to a rank"), pytest.param(3, "SIGTERM to mpirun", marks=SLOW)]
)
def test_lammps_moves_atoms_by_the_forces_of_one_rank(
    count: int, how: str, small_model: Path, tmp_path: Path
) -> None:
    """And a signal ends all ranks."""
    evaluator = load_evaluator(str(small_model), dtype="float64")
    with in_thread(tmp_path / "one", evaluator) as (_, address):
        one = last_frame(address, tmp_path)
    with ranks(count, tmp_path, "--dtype", "float64") as (server, address):
        assert f"serves m on {count} ranks: forces" in server.text
        many = last_frame(address, tmp_path)
        if how == "SIGINT to a rank":
            os.kill(server.ranks()["0"], signal.SIGINT)
            assert server.wait() == 0
        else:
            assert server.end() == 0
        assert "stopped" in server.text
        assert "Traceback" not in server.text
        assert "MPICH" not in server.text
        assert "times the mean work of all" in server.text
        assert nothing_left(server.folder)
    assert len(one) == 108
    assert np.abs(one - many).max() < 1e-10 * np.abs(one[:, 4:]).max()
    assert not np.array_equal(one, many)


@SLOW
def test_a_signal_ends_all_ranks(tmp_path: Path) -> None:
    """Before anybody has been served."""
    with ranks(2, tmp_path) as (server, _):
        os.kill(server.ranks()["0"], signal.SIGTERM)
        assert server.wait() == 0
        assert "stopped" in server.text
        assert nothing_left(server.folder)


@SLOW
@pytest.mark.parametrize("which", ["0", "1"])
def test_a_killed_rank_ends_all(which: str, tmp_path: Path) -> None:
    with ranks(2, tmp_path) as (server, _):
        os.kill(server.ranks()[which], signal.SIGKILL)
        assert server.wait() != 0
        assert nothing_left(server.folder)


DRIVER = """
import forcenet_md.inference.crew as crew
from forcenet_md.cli.main import main

build, calls = crew.Crew.build, 0

def broken(self, *arguments):
    global calls
    calls += 1
    if calls > 3 and self.ranks.rank == RANK:  # after the warm-up
        raise ZeroDivisionError("a bug")
    build(self, *arguments)

crew.Crew.build = broken
main()
"""


@SLOW
@pytest.mark.parametrize("which", ["0", "1"])
def test_a_bug_on_one_rank_ends_all(which: str, tmp_path: Path) -> None:
    """Nobody waits for a rank that is out of step, and the client is not left without an answer."""
    driver = DRIVER.replace("RANK", which)
    with ranks(2, tmp_path, driver=driver) as (server, address), Client(address) as client:
        client.hello(elements=["Cu"], masses=None)
        with pytest.raises(AddressError):
            ask(client, bulk("Cu", cubic=True))
        assert server.wait() != 0
        assert "ZeroDivisionError: a bug" in server.text
        assert nothing_left(server.folder)


FAULTS = {
    "calculator": (["--model", "ase:emt"], "an ASE calculator runs on one rank"),
    "no-file": (["--model", "none.pt"], "none.pt"),
    "no-gpu": (["--device", "cuda"], "no GPU that torch can use"),
}


@SLOW
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_said_once(name: str, tmp_path: Path) -> None:
    options, sentence = FAULTS[name]
    with ranks(2, tmp_path, *options, wait=False) as (server, _):
        assert server.wait() == 1
        lines = [line for line in server.text.splitlines() if "error" in line]
        assert len(lines) == 1, server.text
        assert sentence in lines[0]
        assert "Traceback" not in server.text
        assert nothing_left(server.folder)


@pytest.mark.slow
def test_waiting_ranks_sleep_and_one_client_s_fault_is_its_own(tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.05, seed=2)
    with ranks(2, tmp_path) as (server, address), Client(address) as client:
        client.hello(elements=["Cu"], masses=None)
        forces = ask(client, atoms).forces
        pids = list(server.ranks().values())
        assert len(pids) == 2
        before = processor_time(pids)
        time.sleep(3.0)
        used = np.array(processor_time(pids)) - before
        assert (used < 0.05 * 3.0).all(), used

        bad = atoms.copy()
        bad.positions[1] = bad.positions[0]
        with Client(address) as other:
            other.hello(elements=["Cu"], masses=None)
            with pytest.raises(RequestError, match="lie on one point"):
                ask(other, bad)
        assert np.array_equal(ask(client, atoms, step=1).forces, forces)


@pytest.mark.slow
def test_ase_drives_them_by_i_pi_s_protocol(tmp_path: Path) -> None:
    """ASE's socket calculator is a server as i-PI is, and what an ASE user has for a driver."""
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.05, seed=2)
    write(tmp_path / "start.extxyz", atoms)
    name = own_name()
    write_model(tmp_path / "m.pt")
    with SocketIOCalculator(unixsocket=name, timeout=60) as calculator:
        options = ["--model", str(tmp_path / "m.pt"), "--dtype", "float64"]
        options += ["--ipi", f"unix:{name}", "--template", str(tmp_path / "start.extxyz")]
        (tmp_path / "server").mkdir()
        server = RanksProcess(2, tmp_path / "server", *options, wait=False)
        with server:
            atoms.calc = calculator
            before = atoms.get_forces()
            atoms.positions += 0.03 * before / np.abs(before).max()
            after = atoms.get_forces()
    assert nothing_left(tmp_path / "server")
    twin = atoms.copy()
    twin.calc = ForceNetCalculator(str(tmp_path / "m.pt"), dtype="float64")
    # through atomic units and back, of which i-PI and ASE have each their own
    assert np.abs(twin.get_forces() - after).max() < 1e-6 * np.abs(after).max()
    assert np.abs(after - before).max() > 1e-4 * np.abs(after).max()


@pytest.mark.slow
def test_i_pi_s_beads_are_computed_by_all_ranks(tmp_path: Path) -> None:
    """`forcenet-md ipi`: four beads in one batch, the trajectory of one rank."""
    found = []
    for count in (1, 2):
        folder = Path(shutil.copytree(inputs_folder() / "ipi", tmp_path / str(count)))
        text = (folder / "path-4.xml").read_text()
        text = text.replace("<address> path-4 <", f"<address> {own_name()} <")
        text = re.sub(r"<total_steps>.*?<", "<total_steps> 4 <", text)
        (folder / "path-4.xml").write_text(re.sub(r"stride='\d+'", "stride='1'", text))
        command = [*COMMAND, "ipi", "path-4.xml", "--model", "alloy", "--dtype", "float64"]
        done = subprocess.run(
            [*([str(BIN / "mpirun"), "-n", str(count)] if count > 1 else []), *command],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "i-PI has finished" in done.stdout
        assert done.stderr.count("warning") == done.stderr.count("\n"), done.stderr
        assert nothing_left(folder)
        beads = sorted(folder.glob("*.pos_*.xyz")) or sorted(folder.glob("*pos*"))
        assert len(beads) >= 4, list(folder.iterdir())
        found.append([frame.positions for file in beads for frame in read(file, ":", format="xyz")])
    one, many = (np.array(frames) for frames in found)
    assert len(one) >= 16
    assert np.abs(one - many).max() < 1e-6
