"""`mpi:NAME`: plain `lmp` and `forcenet-md serve` on MPI ranks, in one launch or in two."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from in_process_runs import GUARDS_OFF, nothing_left, processes_in
from lammps_runs import BIN, Run, quick_run
from local_scripts import CASES, frames, making, script
from mpi_launches import DOUBLE, PATIENCE, RUN, at, lammps_run, one_launch, running, server
from ranks_runs import MISBEHAVING, RanksProcess, processor_time
from serving import ServeProcess

from forcenet_md.engines.ase_calculator import ForceNetCalculator
from forcenet_md.units import ACCELERATION

pytestmark = pytest.mark.usefixtures("plugin")
SLOW = pytest.mark.slow
ONE_AT_A_TIME = {"two_fixes"}  # a server of MPI ranks has one client


@pytest.fixture(scope="module")
def one_rank(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, and the dumps of one rank that is served through a unix socket."""
    folder = tmp_path_factory.mktemp("one")
    address = f"unix:{folder}/s"
    options = ["--listen", address, *DOUBLE, *GUARDS_OFF]  # the model is random
    with ServeProcess(*options, model=str(small_model)) as server:
        for text in (making(), cases(folder, address)):
            done = quick_run(text, folder)
            assert done.returncode == 0, done.output + server.text
        assert server.end() == 0
    return folder


def cases(folder: Path, address: str) -> str:
    names = [name for name in CASES if name not in ONE_AT_A_TIME]
    return script(folder, names).replace("unix:/nowhere/s", address)


def assert_forces_are_those_of(one_rank: Path, folder: Path) -> None:
    for name in CASES.keys() - ONE_AT_A_TIME:
        one, many = frames(one_rank, name), frames(folder, name)
        assert len(one) == len(many) >= 2, name
        for k, (a, b) in enumerate(zip(one, many, strict=True)):
            assert np.array_equal(a[:, 0], b[:, 0]), (name, k)
            largest = np.abs(a[:, 4:]).max()
            # of the same positions to 1e-10; later ones differ by what rounding has become
            worst = 1e-10 if k == 0 else 1e-7
            assert np.abs(a[:, 4:] - b[:, 4:]).max() < worst * largest, (name, k)
        assert np.abs(one[0][:, 4:]).max() > 0.0


# Forces ------------------------------------------------------------------------------------------


@SLOW
@pytest.mark.parametrize(
    ("lammps", "ranks"),
    [(2, 2), *(pytest.param(*pair, marks=SLOW) for pair in ((2, 1), (1, 2), (3, 2)))],
)
def test_two_launches(
    lammps: int, ranks: int, small_model: Path, one_rank: Path, tmp_path: Path
) -> None:
    """Forces are those of one rank in all kinds of boxes; each `clear` says BYE, and the next case
    is the next client. An idle server sleeps, ends by a signal, and leaves nothing behind."""
    with server(ranks, tmp_path, small_model) as served:
        done = lammps_run(cases(one_rank, served.address), tmp_path, lammps)
        assert done.returncode == 0, done.output + served.process.text
        assert_forces_are_those_of(one_rank, tmp_path)
        pids = list(served.process.ranks().values())
        assert len(pids) == ranks
        before = processor_time(pids)
        time.sleep(3.0)
        used = np.array(processor_time(pids)) - before
        assert (used < 0.05 * 3.0).all(), used
        assert served.process.end() == 0
        assert "stopped" in served.process.text
        assert "Traceback" not in served.process.text
        assert list(served.files.iterdir()) == []
        assert nothing_left(served.process.folder)


@SLOW
@pytest.mark.parametrize(("lammps", "ranks"), [(2, 1), (1, 2), (2, 2), (3, 2)])
def test_one_launch(
    lammps: int, ranks: int, small_model: Path, one_rank: Path, tmp_path: Path
) -> None:
    done = one_launch(cases(one_rank, "mpi:here"), tmp_path, small_model, lammps, ranks)
    assert done.returncode == 0, done.output
    assert_forces_are_those_of(one_rank, tmp_path)


# Faults ------------------------------------------------------------------------------------------

