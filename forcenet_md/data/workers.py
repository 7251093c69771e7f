"""Processes that label, seen from their caller; a crash of one is an answer, not an end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from typing import Any

from ase import Atoms

from forcenet_md.errors import DataError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
DIED, DONE, FAILED, FAULT, READY = "died", "done", "failed", "fault", "ready"


class Worker:
    """A new interpreter with one thread: nothing of torch, MPI or OpenMP is carried over.

    Its pipe is its own and closes with it, so that a process killed in the midst of an answer is
    seen at once. What it prints goes to a file in `folder`.
    """

    def __init__(self, spec: str, elements: Sequence[str], folder: Path, number: int) -> None:
        self.pipe, theirs = Pipe()
        self.frame: int | None = None
        self.started = time.monotonic()
        self.is_ready = False
        self._said = folder / f"worker-{number}.txt"
        environment = {
            **os.environ,
            **dict.fromkeys(THREADS, "1"),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        command = [sys.executable, "-P", "-m", "forcenet_md.data.label_worker"]
        arguments = [str(theirs.fileno()), str(os.getpid()), str(folder)]
        with theirs, self._said.open("wb") as said, _without_ctrl_c():
            self.process = subprocess.Popen(
                command + arguments,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._send((spec, list(elements)))

    def give(self, number: int, atoms: Atoms) -> None:
        """Send it one frame; that it is dead shows in its answer."""
        self.frame = number
        self.started = time.monotonic()
        self._send(atoms)

    def answer(self) -> tuple[str, Any]:
        """(READY, ""), (FAULT, sentence), (DONE, atoms), (FAILED, reason) or (DIED, how)."""
        try:
            kind, what = self.pipe.recv()
        except (EOFError, OSError):
            return DIED, self._how_it_ended()
        if kind == READY:
            self.is_ready = True
            self.started = time.monotonic()
        return kind, what

    def kill(self) -> None:
        """Together with the programs it may have started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.pipe.close()

    def _send(self, what: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(what)

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10.0)
        code = self.process.poll()
        if code is None:
            how = "closed its pipe"
        elif code < 0:
            name = signal.Signals(-code).name
            how = f"was ended by {name}" + (", as when memory runs out" * (name == "SIGKILL"))
        else:
            how = f"ended with code {code}"
        with contextlib.suppress(OSError):
            lines = self._said.read_bytes()[-2000:].decode("utf-8", "replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            how += f"; it last said: {last[:200]}" if last else ""
        return how


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Programs that are started here never see SIGINT, which is for the caller alone, even where
    it is sent to every process: the frame at work would seem to have failed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Crew:
    """Workers of one teacher, started when they are needed, killed when the block ends.

    n: how many; timeout: seconds one frame may take
    """

    def __init__(
        self, spec: str, elements: Sequence[str], n: int, timeout: float | None = None
    ) -> None:
        self.spec, self.elements, self.n, self.timeout = spec, elements, n, timeout
        self.deaths = self._started = 0
        self._workers: list[Worker] = []

    def __enter__(self) -> Crew:
        self._folder = tempfile.TemporaryDirectory(prefix="forcenet-label-")
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
        self._folder.cleanup()

    def give(self, number: int, atoms: Atoms) -> None:
        """Send a frame to one that is idle; no more than n at a time."""
        worker = next((worker for worker in self._workers if worker.frame is None), None)
        if worker is None:
            worker = Worker(self.spec, self.elements, Path(self._folder.name), self._started)
            self._workers.append(worker)
            self._started += 1
        worker.give(number, atoms)

    def answers(self) -> Iterator[tuple[int, Atoms | None, str]]:
        """(number, labelled, "") or (number, None, reason), of those that end next.

        Raises DataError when the teacher cannot be opened.
        """
        busy = [worker for worker in self._workers if worker.frame is not None]
        ready = wait([worker.pipe for worker in busy], self._time_left(busy))
        for worker in busy:
            if worker.pipe in ready:
                kind, what = worker.answer()
            elif self._is_late(worker):
                worker.kill()
                kind, what = FAILED, f"it took longer than --timeout {self.timeout:g} s."
            else:
                continue
            if kind == FAULT:
                raise DataError(what)
            if kind == DIED and not worker.is_ready:
                raise DataError(f"teacher '{self.spec}' cannot be started: its process {what}.")
            if kind == READY:
                continue
            number, worker.frame = worker.frame, None
            assert number is not None  # it is busy
            if worker.process.poll() is not None:
                worker.kill()
                self._workers.remove(worker)
            if kind == DIED:
                self.deaths += 1
                what = f"the process of teacher '{self.spec}' {what}."
            yield (number, what, "") if kind == DONE else (number, None, what)

    def _is_late(self, worker: Worker) -> bool:
        if self.timeout is None or not worker.is_ready:
            return False
        return time.monotonic() >= worker.started + self.timeout

    def _time_left(self, busy: Sequence[Worker]) -> float | None:
        if self.timeout is None or not any(worker.is_ready for worker in busy):
            return None
        first = min(worker.started for worker in busy if worker.is_ready)
        return max(0.0, first + self.timeout - time.monotonic())
