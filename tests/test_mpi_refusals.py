"""`mpi:NAME`: what is said where two programs cannot come together."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from lammps_runs import quick_run
from mpi_launches import PATIENCE, RUN, at, lammps_run, launch, one_launch
from serving import COMMAND

pytestmark = pytest.mark.usefixtures("plugin")
SLOW = pytest.mark.slow
REFUSED: dict[str, tuple[Sequence[str], str]] = {
    "with another": (["--listen", "mpi:x", "--listen", "tcp:127.0.0.1:0"], "is served alone"),
    "no address": (["--mpicolor", "1"], "give --listen mpi:NAME"),
    "alone": (
        ["--listen", "mpi:x", "--mpicolor", "1"],
        "there is no LAMMPS of another colour",
    ),
    "no mpirun": (["--listen", "mpi:./x"], "needs mpirun on both sides"),
    "calculator": (["--listen", "mpi:./x", "--model", "ase:emt"], "an ASE calculator cannot"),
}


@pytest.mark.parametrize("name", ["no address", *(pytest.param(n, marks=SLOW) for n in REFUSED)])
def test_a_server_is_refused_by_a_sentence(name: str, small_model: Path, tmp_path: Path) -> None:
    options, sentence = REFUSED[name]
    done = subprocess.run(
        [*COMMAND, "serve", "--model", str(small_model), *options],
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


COLOURS = {"equal": ["--mpicolor", "0"], "forgotten": []}


@SLOW
@pytest.mark.parametrize("name", COLOURS)
def test_programs_of_one_launch_need_colours(name: str, small_model: Path, tmp_path: Path) -> None:
    done = one_launch(at(RUN, "mpi:here"), tmp_path, small_model, 2, 2, COLOURS[name])
    assert done.returncode != 0
    assert done.output.count("forcenet-md: error") == 1
    assert "--mpicolor 1, with another colour for each program" in done.output


@SLOW
def test_a_program_that_does_not_know_its_colour_is_spoken_of(
    small_model: Path, tmp_path: Path
) -> None:
    serve = [*COMMAND, "serve", "--model", str(small_model), "--listen", "mpi:here"]
    two = [":", "-n", "1", *serve, "--mpicolor", "1"]
    with launch(at(RUN, "mpi:here"), tmp_path, 1, "-screen", "none", *two) as process:
        assert process.stdout
        for line in process.stdout:
            if "was LAMMPS started without -mpicolor?" in line:
                return
        raise AssertionError("it ended without a word")


@SLOW
def test_lammps_waits_for_a_server(tmp_path: Path) -> None:
    text = at(RUN, f"mpi:{tmp_path}/none").replace("Cu Pt\n", "Cu Pt retry 2\n")
    done = lammps_run(text, tmp_path, 1)
    assert "(waiting up to 2 s)" in done.output
    assert "give 'retry" not in done.output
    assert "cannot be reached" in done.error


def test_without_a_server_there_is_a_sentence(tmp_path: Path) -> None:
    done = lammps_run(at(RUN, f"mpi:{tmp_path}/none"), tmp_path, 1)
    assert "cannot be reached (no server has published a port" in done.error
    done = quick_run(at(RUN, f"mpi:{tmp_path}/none"), tmp_path)
    assert "needs mpirun on both sides" in done.error