FAULTS = {
    "element": (RUN.replace("Cu Pt", "Cu Fe"), r"does not know Fe \(atom type 2\)"),
    "one_point": (RUN + "set atom 1*2 x 1.0 y 1.0 z 1.0\nrun 1\n", "lie on one point"),
    "stress of atoms": (
        RUN + "compute s all stress/atom NULL\nrun 1\n",
        r"compute s \(stress/atom\) needs each atom's virial, but the model gives no virial",
    ),
    "a fault of LAMMPS": (RUN + "nonsense\n", "Unknown command: nonsense"),
}


def assert_forces_of_ase(address: str, model: Path, folder: Path) -> None:
    dump = "dump 1 all custom 5 out.dump id type x y z fx fy fz\ndump_modify 1 format float %.15g\n"
    done = lammps_run(at(RUN.replace("run 5", f"{dump}run 5"), address), folder, 2)
    assert done.returncode == 0, done.output
    rows = np.loadtxt((folder / "out.dump").read_text().splitlines()[-108:])
    numbers = np.array([29, 78])[rows[:, 1].astype(int) - 1]
    atoms = Atoms(numbers, rows[:, 2:5], cell=3 * [11.7], pbc=True)
    atoms.calc = ForceNetCalculator(str(model), dtype="float64")
    expected = atoms.get_forces()
    assert np.abs(rows[:, 5:] - expected).max() < 1e-10 * np.abs(expected).max()


@SLOW
def test_a_fault_stops_lammps_and_the_server_goes_on(small_model: Path, tmp_path: Path) -> None:
    with server(2, tmp_path, small_model) as served:
        for text, sentence in FAULTS.values():
            done = lammps_run(at(text, served.address), tmp_path, 2)
            assert done.returncode != 0
            assert re.search(sentence, done.error), done.output
        two = RUN + "fix two all external pf/callback 1 1\nforcenet two MPI elements Cu Pt\n"
        done = lammps_run(at(two.replace("MPI", served.address), served.address), tmp_path, 2)
        assert "(it serves another LAMMPS): start one of another NAME" in done.error

        (tmp_path / "killed").mkdir()
        with running(served.address, tmp_path / "killed"):
            ranks = [pid for pid, rank in processes_in(tmp_path / "killed").items() if rank == "1"]
            os.kill(ranks[0], signal.SIGKILL)
        assert_forces_of_ase(served.address, small_model, tmp_path)
        assert served.process.end() == 0
        # its own fault, the refused compute, that of the second fix, and the killed one
        assert served.process.text.count("it ended without goodbye") == 4
        assert "UCX" not in served.process.text
        assert "Traceback" not in served.process.text


DEEDS = {
    "nan": ("forces[0] = float('nan')", "on rank 1: the model gives a force that is not finite"),
    "memory": ("raise torch.OutOfMemoryError('cannot allocate')", "not enough memory for"),
    "bug": ("raise ZeroDivisionError('the model')", "was lost"),
}


DUMP = (
    "dump 1 all custom 1 out.dump id type x y z vx vy vz fx fy fz\n"
    "dump_modify 1 sort id format float %.15g\n"
)


def assert_next_frame(atoms: Atoms, dump: Path) -> None:
    """Where velocity Verlet takes LAMMPS's atoms in the femtosecond after the last dump."""
    rows = np.loadtxt(dump.read_text().splitlines()[-108:])
    numbers = np.array([29, 78])[rows[:, 1].astype(int) - 1]
    masses = np.array([63.546, 195.084])[rows[:, 1].astype(int) - 1, None]
    x, v, f = np.split(rows[:, 2:], 3, axis=1)
    assert (atoms.numbers == numbers).all()
    moved = atoms.positions - (x + 0.001 * (v + 0.0005 * f / masses * ACCELERATION))
    assert np.abs(moved - 11.7 * np.rint(moved / 11.7)).max() < 1e-7
    assert np.abs(0.001 * v).max() > 1e-3


