"""One socket of i-PI: its side of the driver protocol as a `Peer` of the server's loop."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Generator, Sequence
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from forcenet_md.errors import EvaluationError, ForceNetError, ProtocolError
from forcenet_md.inference.interface import Moment, Request, Session
from forcenet_md.server import ipi_codec as codec
from forcenet_md.server.shared import STOPPED
from forcenet_md.system import Forces, System

if TYPE_CHECKING:
    from forcenet_md.server.ipi import IpiDriver

LONGEST_INIT = 1 << 20  # bytes
CHUNK = 1 << 14  # bytes: shorter messages are read together


class IpiConnection:
    """One socket of i-PI, as a `Peer` of the loop. Times are seconds of the loop's clock."""

    def __init__(self, driver: IpiDriver, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.ended = False
        self._driver = driver
        self._number = number
        self._monitor = driver.server.monitor
        self._name = f"i-PI socket {number + 1}"
        self._connecting = True
        self._known = False  # i-PI has answered
        self._finishing = False
        self._steps = 0
        self._sessions: list[Session] = []
        self._batch = 1  # structures of one POSDATA
        self._initialised = False
        self._systems: list[System] = []  # being evaluated
        self._asked: list[Request] = []
        self._since = 0.0  # time.monotonic() of the request
        self._buffer = self._rest = memoryview(b"")
        self._chunk = memoryview(bytearray(CHUNK))
        self._ahead = memoryview(b"")  # of the chunk: has been read, belongs to what comes next
        self._answer = b""  # evaluated, not yet sent
        self._untold = False  # i-PI has said nothing since its last answer was sent
        self._questions: list[bytes] = []  # STATUS or GETFORCE that came during the evaluation
        self._out = memoryview(b"")
        self._talk = self._conversation()
        self._await(next(self._talk))

    # Called by the loop ------------------------------------------------------------------------

    @property
    def requests(self) -> Sequence[Request]:
        return self._asked if self._driver.gather.released and not self._driver.sending else ()

    @property
    def sending(self) -> bool:
        """Something is said in part."""
        return bool(self._out)

    @property
    def interest(self) -> int:
        return selectors.EVENT_WRITE if self._connecting or self._out else selectors.EVENT_READ

    @property
    def deadline(self) -> float:
        waiting = self._asked and not self._driver.sending
        return self._driver.gather.stale_at if waiting else inf

    def expire(self, now: float) -> None:
        self._driver.gather.expire(now)

    def receive(self, now: float) -> None:
        """Take what has arrived, as far as the conversation goes."""
        start = time.perf_counter()
        try:
            drained = False
            while not (self._out or self.ended):
                if self._ahead:
                    n = min(len(self._ahead), len(self._rest))
                    self._rest[:n], self._ahead = self._ahead[:n], self._ahead[n:]
                elif drained:
                    break
                else:
                    room = self._rest if len(self._rest) > CHUNK else self._chunk
                    n = self.sock.recv_into(room)
                    if n == 0:
                        self.leave("i-PI closed the connection")
                        break
                    drained = n < len(room)
                    if room is self._chunk:
                        self._ahead = room[:n]
                        continue
                self._rest = self._rest[n:]
                if not self._rest:
                    self._await(self._talk.send(self._buffer))
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(error)
        except ForceNetError as fault:
            self._driver.fail(fault)
        self._monitor.add("transport", time.perf_counter() - start)

    def write(self, now: float) -> None:
        """Finish connecting, or send what the socket takes."""
        if self._connecting:
            self._finish_connecting()
            return
        self._flush()
        if self._ahead and not self._out:
            self.receive(now)

    def answer(self, results: Sequence[Forces | ForceNetError], now: float) -> None:
        """The answers to `requests`; one fault is the end."""
        if self.ended:  # another one of its batch failed
            return
        self._driver.gather.answered(self._number, time.monotonic() - self._since)
        systems, self._systems, self._asked = self._systems, [], []
        start = time.perf_counter()
        good = [result for result in results if isinstance(result, Forces)]
        try:
            for result in results:
                if isinstance(result, ForceNetError):
                    raise result
            model = self._driver.server.evaluator.capabilities
            self._answer = codec.write_forces(systems, good, self._batch, model)
        except ForceNetError as fault:
            self._driver.fail(fault)
            return
        self._monitor.add("codec", time.perf_counter() - start)
        for forces in good:
            self._driver.largest.see(forces)
        self._steps += 1
        while self._questions and not self.ended:
            self._reply(self._questions.pop(0))

    def finish(self) -> None:
        """The server stops: end now, or after the answer that i-PI waits for."""
        self._driver.stop()
        self._finishing = True
        if not (self._asked or self._answer or self._out):
            self.leave(STOPPED)

    def end(self, why: str) -> None:
        """The loop's word: the server was closed, or has a fault of its own."""
        if why != STOPPED and not self.ended:
            self._driver.fail(EvaluationError(why))
        self.leave(why)

    def leave(self, why: str) -> None:
        """Nothing more comes of this connection; the loop closes the socket.

        A socket that is closed with something unread resets the connection, and i-PI's polling
        thread dies of a reset: it would hang whoever came next.
        """
        if not self.ended:
            self.ended = True
            self._asked = []
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
                while self.sock.recv(1 << 16):
                    pass
            if not self._connecting:
                self._monitor.left(self._name, self._steps, why)
            self._driver.left(self._number)

    def _lost(self, error: OSError) -> None:
        self.leave(f"the connection to i-PI was lost: {error.strerror or error}")

    # The conversation --------------------------------------------------------------------------

    def _conversation(self) -> Generator[int, memoryview, None]:
        """What i-PI says, message by message: yields how many bytes come next, gets them.

        Both flows: STATUS between POSDATA and GETFORCE, or both of these at once.
        Raises ProtocolError and what refuses a request.
        """
        while True:
            header = bytes((yield codec.HEADER))
            untold, self._untold = self._untold, False
            if header == codec.STATUS:
                self._ask(header)
            elif header == codec.INIT and not self._systems:
                yield from self._initialise()
            elif header == codec.POSDATA and self._initialised and not self._systems:
                yield from self._take_positions()
            elif header == codec.GETFORCE and (self._systems or self._answer):
                self._ask(header)
            elif header == codec.EXIT:
                self._take_exit(wants_answer=bool(untold or self._systems or self._answer))
                yield 0
            else:
                raise ProtocolError(
                    f"{self._driver.address} sent {header!r}, which i-PI would not say now: give"
                    " the address of i-PI."
                )

    def _initialise(self) -> Generator[int, memoryview, None]:
        yield codec.INT  # the replica, which says nothing here
        length = codec.read_int((yield codec.INT))
        if not 0 <= length <= LONGEST_INIT:
            raise ProtocolError(f"i-PI's INIT has a text of {length} bytes.")
        parameters = bytes((yield length)) if length else b""
        self._batch = codec.read_batch_size(parameters)
        self._sessions = [self._driver.server.evaluator.new_session() for _ in range(self._batch)]
        self._initialised = True

    def _take_positions(self) -> Generator[int, memoryview, None]:
        template, batch = self._driver.template, self._batch
        self._driver.gather.begin(self._number)
        self._answer = b""
        head = yield codec.HEAD
        codec.check_not_shared(head)
        length = codec.INT + batch * codec.CELL
        count, cells = codec.split_prefix(bytes(head) + bytes((yield length - codec.HEAD)), batch)
        codec.check_count(count, template)
        positions = yield batch * 24 * len(template.numbers)
        start = time.perf_counter()
        self._systems = codec.distinct(codec.read_systems(cells, positions, template))
        for system in self._systems:
            self._driver.check_cell(system)
        driver = self._driver
        step = driver.step_of(self._systems[0])
        self._asked = [
            Request(
                session,
                system,
                template.keep_net_force,
                moment=Moment(self._number * batch + k, step, driver.kind, driver.timestep),
            )
            for k, (session, system) in enumerate(zip(self._sessions, self._systems, strict=False))
        ]
        self._since = time.monotonic()
        self._driver.gather.ask(self._number, self._driver.server.clock())
        self._monitor.add("codec", time.perf_counter() - start)

    def _take_exit(self, wants_answer: bool) -> None:
        """i-PI says so at its end, or to a driver whose answer took longer than its <timeout>.

        It always says STATUS once it has read an answer: before that, it wants one still.
        """
        if wants_answer:
            self._driver.dropped(time.monotonic() - self._since)
            self.leave("i-PI said EXIT before it had its answer")
        else:
            self._driver.finish("i-PI said EXIT")

    # Answering ---------------------------------------------------------------------------------

    def _ask(self, question: bytes) -> None:
        """Answer a STATUS or GETFORCE, now or when the forces are there."""
        if self._systems:
            self._questions.append(question)
        else:
            self._reply(question)

    def _reply(self, question: bytes) -> None:
        if question == codec.GETFORCE:
            answer, self._answer = self._answer, b""
            self._untold = True
            self._send(answer)
        elif self._answer:
            self._send(codec.HAVEDATA)
        else:
            self._send(codec.READY if self._initialised else codec.NEEDINIT)
        if not self._known:
            self._known = True
            self._driver.connected(self._number)

    def _send(self, data: bytes) -> None:
        self._out = memoryview(bytes(self._out) + data) if self._out else memoryview(data)
        self._flush()

    def _flush(self) -> None:
        start = time.perf_counter()
        try:
            while self._out:
                self._out = self._out[self.sock.send(self._out) :]
            if self._finishing and not (self._asked or self._answer):
                self.leave(STOPPED)
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._out = memoryview(b"")  # i-PI has closed; if it said EXIT that can still be read
        except OSError as error:
            self._lost(error)
        self._monitor.add("transport", time.perf_counter() - start)

    # The socket --------------------------------------------------------------------------------

    def _await(self, length: int) -> None:
        self._buffer = np.empty(length, dtype=np.uint8).data
        self._rest = self._buffer

    def _finish_connecting(self) -> None:
        if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.leave("")
            return
        self._connecting = False
        self._monitor.joined(self._name)
