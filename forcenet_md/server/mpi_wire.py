"""What travels between the ranks of one LAMMPS and those of the server, asleep while it is waited
for. lammps_plugin/src/mpi_server.cpp has the other half.

LAMMPS's rank 0 says to ours what is to be done (`Head`), which ours says to the others. Then each
rank of LAMMPS sends its atoms to its rank of the server; with more ranks here than there it has cut
them for several. An answer is 0 0 and forces, or a code and the length of a text, then the text.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forcenet_md.graph.frame import Array
from forcenet_md.inference.interface import Kind
from forcenet_md.mpi import Ranks, wait
from forcenet_md.server.protocol import HELLO_LIMIT

if TYPE_CHECKING:
    from mpi4py.MPI import Intercomm, Request

GLANCE = 1.0  # s between two looks whether LAMMPS lives
GOODBYE = 2.0  # s for a step that is on its way when the server is stopped
HEAD = 17  # numbers
LEFT: list[Sequence[Request]] = []  # sent to those that are gone: MPI may look there still


class Tag(IntEnum):
    HEAD = 1702
    TEXT = 1703
    COUNT = 1704
    LABELS = 1705
    POSITIONS = 1706
    ANSWER = 1707


class Order(IntEnum):
    """HELLO, STEP and BYE are LAMMPS's."""

    HELLO = 1
    STEP = 2
    BYE = 3
    GONE = 4  # without BYE
    STOP = 5  # the server shall end


class Head(NamedTuple):
    """What is to be done; fresh: LAMMPS's atoms or their order may have changed.

    length: of the text of a HELLO; cell: [3, 3] and timestep: in LAMMPS's units; kind: of a STEP;
    velocities: they come with the positions; refuse: the server shall end
    """

    order: Order
    step: int
    fresh: bool
    periodic: NDArray[np.bool_]
    length: int
    cell: Array
    kind: Kind
    timestep: float
    velocities: bool
    refuse: bool

    @classmethod
    def of(cls, numbers: Array) -> Head:
        return cls(
            Order(int(numbers[0])),
            int(numbers[1]),
            bool(numbers[2]),
            np.array([bool(int(numbers[3]) >> k & 1) for k in range(3)]),
            int(numbers[4]),
            numbers[5:14].reshape(3, 3).copy(),
            Kind(int(numbers[14])),
            float(numbers[15]),
            bool(numbers[16]),
            bool(numbers[HEAD]),
        )


class Gone(Exception):
    """LAMMPS is no longer there."""


class Wire:
    """One rank's side of it.

    comm: its remote ranks are LAMMPS's; lives: whether LAMMPS may still be there
    idle: called on rank 0 while LAMMPS asks nothing, true where the server shall end
    """

    def __init__(
        self, comm: Intercomm, ranks: Ranks, lives: Callable[[], bool], idle: Callable[[], bool]
    ) -> None:
        from mpi4py import MPI

        comm.Set_errhandler(MPI.ERRORS_RETURN)  # mpi4py raises it
        self.n_there = comm.remote_size
        self._comm = comm
        self._ranks = ranks
        self._lives = lives
        self._idle = idle
        self._looked = time.monotonic()
        self._sources = sources(ranks.rank, ranks.size, self.n_there)
        self._counts = [0] * len(self._sources)

    def next(self) -> Head:
        """What all ranks shall do. Collective."""
        numbers = np.zeros(HEAD + 1)
        if self._ranks.rank == 0:
            stopped = inf  # since when

            def idle() -> None:
                nonlocal stopped
                if self._idle():
                    stopped = min(stopped, time.monotonic())
                    if time.monotonic() > stopped + GOODBYE:
                        raise Gone

            head = np.zeros(HEAD)
            try:
                self._wait([self._comm.Irecv(head, 0, Tag.HEAD)], idle)
                numbers[:HEAD] = head
                numbers[HEAD] = self._idle()
            except Gone:
                numbers[0] = Order.GONE if stopped == inf else Order.STOP
        self._ranks.share(numbers)
        return Head.of(numbers)

    def hello(self, length: int) -> bytes:
        """The payload of a HELLO, on all ranks; zeros where LAMMPS is gone. Collective."""
        text = np.zeros(min(length, HELLO_LIMIT), np.uint8)
        with contextlib.suppress(Gone):  # the next head tells
            if self._ranks.rank == 0:
                self._wait([self._comm.Irecv(text, 0, Tag.TEXT)])
        self._ranks.share(text)
        return text.tobytes()

    def labels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ids and types [n_owned] of the atoms that come from now on. Raises Gone."""
        counts = np.zeros((len(self._sources), 1), np.int64)
        self._receive(list(counts), Tag.COUNT)
        self._counts = counts[:, 0].tolist()
        labels = np.empty((sum(self._counts), 2), np.int64)
        self._receive(self._parts(labels), Tag.LABELS)
        return labels[:, 0], labels[:, 1]

    def positions(self, velocities: bool) -> Array:
        """[1, n_owned, 3] in LAMMPS's unit, or [2, n_owned, 3] with velocities. Raises Gone."""
        parts = [np.empty((1 + velocities, count, 3)) for count in self._counts]
        self._receive(parts, Tag.POSITIONS)
        return np.concatenate(parts, axis=1)

    def answer(self, forces: Array) -> None:
        """Forces [n_owned, 3] in LAMMPS's unit, in the order in which the atoms came."""
        requests = []
        for source, rows in zip(self._sources, self._parts(forces), strict=True):
            answer = np.concatenate([np.zeros(2), rows.ravel()])
            requests.append(self._comm.Isend(answer, source, Tag.ANSWER))
        self._sent(requests)

    def tell(self, text: bytes, refused: bool) -> None:
        """A text instead of forces."""
        answer = np.array([refused, len(text)], dtype=np.float64)
        data = np.frombuffer(text, np.uint8)
        requests = []
        for source in self._sources:
            requests.append(self._comm.Isend(answer, source, Tag.ANSWER))
            requests.append(self._comm.Isend(data, source, Tag.TEXT))
        self._sent(requests)

    def _parts(self, rows: NDArray) -> list[NDArray]:
        return np.split(rows, np.cumsum(self._counts)[:-1])

    def _receive(self, parts: Sequence[NDArray], tag: Tag) -> None:
        pairs = zip(parts, self._sources, strict=True)
        self._wait([self._comm.Irecv(part, source, tag) for part, source in pairs])

    def _wait(self, receiving: Sequence[Request], idle: Callable[[], None] = lambda: None) -> None:
        """Asleep until all has come; idle: called meanwhile. Raises Gone."""
        try:
            self._sleep(receiving, idle)
        except Gone:
            for request in receiving:
                if request:
                    request.Cancel()
                    request.Free()
            raise

    def _sent(self, sending: Sequence[Request]) -> None:
        """Asleep until all is on its way; if LAMMPS is gone the next head tells."""
        try:
            self._sleep(sending)
        except Gone:
            LEFT.append(sending)

    def _sleep(self, requests: Sequence[Request], idle: Callable[[], None] = lambda: None) -> None:
        from mpi4py import MPI

        def look() -> None:
            idle()
            if time.monotonic() - self._looked > GLANCE:
                self._looked = time.monotonic()
                if not self._lives():
                    raise Gone

        try:
            wait(requests, look)
        except MPI.Exception:
            raise Gone from None


def sources(rank: int, n_ranks: int, n_there: int) -> list[int]:
    """The ranks of LAMMPS whose atoms, or some of them, this rank of the server computes."""
    if n_there < n_ranks:
        return [rank * n_there // n_ranks]
    return [there for there in range(n_there) if there * n_ranks // n_there == rank]
