"""Real `forcenet-md lammps` processes for tests: LAMMPS with the model in its own process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lammps_runs import BIN, EXTERNAL, NO_PAIR, Run, crystal

LJ = "ase:lj,sigma=3.405,epsilon=0.0104,rc=6.5"
NOWHERE = "unix:/nowhere/s"
FORCENET = f"forcenet ext {NOWHERE} elements Ar\n"
ARGON = crystal(2) + NO_PAIR + EXTERNAL + FORCENET
NVE = "fix 1 all nve\n"
GUARDS_OFF = ["--guard", "off"]


@dataclass
class Ended(Run):
    errors: str

    @property
    def sentence(self) -> str:
        """The one sentence on standard error."""
        lines = re.findall(r"^forcenet-md: error: (.*)$", self.errors, re.M)
        assert len(lines) == 1, self.errors
        return lines[0]


@contextmanager
def lammps(
    script: str | None,
    folder: Path,
    ranks: int = 1,
    options: Sequence[str] = (),
    model: str = LJ,
    driver: str = "from forcenet_md.cli.main import main; main()",
    environment: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A running `forcenet-md lammps`; whatever is left of it at the end is killed.

    Its guards are off if no option speaks of them: most models here are random.
    """
    if not any(option.startswith("--guard") for option in options):
        options = [*options, *GUARDS_OFF]
    if script is not None:
        (folder / "in.lammps").write_text(script)
        options = ["-in", "in.lammps", *options]
    command = [sys.executable, "-c", driver, "lammps", "--model", model, "-nonbuf", *options]
    if ranks > 1:
        command = [str(BIN / "mpirun"), "-n", str(ranks), *command]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run(*arguments: Any, typed: str = "", **settings: Any) -> Ended:
    with lammps(*arguments, **settings) as process:
        output, errors = process.communicate(typed, timeout=120)
        return Ended(process.returncode, output, errors)


def succeed(*arguments: Any, **settings: Any) -> Ended:
    done = run(*arguments, **settings)
    assert done.returncode == 0, done.output + done.errors
    assert done.errors == ""
    return done


def processes_in(folder: Path) -> dict[int, str]:
    """Processes whose working folder it is, with their rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder.resolve():
                words = (entry / "environ").read_text().split("\0")
                ranks = [word[9:] for word in words if word.startswith("PMI_RANK=")]
                found[int(entry.name)] = ranks[0] if ranks else ""
        except OSError:
            continue  # ended meanwhile, or not ours
    return found


def nothing_left(folder: Path) -> bool:
    end = time.monotonic() + 20
    while processes_in(folder) and time.monotonic() < end:
        time.sleep(0.02)
    return not processes_in(folder)
