"""Our side of i-PI's protocol for tests: a server that drives one i-PI, and a cheap model."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ipi_peer import Wire
from serving import LJ, PATIENCE, RecordingMonitor

from forcenet_md.errors import ForceNetError
from forcenet_md.inference.ase_evaluator import AseEvaluator
from forcenet_md.inference.interface import Capabilities, Evaluator, Kind, Request, Timings
from forcenet_md.server.address import Listener
from forcenet_md.server.ipi import IpiDriver, parse_ipi_address
from forcenet_md.server.limits import Limits
from forcenet_md.server.loop import Server
from forcenet_md.server.template import Template
from forcenet_md.system import Forces, System


def template_of(atoms: Atoms, keep_net_force: bool = False) -> Template:
    return Template(np.array(atoms.numbers, dtype=np.int64), np.array(atoms.pbc), keep_net_force)


class Cheap:
    """Springs to the origin: exact, fast, and every batch is recorded.

    spoil: what takes the place of an answer; during: called in the middle of every batch.
    """

    def __init__(
        self,
        energy: bool = True,
        stress: bool = True,
        spoil: Callable[[Request, Forces], Forces | ForceNetError] = lambda _, forces: forces,
        during: Callable[[], None] = lambda: None,
    ) -> None:
        self.capabilities = Capabilities(
            "cheap", frozenset({29}), 0.0, energy=energy, stress=stress, conservative=True
        )
        self.timings = Timings()
        self.batches: list[list[Request]] = []
        self._spoil = spoil
        self._during = during

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]

    def new_session(self) -> object:
        return object()

    def warm_up(self) -> None: ...

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        self.batches.append(list(requests))
        self._during()
        return [self._spoil(request, self.forces(request.system)) for request in requests]

    def forces(self, system: System) -> Forces:
        x = system.positions
        with np.errstate(all="ignore"):
            stress = np.diag([1e-3, 2e-3, 3e-3]) * x[0, 0] if self.capabilities.stress else None
            energy = 0.5 * float((x * x).sum()) if self.capabilities.energy else None
        return Forces(-x, energy=energy, stress=stress)


class Gate:
    """Holds an evaluation until it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(PATIENCE)


class Driven:
    """A server that drives one i-PI: in a thread of its own once `start` was called."""

    def __init__(
        self,
        address: str,
        atoms: Atoms,
        evaluator: Evaluator | None = None,
        sockets: int = 1,
        listeners: Sequence[Listener] = (),
        limits: Limits | None = None,
        kind: Kind = Kind.UNKNOWN,
        step: int | None = None,
    ) -> None:
        self.monitor = RecordingMonitor()
        evaluator = evaluator or AseEvaluator(LJ)
        self.server = Server(evaluator, listeners, limits, monitor=self.monitor)
        self.driver = IpiDriver(
            self.server,
            parse_ipi_address(address),
            template_of(atoms),
            sockets,
            ended=(lambda: None) if listeners else self.server.stop,
            kind=kind,
            step=step,
        )
        self.driver.connect()
        self.thread = threading.Thread(target=self.server.serve)

    def settle(self) -> None:
        """Poll, without a thread, until all that has arrived was heard."""
        for _ in range(4):
            self.server.poll(0.0)

    def ends(self) -> str:
        """Wait until it has ended by itself; why, or nothing if all was well."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), self.log
        return str(self.driver.failure or "")

    def fails(self, wire: Wire, words: str) -> None:
        """Wait until it has closed that connection without an answer, and ended for that reason."""
        assert wire.closed()
        failure = self.ends()
        assert words in failure
        assert failure.endswith(".")
        assert words in self.log

    def until(self, words: str) -> None:
        """Wait until its log says so."""
        end = time.monotonic() + PATIENCE
        while words not in self.log:
            assert time.monotonic() < end, self.log
            time.sleep(0.005)

    @property
    def log(self) -> str:
        return "\n".join(list(self.monitor.lines))


@contextlib.contextmanager
def polled(address: str, atoms: Atoms, *args: Any, **settings: Any) -> Iterator[Driven]:
    """A driver that runs only while it is polled."""
    mine = Driven(address, atoms, *args, **settings)
    try:
        yield mine
    finally:
        mine.server.close()
        assert mine.monitor.faults == []


@contextlib.contextmanager
def driven(address: str, atoms: Atoms, *args: Any, **settings: Any) -> Iterator[Driven]:
    """A driver in a thread; it must be alive or ended at the end, without a fault of its own."""
    mine = Driven(address, atoms, *args, **settings)
    mine.thread.start()
    try:
        yield mine
    finally:
        mine.server.stop()
        mine.thread.join(PATIENCE)
        assert not mine.thread.is_alive()
        assert mine.monitor.faults == []
