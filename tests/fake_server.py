"""A server of docs/protocol.md in a thread, made of `struct` and nothing of forcenet_md.

It stands in for `forcenet-md serve` where a test must see what the plugin sends, or must answer
what no right server would: another atom's forces, half a message, noise, nothing at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

GREETING, AUTH, AUTHENTICATED, HELLO, WELCOME, STEP, FORCES, ERROR, BYE = range(1, 10)
CHALLENGE = bytes(range(32))


@dataclass
class Step:
    step: int
    kind: int
    timestep: float
    cell: np.ndarray
    origin: np.ndarray
    periodic: int
    ids: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None
    types: np.ndarray


def message(kind: int, payload: bytes = b"") -> bytes:
    return b"FNMD" + struct.pack("<HHQ", 1, kind, len(payload)) + payload


def forces_message(
    step: int,
    forces: np.ndarray,
    energy: float | None = None,
    virial: np.ndarray | None = None,
    spread: np.ndarray | None = None,
) -> bytes:
    flags = (energy is not None) + 2 * (virial is not None) + 4 * (spread is not None)
    payload = struct.pack("<qQIId", step, len(forces), flags, 0, energy or 0.0)
    payload += np.asarray(np.zeros(6) if virial is None else virial, "<f8").tobytes()
    payload += np.asarray(forces, "<f8").tobytes()
    return message(FORCES, payload + np.asarray([] if spread is None else spread, "<f8").tobytes())


def parse_step(payload: bytes) -> Step:
    step, kind, flags, timestep, *box, n, periodic, zero = struct.unpack_from(
        "<qIId9d3dQII", payload
    )
    assert zero == 0
    assert len(payload) == 136 + n * (36 + 24 * (flags & 1))
    at = 136

    def take(dtype: str, count: int) -> np.ndarray:
        nonlocal at
        array = np.frombuffer(payload, dtype, count, at).copy()
        at += array.nbytes
        return array

    ids = take("<i8", n)
    x = take("<f8", 3 * n).reshape(n, 3)
    v = take("<f8", 3 * n).reshape(n, 3) if flags & 1 else None
    return Step(
        step,
        kind,
        timestep,
        np.reshape(box[:9], (3, 3)),
        np.array(box[9:]),
        periodic,
        ids,
        x,
        v,
        take("<i4", n),
    )


def no_forces(step: Step) -> bytes:
    return forces_message(step.step, np.zeros_like(step.positions))


@dataclass
class FakeServer:
    """answer: bytes for a Step; empty bytes close the connection, None says nothing more.

    hellos, steps: what came, in order. refusal: the ERROR to every HELLO.
    """

    address: str
    answer: Callable[[Step], bytes | None] = no_forces
    welcome: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    refusal: str = ""
    greeting: bytes | None = None
    secret: bytes = b""
    answer_mac: bytes = b""
    hellos: list[dict[str, str]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    byes: int = 0
    connections: int = 0

    def __post_init__(self) -> None:
        if self.address.startswith("unix:"):
            Path(self.address[5:]).unlink(missing_ok=True)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.address[5:])
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"
        self._listener.listen()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def stop(self) -> None:
        """Close everything, as a killed server would."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=10)
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._greet(connection)
            while True:
                kind, payload = _receive(connection)
                if kind == HELLO:
                    lines = [line.partition(" ") for line in payload.decode().splitlines()]
                    self.hellos.append({key: value for key, _, value in lines})
                    connection.sendall(self._welcome())
                elif kind == STEP:
                    step = parse_step(payload)
                    self.steps.append(step)
                    reply = self.answer(step)
                    if reply == b"":
                        connection.shutdown(socket.SHUT_RDWR)
                        return
                    if reply:
                        connection.sendall(reply)
                elif kind == BYE:
                    self.byes += 1
                    return
                else:
                    raise AssertionError(f"message type {kind}")

    def _greet(self, connection: socket.socket) -> None:
        challenge = CHALLENGE.hex() if self.secret else "none"
        text = f"server fake 0\nprotocol 1\nchallenge {challenge}\n"
        connection.sendall(
            message(GREETING, text.encode()) if self.greeting is None else self.greeting
        )
        if not self.secret:
            return
        kind, payload = _receive(connection)
        assert kind == AUTH
        words = payload.decode().split()
        nonce = bytes.fromhex(words[1])

        def mac(label: bytes) -> str:
            return hmac.new(self.secret, label + CHALLENGE + nonce, hashlib.sha256).hexdigest()

        if words[3] != mac(b"forcenet client"):
            connection.sendall(message(ERROR, b"the secret is wrong"))
            raise EOFError
        reply = self.answer_mac.decode() or mac(b"forcenet server")
        connection.sendall(message(AUTHENTICATED, f"mac {reply}\n".encode()))

    def _welcome(self) -> bytes:
        if self.refusal:
            return message(ERROR, self.refusal.encode())
        values = {
            "model": "fake",
            "sha256": "none",
            "energy": "no",
            "virial": "no",
            "conservative": "no",
            "velocities": "no",
            "cutoff": "5.0",
            "elements": "Ar",
        } | self.welcome
        lines = [f"{key} {value}" for key, value in values.items()]
        lines += [f"warning {warning}" for warning in self.warnings]
        return message(WELCOME, ("\n".join(lines) + "\n").encode())


def _receive(connection: socket.socket) -> tuple[int, bytes]:
    magic, version, kind, length = struct.unpack("<4sHHQ", _exactly(connection, 16))
    assert magic == b"FNMD"
    assert version == 1
    return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


@contextlib.contextmanager
def fake_server(address: str, **options: object) -> Iterator[FakeServer]:
    server = FakeServer(address, **options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.stop()
