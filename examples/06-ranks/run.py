"""One system on two ranks by every route, held against one rank.

    python run.py [--model alloy] [--ranks 2]

LAMMPS through a server by a socket and by MPI, LAMMPS with the model in its own process, i-PI and
ASE: each prints the largest difference of forces (i-PI: of positions) to those of one rank. All
files are in `work/`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ase.calculators.socketio import SocketIOCalculator
from ase.io import read

from forcenet_md import ForceNetCalculator
from forcenet_md.simulation.demo_inputs import inputs_folder

BIN = Path(sys.executable).parent
WORK = Path("work").absolute()
PRECISE = ["--dtype", "float64"]
SCRIPT = """
units metal
read_data alloy.data
pair_style none
fix ext all external pf/callback 1 1
forcenet ext {address} elements Ag Au Cu Pd Pt
velocity all create 600 4711 loop geom
fix 1 all nve
dump 1 all custom 20 {name}.dump id fx fy fz
dump_modify 1 sort id format float %.15g
run 20
"""


def mpirun(ranks: int, *command: str) -> list[str]:
    """What a user types; without mpirun for one rank."""
    launch = [str(BIN / "mpirun"), "-n", str(ranks)] if ranks > 1 else []
    return [*launch, str(BIN / command[0]), *command[1:]]


def call(command: list[str], folder: Path = WORK) -> None:
    print("  $", " ".join(word.removeprefix(f"{BIN}/") for word in command), flush=True)
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit((folder / "log").read_text())


@contextmanager
def serving(ranks: int, *options: str) -> Iterator[None]:
    """A server on so many ranks, from when it is ready (i-PI's driver: at once) to its end."""
    command = mpirun(ranks, "forcenet-md", "serve", *options)
    print("  $", " ".join(word.removeprefix(f"{BIN}/") for word in command), flush=True)
    with (WORK / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=WORK, stdout=log, stderr=subprocess.STDOUT)
    try:
        while "--listen" in options and "ready" not in (WORK / "server.log").read_text():
            if process.poll() is not None:
                raise SystemExit((WORK / "server.log").read_text())
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def forces(name: str) -> np.ndarray:
    """[n_atoms, 3] of LAMMPS's first frame."""
    text = (WORK / f"{name}.dump").read_text().split("ITEM: ATOMS")[1]
    lines = text.partition("ITEM: TIMESTEP")[0].splitlines()[1:]
    return np.array([line.split()[1:] for line in lines], dtype=float)


def told(route: str, one: np.ndarray, many: np.ndarray, what: str = "forces") -> None:
    scale = np.abs(one).max()
    print(f"{route}: {what} differ by {np.abs(one - many).max() / scale:.1e} of the largest\n")


def lammps_by_server(model: str, ranks: int) -> None:
    for n in (1, ranks):
        address, name = f"unix:{WORK}/s{n}", f"server-{n}"
        (WORK / f"{name}.in").write_text(SCRIPT.format(address=address, name=name))
        with serving(n, "--model", model, "--listen", address, *PRECISE):
            call(mpirun(1, "lmp", "-in", f"{name}.in", "-log", "none"))
    told("LAMMPS, server on ranks", forces("server-1"), forces(f"server-{ranks}"))


def lammps_in_process(model: str, ranks: int) -> None:
    name = f"inside-{ranks}"
    (WORK / f"{name}.in").write_text(SCRIPT.format(address="unix:/not/used", name=name))
    words = ["forcenet-md", "lammps", "--model", model, *PRECISE, "-in", f"{name}.in"]
    call(mpirun(ranks, *words, "-log", "none"))
    told("LAMMPS, model on its ranks", forces("server-1"), forces(name))


def lammps_by_mpi(model: str, ranks: int) -> None:
    address, name = f"mpi:{WORK}/mpi", f"mpi-{ranks}"
    (WORK / f"{name}.in").write_text(SCRIPT.format(address=address, name=name))
    with serving(ranks, "--model", model, "--listen", address, *PRECISE):
        call([str(BIN / "mpirun"), "-n", str(ranks), str(BIN / "lmp"), "-in", f"{name}.in"])
    told("LAMMPS, server on ranks, by MPI", forces("server-1"), forces(name))


def i_pi(model: str, ranks: int) -> None:
    found = []
    for n in (1, ranks):
        folder = Path(shutil.copytree(inputs_folder() / "ipi", WORK / f"ipi-{n}"))
        text = (folder / "alloy-nvt.xml").read_text()
        text = re.sub(r"<total_steps>.*?<", "<total_steps> 10 <", text)
        text = re.sub(r"(<address>) alloy-nvt", rf"\1 ranks-{os.getpid()}-{n}", text)
        (folder / "alloy-nvt.xml").write_text(re.sub(r"stride='\d+'", "stride='10'", text))
        words = ["forcenet-md", "ipi", "alloy-nvt.xml", "--model", model, *PRECISE]
        call(mpirun(n, *words), folder)
        (file,) = folder.glob("*pos*")
        found.append(read(file, -1, format="extxyz").positions)
    told("i-PI", *found, what="positions after ten steps")


def ase(model: str, ranks: int) -> None:
    """ASE's socket calculator is to a driver what i-PI is."""
    atoms = read(inputs_folder() / "ipi" / "alloy.xyz")
    name = f"ase-{os.getpid()}"
    template = str(inputs_folder() / "ipi" / "alloy.xyz")
    with SocketIOCalculator(unixsocket=name) as calculator:
        options = ["--model", model, "--ipi", f"unix:{name}", "--template", template, *PRECISE]
        with serving(ranks, *options):
            atoms.calc = calculator
            many = atoms.get_forces()
    atoms.calc = ForceNetCalculator(model, dtype="float64")
    told("ASE", atoms.get_forces(), many)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="alloy")
    parser.add_argument("--ranks", type=int, default=2)
    arguments = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    shutil.copy(inputs_folder() / "lammps" / "alloy.data", WORK)
    for route in (lammps_by_server, lammps_by_mpi, lammps_in_process, i_pi, ase):
        route(arguments.model, arguments.ranks)


if __name__ == "__main__":
    main()
