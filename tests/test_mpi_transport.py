"""`mpi:NAME`: plain `lmp` and `forcenet-md serve` on MPI ranks, in one launch or in two."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from in_process_runs import nothing_left, processes_in
from lammps_runs import BIN, Run, quick_run, real_lmp
from local_scripts import CASES, EXTERNAL, frames, making, script
from models import write_model
from serving import COMMAND, ServeProcess
from test_ranks_serve import RanksProcess, processor_time

pytestmark = pytest.mark.usefixtures("plugin")
SLOW = pytest.mark.slow
DOUBLE = ["--dtype", "float64"]
ONE_AT_A_TIME = {"two_fixes"}  # a server of MPI ranks has one client
PATIENCE = 120  # s


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.pt"
    write_model(path)
    return path


@pytest.fixture(scope="module")
def one_rank(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, and the dumps of one rank that is served through a unix socket."""
    folder = tmp_path_factory.mktemp("one")
    address = f"unix:{folder}/s"
    with ServeProcess("--listen", address, *DOUBLE, model=str(model)) as server:
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


@dataclass
class Served:
    """A server in a launch of its own, and the address for LAMMPS; its files are in `files`."""

    process: RanksProcess
    address: str
    files: Path


@contextmanager
def server(ranks: int, folder: Path, model: Path) -> Iterator[Served]:
    files = folder / "files"
    for each in (files, folder / "server"):
        each.mkdir()
    address = f"mpi:{files}/port"
    options = ["--model", str(model), "--listen", address, *DOUBLE]
    process = RanksProcess(ranks, folder / "server", *options)
    try:
        yield Served(process, address, files)
    finally:
        if process.process.poll() is None:
            os.killpg(process.process.pid, signal.SIGKILL)
        process.process.wait()
        process.__exit__()


@contextmanager
def launch(text: str, folder: Path, ranks: int, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A running `mpirun … lmp`, also of one rank; more: of the command line."""
    (folder / "in.lammps").write_text(text)
    program, environment = real_lmp()
    command = [str(BIN / "mpirun"), "-n", str(ranks), str(program), *more[:2]]
    command += ["-in", "in.lammps", "-log", "none", "-nonbuf", *more[2:]]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def lammps_run(text: str, folder: Path, ranks: int, *more: str) -> Run:
    with launch(text, folder, ranks, *more) as process:
        output, _ = process.communicate(timeout=PATIENCE)
        return Run(process.returncode, output)


def one_launch(text: str, folder: Path, model: Path, lammps: int, ranks: int) -> Run:
    """`mpirun … lmp : … forcenet-md serve` to its end."""
    serve = [*COMMAND, "serve", "--model", str(model), "--listen", "mpi:here"]
    serve += ["--mpicolor", "1", *DOUBLE]
    done = lammps_run(text, folder, lammps, "-mpicolor", "0", ":", "-n", str(ranks), *serve)
    assert nothing_left(folder)
    assert "Traceback" not in done.output
    return done


# Forces ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lammps", "ranks"),
    [(2, 2), *(pytest.param(*pair, marks=SLOW) for pair in ((2, 1), (1, 2), (3, 2)))],
)
def test_two_launches(lammps: int, ranks: int, model: Path, one_rank: Path, tmp_path: Path) -> None:
    """Forces are those of one rank in all kinds of boxes; each `clear` says BYE, and the next case
    is the next client. An idle server sleeps, ends by a signal, and leaves nothing behind."""
    with server(ranks, tmp_path, model) as served:
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
def test_one_launch(lammps: int, ranks: int, model: Path, one_rank: Path, tmp_path: Path) -> None:
    done = one_launch(cases(one_rank, "mpi:here"), tmp_path, model, lammps, ranks)
    assert done.returncode == 0, done.output
    assert_forces_are_those_of(one_rank, tmp_path)


# Faults ------------------------------------------------------------------------------------------

CRYSTAL = """
units metal
lattice fcc 3.9
region box block 0 3 0 3 0 3
create_box 2 box
create_atoms 1 box
set group all type/fraction 2 0.5 11
mass 1 63.546
mass 2 195.084
velocity all create 300 4711 loop geom
pair_style zero 5.0
pair_coeff * *
"""
NVE = "fix 1 all nve\nrun 5\n"
RUN = CRYSTAL + EXTERNAL + NVE
FAULTS = {
    "element": (RUN.replace("Cu Pt", "Cu Fe"), r"does not know Fe \(atom type 2\)"),
    "one_point": (RUN + "set atom 1*2 x 1.0 y 1.0 z 1.0\nrun 1\n", "lie on one point"),
    "a fault of LAMMPS": (RUN + "nonsense\n", "Unknown command: nonsense"),
}


def at(text: str, address: str) -> str:
    return text.replace("unix:/nowhere/s", address)


@contextmanager
def running(address: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Two ranks of LAMMPS in the midst of a long run."""
    text = at(RUN, address) + "shell touch started\nrun 100000\n"
    with launch(text, folder, 2) as process:
        end = time.monotonic() + PATIENCE
        while not (folder / "started").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.5)
        yield process