@SLOW
@pytest.mark.parametrize("name", DEEDS)
def test_a_fault_of_one_rank_of_the_server(name: str, small_model: Path, tmp_path: Path) -> None:
    """LAMMPS stops with its sentence; a bug ends the server, another fault costs it nothing. The
    frame of a force that is not finite is kept."""
    deed, sentence = DEEDS[name]
    text = RUN.replace("run 5", DUMP + "run 5")
    guards = ["--guard", "warn", "--guard-frames", "kept.extxyz"]
    kept = tmp_path / "server" / "kept.extxyz"
    with server(2, tmp_path, small_model, MISBEHAVING.format(deed=deed), guards) as served:
        for step in (4,) if name == "bug" else (4, 0):
            done = lammps_run(at(text, served.address), tmp_path, 2)
            assert done.returncode != 0
            assert sentence in done.error
            if name == "nan":
                assert f"starting structure (the frame is kept in {kept})" in done.error
                last = ase.io.read(kept, -1)
                assert (last.info["guard"], last.info["step"], len(last)) == ("finite", step, 108)
                if step:
                    assert_next_frame(last, tmp_path / "out.dump")
        if name == "bug":
            assert served.process.wait() != 0
            assert "ZeroDivisionError: the model" in served.process.text
        else:
            assert served.process.end() == 0
            assert "Traceback" not in served.process.text


@SLOW
def test_lammps_is_killed_while_its_atoms_are_on_their_way(
    small_model: Path, tmp_path: Path
) -> None:
    program = Path(__file__).parent / "mpi_killed_guest.py"
    with server(1, tmp_path, small_model) as served:
        guest = [str(BIN / "mpirun"), "-n", "1", sys.executable, str(program)]
        guest += [served.address.removeprefix("mpi:")]
        assert subprocess.run(guest, capture_output=True, timeout=PATIENCE).returncode != 0
        served.process.until("it ended without goodbye")
        assert_forces_of_ase(served.address, small_model, tmp_path)
        assert served.process.end() == 0


@SLOW
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_lost_server_stops_lammps(how: str, small_model: Path, tmp_path: Path) -> None:
    with server(2, tmp_path, small_model) as served:
        with running(served.address, tmp_path) as process:
            if how == "killed":
                os.kill(served.process.ranks()["1"], signal.SIGKILL)
            else:
                assert served.process.end() == 0
            output, _ = process.communicate(timeout=30)
        error = Run(process.returncode, output).error
        assert process.returncode != 0
        assert ("was lost at step" if how == "killed" else "the server was stopped") in error
        if how == "stopped":
            assert list(served.files.iterdir()) == []
            return
        # what the dead have left is no server, and does not keep the next one out
        done = lammps_run(at(RUN, served.address), tmp_path, 2)
        assert "no server has published a port" in done.error
        again = ["--model", str(small_model), "--listen", served.address]
        next_one = RanksProcess(1, served.process.folder, *again)
        with next_one:
            done = lammps_run(at(RUN, served.address), tmp_path, 2)
            assert done.returncode == 0, done.output
            assert next_one.end() == 0


@SLOW
@pytest.mark.parametrize("name", ["a fault of LAMMPS", "one_point", "element"])
def test_a_fault_ends_one_launch(name: str, small_model: Path, tmp_path: Path) -> None:
    text, sentence = FAULTS[name]
    done = one_launch(at(text, "mpi:here"), tmp_path, small_model, 2, 1)
    assert done.returncode != 0
    assert re.search(sentence, done.error), done.output


@SLOW
def test_other_ends_of_one_launch(small_model: Path, tmp_path: Path) -> None:
    """LAMMPS that never asks, two fixes, no model."""
    done = one_launch("units metal\n", tmp_path, small_model, 1, 1)
    assert done.returncode == 0
    two = RUN + "fix two all external pf/callback 1 1\nforcenet two MPI elements Cu Pt\n"
    done = one_launch(at(two.replace("MPI", "mpi:here"), "mpi:here"), tmp_path, small_model, 1, 1)
    assert "one fix external at a time" in done.error
    done = one_launch(at(RUN, "mpi:here"), tmp_path, tmp_path / "none.pt", 1, 2)
    assert done.returncode != 0
    assert done.output.count("none.pt does not exist") == 1, done.output
