"""One client of the socket: the order of messages of docs/protocol.md as a state machine.

greeting → (auth) → hello → steps. It reads and writes without blocking, never holds more than one
message, and keeps no thread. The loop calls it; what it has to evaluate stands in `requests`.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from enum import Enum
from math import inf

from forcenet_md import __version__
from forcenet_md.errors import ForceNetError, ProtocolError
from forcenet_md.inference.interface import Request, Session
from forcenet_md.inference.watched import WatchedEvaluator
from forcenet_md.server import auth
from forcenet_md.server.incoming import Incoming, Message
from forcenet_md.server.lammps import Settings, Step, read_hello, read_step, welcome, write_forces
from forcenet_md.server.monitor import Largest
from forcenet_md.server.protocol import (
    VERSION,
    MessageType,
    decode_text,
    encode_error,
    encode_text,
    frame,
)
from forcenet_md.server.shared import STOPPED, Shared
from forcenet_md.system import Forces


class State(Enum):
    """What the client may send."""

    WATCHING = frozenset({MessageType.WATCH, MessageType.BYE})
    AUTH = frozenset({MessageType.AUTH, MessageType.BYE})
    HELLO = frozenset({MessageType.HELLO, MessageType.WATCH, MessageType.BYE})
    READY = HELLO | {MessageType.STEP}
    CLOSING = frozenset[MessageType]()


class Connection:
    """The server's end of one connection. Times are seconds of the loop's clock."""

    def __init__(
        self, sock: socket.socket, name: str, shared: Shared, now: float, watches: bool = False
    ) -> None:
        """watches: it may ask how the server is, and for nothing else; no secret is needed"""
        self.sock = sock
        self.name = name
        self.requests: Sequence[Request] = ()
        self.ended = False
        self._shared = shared
        self._evaluator = shared.evaluator
        self._limits = limits = shared.limits
        secret = None if watches else shared.secret
        self._monitor = shared.monitor
        self._joined = False  # it is a client: who only looks is none
        self._stream: tuple[int, int] | None = None  # and client, of `interface.Moment`
        self._challenge = auth.Challenge(secret)
        self._settings: Settings | None = None
        self._session: Session | None = None  # from HELLO on
        self._step: Step | None = None
        self._steps = 0
        self._who = ""
        self._largest = Largest()
        late = f"the handshake took longer than {limits.handshake:g} s."
        self._deadlines = {late: now + limits.handshake}  # what has gone wrong by then
        self._half_message = f"the rest of a message did not come within {limits.message:g} s."
        self._unread = f"an answer was not read within {limits.write:g} s."
        self._finishing = False
        self._out = memoryview(b"")
        self._incoming = Incoming(sock, self._check)

        begin = State.HELLO if secret is None else State.AUTH
        self._state = State.WATCHING if watches else begin
        greeting = encode_text(
            ("server", f"forcenet-md {__version__}"),
            ("protocol", str(VERSION)),
            ("challenge", self._challenge.text),
        )
        self._send(frame(MessageType.GREETING, greeting), now)

    # Called by the loop ------------------------------------------------------------------------

    @property
    def interest(self) -> int:
        """While an answer is on its way nothing is read: one request is in flight."""
        return selectors.EVENT_WRITE if self._out else selectors.EVENT_READ

    @property
    def deadline(self) -> float:
        return min(self._deadlines.values(), default=inf)

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        reason = min(self._deadlines, key=lambda key: self._deadlines[key])
        if self._state is State.CLOSING:
            self.end(reason)
        else:
            self._refuse(reason, now)

    def receive(self, now: float) -> None:
        """Take what has arrived, up to the end of one message."""
        start = time.perf_counter()
        message: Message | None = None
        try:
            if self._state is State.CLOSING:
                self._discard()
            else:
                message = self._read(now)
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(error)
        except ForceNetError as error:
            self._refuse(str(error), now)
        self._monitor.add("transport", time.perf_counter() - start)
        if message is not None:
            try:
                self._handle(message, now)
            except ForceNetError as error:
                self._refuse(str(error), now)

    def write(self, now: float) -> None:
        """Send what the socket takes."""
        start = time.perf_counter()
        try:
            while self._out:
                self._out = self._out[self.sock.send(self._out) :]
                self._deadlines.pop(self._unread, None)
            if self._state is State.CLOSING:
                self.sock.shutdown(socket.SHUT_WR)
            elif self._finishing:
                self.end(STOPPED)
        except BlockingIOError:
            self._deadlines.setdefault(self._unread, now + self._limits.write)
        except OSError as error:
            self._lost(error)
        self._monitor.add("transport", time.perf_counter() - start)

    def answer(self, results: Sequence[Forces | ForceNetError], now: float) -> None:
        """Send the answer of the one request, which is then done."""
        [result] = results
        step, settings = self._step, self._settings
        assert step is not None
        assert settings is not None
        self.requests = ()
        self._step = None
        self._steps += 1
        if isinstance(result, Forces):
            start = time.perf_counter()
            self._largest.see(result)
            try:
                message = write_forces(step.step, step.system, result, settings)
            except ForceNetError as error:
                result = error
            else:
                self._monitor.add("codec", time.perf_counter() - start)
                self._send(message, now)
                return
        self._error(str(result), now)

    def finish(self) -> None:
        """The server stops: end now, or after the request of which a part has come."""
        self._finishing = True
        if not (self._incoming.begun or self.requests or self._out):
            self.end(STOPPED)

    def end(self, why: str) -> None:
        """Nothing more comes of this connection; the loop closes the socket."""
        if not self.ended:
            self.ended = True
            self.requests = ()
            if self._joined:
                for what in self._largest.describe(self._evaluator.capabilities):
                    self._note(what)
                self._monitor.left(self.name, self._steps, why)
            if self._stream is not None:
                self._shared.streams.discard(self._stream[0])
                if isinstance(self._evaluator, WatchedEvaluator):
                    self._evaluator.left(self._stream[0])

    # Reading -----------------------------------------------------------------------------------

    def _read(self, now: float) -> Message | None:
        """A message, if one is complete. Raises what `Incoming.read` does."""
        try:
            message = self._incoming.read()
        except BlockingIOError:
            if self._incoming.begun:
                self._deadlines.setdefault(self._half_message, now + self._limits.message)
            raise
        if message is None:
            half = self._incoming.begun
            self.end("it closed in the middle of a message" if half else "it closed")
        self._deadlines.pop(self._half_message, None)
        return message

    def _check(self, message: MessageType, length: int) -> None:
        """Raises ProtocolError for what may not be sent now, and for what is too long."""
        if message not in self._state.value:
            if self._state is State.WATCHING:
                raise ProtocolError("this address is for watching alone.")
            raise ProtocolError(f"a message {message.name} is out of order.")
        limit = self._limits.length(message)
        if length > limit:
            raise ProtocolError(
                f"a {message.name} of {length} bytes is longer than this server takes ({limit})"
                f" with --max-atoms {self._limits.max_atoms}."
            )

    def _discard(self) -> None:
        if not self.sock.recv(65536):
            self.end("it was refused")

    # Messages ----------------------------------------------------------------------------------

    def _handle(self, message: Message, now: float) -> None:
        kind, payload = message
        match kind:
            case MessageType.STEP:
                self._take_step(payload, now)
            case MessageType.HELLO:
                self._take_hello(payload, now)
            case MessageType.AUTH:
                self._take_auth(payload, now)
            case MessageType.WATCH:
                self._deadlines.clear()  # it need not say who it is
                lines = self._shared.status()
                self._send(frame(MessageType.STATUS, encode_text(*lines)), now)
            case _:
                self.end("it said goodbye")

    def _take_auth(self, payload: memoryview, now: float) -> None:
        mac = self._challenge.answer(decode_text(payload))
        self._send(frame(MessageType.AUTHENTICATED, encode_text(("mac", mac))), now)
        self._state = State.HELLO

    def _take_hello(self, payload: memoryview, now: float) -> None:
        model = self._evaluator.capabilities
        self._settings = read_hello(payload, model, self._limits.max_atoms)
        self._session = self._evaluator.new_session()
        if self._stream is None:
            self._stream = self._shared.claim_stream()
        self._state = State.READY
        self._deadlines.clear()
        if (who := self._settings.describe()) != self._who:  # every run says HELLO anew
            self._who = who
            self._note(f"is {who}")
        self._send(frame(MessageType.WELCOME, welcome(model, self._settings.spread)), now)

    def _take_step(self, payload: memoryview, now: float) -> None:
        assert self._settings is not None
        assert self._stream is not None
        start = time.perf_counter()
        settings, model, most = self._settings, self._evaluator.capabilities, self._limits.max_atoms
        try:
            self._step = step = read_step(payload, settings, model, most, *self._stream)
        except ProtocolError:
            raise
        except ForceNetError as error:
            self._error(str(error), now)
            return
        keep = settings.keep_net_force
        self.requests = (Request(self._session, step.system, keep, moment=step.moment),)
        self._monitor.add("codec", time.perf_counter() - start)

    def _note(self, what: str) -> None:
        if not self._joined:
            self._joined = True
            self._monitor.joined(self.name)
        self._monitor.note(self.name, what)

    # Writing -----------------------------------------------------------------------------------

    def _send(self, data: bytes | memoryview, now: float) -> None:
        self._out = memoryview(bytes(self._out) + data) if self._out else memoryview(data)
        self.write(now)

    def _error(self, sentence: str, now: float) -> None:
        """No forces: say why. The connection stays."""
        self._note(f"was told: {sentence}")
        self._send(frame(MessageType.ERROR, encode_error(sentence)), now)

    def _refuse(self, sentence: str, now: float) -> None:
        """Say why, then close. What the client still sends is read and dropped for a moment:
        closing at once could destroy the sentence before it is read."""
        self._state = State.CLOSING
        self._deadlines = {"it was refused": now + self._limits.goodbye}
        self._error(sentence, now)

    def _lost(self, error: OSError) -> None:
        self.end(f"the connection was lost: {error.strerror or error}")
