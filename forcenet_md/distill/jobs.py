"""Programs that run side by side, each on one thread, and end when the caller does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from forcenet_md.data.workers import THREADS
from forcenet_md.engines import leash
from forcenet_md.errors import DataError, ForceNetError

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


@dataclass(frozen=True)
class Running:
    """A job at work. begun: bytes of its log that earlier ones have left"""

    job: Job
    process: subprocess.Popen[bytes]
    begun: int

    @property
    def said(self) -> list[str]:
        """Lines of its log, without those of earlier sittings."""
        with self.job.log.open("rb") as log:
            log.seek(self.begun)
            text = log.read().decode("utf-8", "replace")
        return [line for line in text.splitlines() if line]

    def check(self) -> None:
        """Once it has ended. Raises KeyboardInterrupt or SystemExit where a signal to all
        processes reached it before this one, or reached it alone, and DataError where it failed."""
        code = self.process.returncode
        if code in _codes(signal.SIGINT):
            raise KeyboardInterrupt
        if code in _codes(signal.SIGTERM):
            sys.exit(128 + signal.SIGTERM)
        if code:
            words = self.said[-1:] or ["it said nothing"]
            raise DataError(f"{self.job.name} failed: {words[0]} (see {self.job.log})")


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    tick: Callable[[Iterable[Running]], None] = lambda _: None,
    inherited: Sequence[int] = (),
) -> None:
    """Run all, `workers` at a time; tick(those at work) is called often.

    inherited: file descriptors they hold as long as they run. Raises DataError with the last words
    of the first that fails, and KeyboardInterrupt or SystemExit where one was stopped by SIGINT or
    SIGTERM; the others are then ended, and leave what they can go on from.
    """
    waiting = list(jobs)
    running: list[Running] = []
    with ExitStack() as stack:
        stack.callback(lambda: _end([one.process for one in running]))
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_begin(waiting.pop(0), inherited))
            time.sleep(0.2)
            for one in list(running):
                if one.process.poll() is not None:
                    running.remove(one)
                    one.process.communicate()  # closes its leash
                    one.check()
            tick(running)


def as_job(main: Callable[[], None]) -> None:
    """Be such a program: SIGTERM and SIGINT end it with its blocks left in order, and a fault the
    user can mend is its last line."""

    def terminate(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    try:
        main()
    except ForceNetError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _codes(number: signal.Signals) -> tuple[int, int]:
    """Of a program that the signal ended, as the leash and as the kernel tells it."""
    return 128 + number, -number


def _begin(job: Job, inherited: Sequence[int]) -> Running:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        **dict.fromkeys(THREADS, "1"),
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    with job.log.open("ab") as log:
        begun = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=inherited,
            start_new_session=True,  # Ctrl-C is for this process, which lets go
        )
    return Running(job, process, begun)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # the leash is let go: SIGTERM
    for process in processes:
        process.wait(PATIENCE)
