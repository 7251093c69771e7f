"""A job script of examples/02-slurm, run by bash with stand-ins for SLURM's programs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "examples" / "02-slurm").glob("*.sh"))
LAMMPS = [script.name for script in SCRIPTS if "ipi" not in script.name]
IPI = [script.name for script in SCRIPTS if "ipi" in script.name]
PATIENCE = 60.0  # s

# A step is all the processes of a launch, on one rank here; it ends with its srun.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    del words[0]
step = subprocess.Popen(words, start_new_session=True)
open("step.pid", "w").write(str(step.pid))
signal.signal(signal.SIGTERM, lambda *_: os.killpg(step.pid, signal.SIGKILL))
code = step.wait()
sys.exit(code if code >= 0 else 128 - code)
"""
SQUEUE = '#!/bin/sh\ndate --date "+$SECONDS_LEFT seconds" +%Y-%m-%dT%H:%M:%S\n'
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$*" >> scontrol.txt; fi
"""


def is_gone(group: int) -> bool:
    """Whether a group of processes has ended; the last one may still be waited for by init."""
    start = time.monotonic()
    while time.monotonic() - start < PATIENCE:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


class Job:
    """A script that runs as a job of one rank would, in a copy of the examples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "examples" / "02-slurm"
        self.programs = folder / "programs"
        shutil.copytree(SCRIPTS[0].parent, self.folder)
        shutil.copytree(ROOT / "inputs", folder / "inputs")
        self.programs.mkdir()
        for name, text in {"srun": SRUN, "squeue": SQUEUE, "scontrol": SCONTROL}.items():
            (self.programs / name).write_text(text)
            (self.programs / name).chmod(0o755)
        self.number = str(os.getpid())  # of one worker's tests: i-PI's socket is called after it
        self.variables: dict[str, str] = {}
        self.process: subprocess.Popen[str] | None = None

    def start(self, script: str, *words: str, **variables: str) -> None:
        environment = {
            **os.environ,
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "FORCENET_MD_ENV": sys.prefix,
            "SLURM_JOB_ID": self.number,
            "SLURM_NTASKS": "1",
            "SLURM_NTASKS_HET_GROUP_1": "1",
            "SLURMD_NODENAME": "127.0.0.1",
            "SLURM_JOB_NODELIST_HET_GROUP_1": "node",
            "SECONDS_LEFT": "1000",
            "MODEL": "ase:emt",
            "DEVICE": "cpu",
            **self.variables,
            **variables,
        }
        self.process = subprocess.Popen(
            ["bash", script, *words],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *words: str, **variables: str) -> tuple[int, str]:
        self.start(script, *words, **variables)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """The exit code and the output of a job that has left nothing behind."""
        assert self.process
        output, _ = self.process.communicate(timeout=PATIENCE)
        assert is_gone(self.process.pid)
        if self.step.exists():
            assert is_gone(int(self.step.read_text()))
        for path in re.findall(r"listening on unix:(\S+)", self.log):
            assert not Path(path).parent.exists()
        assert not list(self.folder.glob(".secret*"))
        return self.process.returncode, output

    def close(self) -> None:
        """Kill what a test that failed has left."""
        groups = [self.process.pid] if self.process else []
        if self.step.exists():
            groups.append(int(self.step.read_text()))
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    @property
    def step(self) -> Path:
        """Where srun's stand-in writes the number of LAMMPS's processes."""
        return self.folder / "step.pid"

    @property
    def log(self) -> str:
        return "".join(file.read_text() for file in self.folder.glob("server-*.log"))

    def until(self, done: Callable[[], bool]) -> None:
        assert self.process
        start = time.monotonic()
        while not done():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() - start < PATIENCE
            time.sleep(0.1)

    def until_lammps_moves(self) -> None:
        self.until(lambda: self.step.exists() and "500 atoms of" in self.log)

    def server(self) -> int:
        """The server's process id."""
        assert self.process
        bash = self.process.pid
        children = Path(f"/proc/{bash}/task/{bash}/children").read_text().split()
        found = [p for p in children if b"\0serve\0" in Path(f"/proc/{p}/cmdline").read_bytes()]
        assert len(found) == 1
        return int(found[0])
