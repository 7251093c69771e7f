"""Servers for tests: a real `forcenet-md serve` process, or a loop in this process."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from forcenet_md.inference.ase_evaluator import AseEvaluator
from forcenet_md.inference.interface import Evaluator
from forcenet_md.server.address import Listener, UnixAddress
from forcenet_md.server.client import Client
from forcenet_md.server.limits import Limits
from forcenet_md.server.loop import Server
from forcenet_md.server.monitor import Monitor
from forcenet_md.server.protocol import HEADER, MessageType, read_header

LJ = "ase:lj,sigma=2.3,epsilon=0.3,rc=5.0"
COMMAND = [sys.executable, "-c", "from forcenet_md.cli.main import main; main()"]
PATIENCE = 60.0  # s until a test gives up on a process; nothing is measured with it


def copper(repeat: int = 1, seed: int = 0) -> Atoms:
    """4 repeat³ atoms of copper in a cubic cell, displaced at random."""
    atoms = bulk("Cu", cubic=True) * (repeat, repeat, repeat)
    atoms.rattle(0.05, seed=seed)
    return atoms


def reference(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and virial of LJ, computed by ASE in this process."""
    twin = atoms.copy()
    twin.calc = LennardJones(sigma=2.3, epsilon=0.3, rc=5.0)
    virial = -twin.get_stress()[[0, 1, 2, 5, 4, 3]] * twin.get_volume()
    return twin.get_potential_energy(), twin.get_forces(), virial


class RecordingMonitor(Monitor):
    """A monitor whose lines can be read, faults of the server among them."""

    burst = 10**9

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def _show(self, line: str) -> None:
        self.lines.append(line)

    @property
    def faults(self) -> list[str]:
        return [line for line in self.lines if "Traceback" in line]


class InProcess:
    """A loop that runs only when it is polled, with raw sockets to it."""

    def __init__(
        self,
        evaluator: Evaluator | None = None,
        limits: Limits | None = None,
        secret: bytes | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.monitor = RecordingMonitor()
        self.sockets: list[socket.socket] = []
        self.server = Server(evaluator or AseEvaluator(LJ), listeners, limits, secret, self.monitor)

    def connect(self) -> socket.socket:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        self.sockets.append(mine)
        self.server.adopt(theirs)
        return mine

    def settle(self) -> None:
        """Poll until every socket has been heard."""
        for _ in range(6):
            self.server.poll(0.0)


def messages(sock: socket.socket) -> tuple[list[tuple[MessageType, bytes]], bool]:
    """All whole messages that have arrived, and whether the other side has closed."""
    data, closed = b"", False
    with contextlib.suppress(BlockingIOError):
        while not closed:
            try:
                got = sock.recv(1 << 20)
            except ConnectionResetError:
                got = b""
            closed = not got
            data += got
    found = []
    while data:
        kind, length = read_header(data[: HEADER.size])
        found.append((kind, data[HEADER.size : HEADER.size + length]))
        data = data[HEADER.size + length :]
    return found, closed


@contextlib.contextmanager
def in_process(**arguments: object) -> Iterator[InProcess]:
    loop = InProcess(**arguments)  # type: ignore[arg-type]
    try:
        yield loop
    finally:
        loop.server.close()
        for sock in loop.sockets:
            sock.close()


@contextlib.contextmanager
def in_thread(
    path: Path, evaluator: Evaluator | None = None, **arguments: object
) -> Iterator[tuple[Server, str]]:
    """A server on a unix socket in a thread of this process, and its address."""
    listener = Listener(UnixAddress(path))
    listener.listen()
    server = Server(evaluator or AseEvaluator(LJ), [listener], **arguments)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server, f"unix:{path}"
    finally:
        server.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


class ServeProcess:
    """`forcenet-md serve` in a process of its own; its output is kept in `text`."""

    def __init__(
        self,
        *arguments: str,
        model: str = LJ,
        env: dict[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        if "--guard-frames" not in arguments:  # not into the folder that tests are started in
            arguments = (*arguments, "--guard-frames", os.devnull)
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "--model", model, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = ""
        if wait:
            self.until("elements ")

    def until(self, words: str) -> str:
        """Read the output until those words are in it."""
        start = time.monotonic()
        while words not in self.text:
            self._read(1.0)
            if words not in self.text and self.process.poll() is not None:
                self._read(0.0)
                assert words in self.text, f"the server ended: {self.text}"
            assert time.monotonic() - start < PATIENCE, self.text
        return self.text

    def _read(self, timeout: float) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        if select.select([stdout], [], [], timeout)[0]:
            self.text += (stdout.read() or b"").decode()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        start = time.monotonic()
        while self.process.poll() is None:
            self._read(0.2)
            assert time.monotonic() - start < PATIENCE, self.text
        self._read(0.0)
        return self.process.returncode

    def __enter__(self) -> ServeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def ask(client: Client, atoms: Atoms, ids: Sequence[int] | None = None, step: int = 0):
    """One request for atoms of one element, metal units."""
    return client.step(atoms.positions, np.ones(len(atoms)), atoms.cell.array, step=step, ids=ids)