def test_a_fault_stops_lammps_and_the_server_goes_on(model: Path, tmp_path: Path) -> None:
    with server(2, tmp_path, model) as served:
        for text, sentence in FAULTS.values():
            done = lammps_run(at(text, served.address), tmp_path, 2)
            assert done.returncode != 0
            assert re.search(sentence, done.error), done.output
        two = RUN + "fix two all external pf/callback 1 1\nforcenet two MPI elements Cu Pt\n"
        done = lammps_run(at(two.replace("MPI", served.address), served.address), tmp_path, 2)
        assert "it serves another LAMMPS" in done.error

        (tmp_path / "killed").mkdir()
        with running(served.address, tmp_path / "killed"):
            ranks = [pid for pid, rank in processes_in(tmp_path / "killed").items() if rank == "1"]
            os.kill(ranks[0], signal.SIGKILL)
        done = lammps_run(at(RUN, served.address), tmp_path, 2)
        assert done.returncode == 0, done.output
        assert served.process.end() == 0
        # its own fault, that of the second fix, and the killed one
        assert served.process.text.count("it ended without goodbye") == 3
        assert "UCX" not in served.process.text
        assert "Traceback" not in served.process.text


@SLOW
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_lost_server_stops_lammps(how: str, model: Path, tmp_path: Path) -> None:
    with server(2, tmp_path, model) as served:
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
        again = ["--model", str(model), "--listen", served.address]
        next_one = RanksProcess(1, served.process.folder, *again)
        with next_one:
            done = lammps_run(at(RUN, served.address), tmp_path, 2)
            assert done.returncode == 0, done.output
            assert next_one.end() == 0


@pytest.mark.parametrize(
    "name",
    ["a fault of LAMMPS", *(pytest.param(n, marks=SLOW) for n in ("one_point", "element"))],
)
def test_a_fault_ends_one_launch(name: str, model: Path, tmp_path: Path) -> None:
    text, sentence = FAULTS[name]
    done = one_launch(at(text, "mpi:here"), tmp_path, model, 2, 1)
    assert done.returncode != 0
    assert re.search(sentence, done.error), done.output


@SLOW
def test_other_ends_of_one_launch(model: Path, tmp_path: Path) -> None:
    """LAMMPS that never asks, two fixes, no model."""
    done = one_launch("units metal\n", tmp_path, model, 1, 1)
    assert done.returncode == 0
    two = RUN + "fix two all external pf/callback 1 1\nforcenet two MPI elements Cu Pt\n"
    done = one_launch(at(two.replace("MPI", "mpi:here"), "mpi:here"), tmp_path, model, 1, 1)
    assert "one fix external at a time" in done.error
    done = one_launch(at(RUN, "mpi:here"), tmp_path, tmp_path / "none.pt", 1, 2)
    assert done.returncode != 0
    assert done.output.count("none.pt does not exist") == 1, done.output


# Refusals ----------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Sequence[str], str]] = {
    "with another": (["--listen", "mpi:x", "--listen", "tcp:127.0.0.1:0"], "is served alone"),
    "no address": (["--mpicolor", "1"], "give --listen mpi:NAME"),
    "alone": (["--listen", "mpi:x", "--mpicolor", "1"], "there is no LAMMPS in this one"),
    "no mpirun": (["--listen", "mpi:./x"], "needs mpirun on both sides"),
    "calculator": (["--listen", "mpi:./x", "--model", "ase:emt"], "an ASE calculator cannot"),
}


@pytest.mark.parametrize("name", ["no address", *(pytest.param(n, marks=SLOW) for n in REFUSED)])
def test_a_server_is_refused_by_a_sentence(name: str, model: Path, tmp_path: Path) -> None:
    options, sentence = REFUSED[name]
    done = subprocess.run(
        [*COMMAND, "serve", "--model", str(model), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "forcenet-md: error" in line]
    assert len(lines) == 1, done.stderr
    assert sentence in lines[0]
    assert "Traceback" not in done.stderr


def test_without_a_server_there_is_a_sentence(tmp_path: Path) -> None:
    done = lammps_run(at(RUN, f"mpi:{tmp_path}/none"), tmp_path, 1)
    assert "cannot be reached (no server has published a port" in done.error
    done = quick_run(at(RUN, f"mpi:{tmp_path}/none"), tmp_path)
    assert "needs mpirun on both sides" in done.error
