"""Messages as they come in over a socket that does not block; never more than one is held."""

from __future__ import annotations

import socket
from collections.abc import Callable

import numpy as np

from forcenet_md.server.protocol import HEADER, MessageType, read_header

Message = tuple[MessageType, memoryview]


class Incoming:
    """check: told type and length of each message before there is room for it; may raise"""

    def __init__(self, sock: socket.socket, check: Callable[[MessageType, int], None]) -> None:
        self._sock = sock
        self._check = check
        self._await_header()

    def _await_header(self) -> None:
        self._type: MessageType | None = None
        self._payload = np.empty(0, dtype=np.uint8).data
        self._header = bytearray(HEADER.size)
        self._rest = memoryview(self._header)

    @property
    def begun(self) -> bool:
        """Whether a part of a message has come."""
        return self._type is not None or len(self._rest) < HEADER.size

    def read(self) -> Message | None:
        """A whole message, or None where the other side has closed.

        Raises BlockingIOError when nothing more is there, OSError when the connection is lost, and
        ProtocolError for a header that is none.
        """
        while True:
            n = self._sock.recv_into(self._rest)
            if n == 0:
                return None
            self._rest = self._rest[n:]
            if self._rest:
                continue
            if self._type is None:
                self._type = self._begin()
                if len(self._payload):
                    continue
            message = self._type, self._payload
            self._await_header()
            return message

    def _begin(self) -> MessageType:
        message, length = read_header(self._header)
        self._check(message, length)
        self._payload = np.empty(length, dtype=np.uint8).data
        self._rest = self._payload
        return message
