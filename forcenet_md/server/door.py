"""How a client in this very process comes to the loop, which runs in a thread of it."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence
from math import inf
from selectors import EVENT_READ

from forcenet_md.errors import ForceNetError
from forcenet_md.inference.interface import Request
from forcenet_md.server.limits import Limits
from forcenet_md.server.loop import Server
from forcenet_md.system import Forces

NUMBER = struct.Struct("=i")


def unhurried(max_atoms: int) -> Limits:
    """Limits for a client that cannot vanish alone: a laptop may sleep in the middle of a step."""
    return Limits(max_atoms=max_atoms, handshake=inf, message=inf, write=inf)


class Door:
    """A peer of the loop: every message is the number of a connected socket, to be served.

    count: how many have come
    """

    interest = EVENT_READ
    deadline = inf
    requests: Sequence[Request] = ()

    def __init__(self, server: Server, sock: socket.socket) -> None:
        """Join the server; sock is one end of a pair of datagram sockets."""
        sock.setblocking(False)
        self.sock = sock
        self.ended = False
        self.count = 0
        self._server = server
        server.add(self)

    def receive(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            (number,) = NUMBER.unpack(self.sock.recv(NUMBER.size))
            self.count += 1
            self._server.adopt(socket.socket(fileno=number))

    def finish(self) -> None:
        self.ended = True

    def end(self, why: str) -> None:
        self.ended = True

    def write(self, now: float) -> None:
        """Nothing is ever sent."""

    def answer(self, results: Sequence[Forces | ForceNetError], now: float) -> None:
        """Nothing is ever asked."""

    def expire(self, now: float) -> None:
        """There is no deadline."""
