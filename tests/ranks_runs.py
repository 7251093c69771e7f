"""Servers of many ranks for tests: real `mpirun -n R forcenet-md serve` processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from in_process_runs import GUARDS_OFF, processes_in
from lammps_runs import BIN
from serving import COMMAND, ServeProcess

# A driver in which the network of rank 1 goes wrong after a while: what it does is {deed}.
MISBEHAVING = """
import os, signal
import torch
import forcenet_md.inference.domain as domain
from forcenet_md.cli.main import main
from mpi4py import MPI

stages, calls = domain.Domain._stages, 0

def misbehaving(self, points, n_layers):
    global calls
    calls += 1
    forces = stages(self, points, n_layers)
    if calls > 4 and MPI.COMM_WORLD.rank == 1:
        {deed}
    return forces

domain.Domain._stages = misbehaving
main()
"""


class RanksProcess(ServeProcess):
    """`mpirun -n R forcenet-md serve` in a folder of its own."""

    def __init__(
        self, ranks: int, folder: Path, *arguments: str, wait: bool = True, driver: str = ""
    ) -> None:
        self.folder = folder
        command = [sys.executable, "-c", driver] if driver else COMMAND
        if "--guard" not in arguments:  # the models are random
            arguments = (*arguments, *GUARDS_OFF)
        self.process = subprocess.Popen(
            [str(BIN / "mpirun"), "-n", str(ranks), *command, "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            cwd=folder,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = ""
        if wait:
            self.until("elements ")

    def ranks(self) -> dict[str, int]:
        """The process of each rank."""
        return {rank: pid for pid, rank in processes_in(self.folder).items() if rank}

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        super().__exit__()


def processor_time(pids: Sequence[int]) -> list[float]:
    """Seconds of processor that each has taken."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = []
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found.append((int(words[11]) + int(words[12])) / ticks)
    return found
