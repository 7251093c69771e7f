"""Programs that run side by side, each on one thread, and end when the caller does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from forcenet_md.data.workers import THREADS
from forcenet_md.engines import leash
from forcenet_md.errors import DataError

PATIENCE = 60.0  # s for a training to write its checkpoint


@dataclass(frozen=True)
class Job:
    """`python -m module words`. name: for messages; log: what it says is appended"""

    name: str
    module: str
    words: tuple[str, ...]
    log: Path

    @property
    def command(self) -> list[str]:
        # The leash: killed in whatever way, this process leaves none behind.
        program = [sys.executable, "-m", self.module, *self.words]
        return [sys.executable, "-I", "-S", leash.__file__, *program]

    @property
    def said(self) -> list[str]:
        """Lines of its log."""
        return [line for line in self.log.read_text("utf-8", "replace").splitlines() if line]


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    tick: Callable[[Iterable[Job]], None] = lambda _: None,
    inherited: Sequence[int] = (),
) -> None:
    """Run all, `workers` at a time; tick(running jobs) is called often.

    inherited: file descriptors they hold as long as they run. Raises DataError with the last words
    of the first that fails; the others are then ended, and leave what they can go on from.
    """
    waiting = list(jobs)
    running: dict[Job, subprocess.Popen[bytes]] = {}
    with ExitStack() as stack:
        stack.callback(lambda: _end(list(running.values())))
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[job] = _begin(job, inherited)
            time.sleep(0.2)
            for job, process in list(running.items()):
                if process.poll() is not None:
                    del running[job]
                    process.communicate()  # closes its leash
                    if process.returncode:
                        said = job.said[-1:] or ["it said nothing"]
                        raise DataError(f"{job.name} failed: {said[0]} (see {job.log})")
            tick(running)


def _begin(job: Job, inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        **dict.fromkeys(THREADS, "1"),
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    with job.log.open("ab") as log:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=inherited,
            start_new_session=True,  # Ctrl-C is for this process, which lets go
        )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # the leash is let go: SIGTERM
    for process in processes:
        process.wait(PATIENCE)
