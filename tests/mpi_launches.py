"""Plain `lmp` and `forcenet-md serve` on MPI ranks for tests, in one launch or in two."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from in_process_runs import GUARDS_OFF, nothing_left
from lammps_runs import BIN, Run, real_lmp
from local_scripts import EXTERNAL
from ranks_runs import RanksProcess
from serving import COMMAND

DOUBLE = ["--dtype", "float64"]
PATIENCE = 120  # s

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


@dataclass
class Served:
    """A server in a launch of its own, and the address for LAMMPS; its files are in `files`."""

    process: RanksProcess
    address: str
    files: Path


@contextmanager
def server(
    ranks: int, folder: Path, model: Path, driver: str = "", more: Sequence[str] = ()
) -> Iterator[Served]:
    files = folder / "files"
    for each in (files, folder / "server"):
        each.mkdir()
    address = f"mpi:{files}/port"
    options = ["--model", str(model), "--listen", address, *DOUBLE, *more]
    with RanksProcess(ranks, folder / "server", *options, driver=driver) as process:
        yield Served(process, address, files)


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


def one_launch(
    text: str,
    folder: Path,
    model: Path,
    lammps: int,
    ranks: int,
    color: Sequence[str] = ("--mpicolor", "1"),
) -> Run:
    """`mpirun … lmp : … forcenet-md serve` to its end."""
    serve = [*COMMAND, "serve", "--model", str(model), "--listen", "mpi:here", *color, *DOUBLE]
    serve += GUARDS_OFF  # the models are random
    done = lammps_run(text, folder, lammps, "-mpicolor", "0", ":", "-n", str(ranks), *serve)
    assert nothing_left(folder)
    assert "Traceback" not in done.output
    return done


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
