"""Messages of docs/protocol.md for tests that talk to a server in raw bytes."""

from __future__ import annotations

import socket

import numpy as np
from serving import InProcess, messages

from forcenet_md.inference.interface import Kind
from forcenet_md.server.protocol import (
    MessageType,
    StepFrame,
    encode_step,
    encode_text,
    frame,
)

HELLO = (
    ("engine", "test"),
    ("units", "metal"),
    ("elements", "Cu"),
    ("masses", "63.55"),
    ("mass_check", "on"),
    ("periodic", "1 1 1"),
    ("group", "all"),
    ("held", "no"),
    ("atoms", "4"),
    ("need", ""),
)


def hello(**changes: str) -> bytes:
    lines = {**dict(HELLO), **changes}
    return frame(MessageType.HELLO, encode_text(*lines.items()))


def step(atoms, number: int = 1) -> bytes:
    n = len(atoms)
    payload = encode_step(
        StepFrame(
            step=number,
            kind=Kind.RUN,
            timestep=0.001,
            cell=atoms.cell.array,
            origin=np.zeros(3),
            periodic=(True, True, True),
            ids=np.arange(1, n + 1),
            positions=atoms.positions,
            velocities=None,
            types=np.ones(n, dtype=np.int32),
        )
    )
    return frame(MessageType.STEP, payload)


def ready_client(loop: InProcess, **changes: str) -> socket.socket:
    """A connection that has been welcomed."""
    sock = loop.connect()
    sock.sendall(hello(**changes))
    loop.settle()
    kinds = [kind for kind, _ in messages(sock)[0]]
    assert kinds == [MessageType.GREETING, MessageType.WELCOME]
    return sock


def only_error(sock: socket.socket, closed: bool) -> str:
    """The sentence of the one message that came, which must be ERROR."""
    found, ended = messages(sock)
    assert [kind for kind, _ in found] == [MessageType.ERROR]
    assert ended is closed
    return found[0][1].decode()
