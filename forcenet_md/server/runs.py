"""The runs of this user on this machine, each with a socket by which it is watched, and no more.

The sockets have names and no files (Linux's abstract ones, seen from every folder and container of
the machine's network): nothing is left of them however a run ends. They have no rights either, so
that each side looks who the other is.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forcenet_md.errors import AddressError

OPEN = Path("/proc/net/unix")
LISTENING = "00010000"  # in its column of flags
CREDENTIALS = struct.Struct("=iII")  # process, user, group
SCHEME = "run:"


@dataclass(frozen=True, slots=True, order=True)
class RunAddress:
    """Of the run with that process number."""

    number: int

    def __str__(self) -> str:
        return f"{SCHEME}{self.number}"

    @property
    def name(self) -> str:
        return f"\0{_prefix()}{self.number}"

    @classmethod
    def parse(cls, text: str) -> RunAddress:
        """Of run:NUMBER. Raises AddressError."""
        number = text.removeprefix(SCHEME)
        if not (number.isascii() and number.isdecimal()):
            raise AddressError(f"{text!r} is not an address: use run:NUMBER.")
        return cls(int(number))

    def connect(self, timeout: float | None = 60.0) -> socket.socket:
        """A connected blocking socket. Raises AddressError where there is no such run of ours."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(self.name)
            if same_user(sock):
                return sock
        except OSError:
            pass
        sock.close()
        raise AddressError(
            f"no run {self.number} of yours is on this machine: `forcenet-md watch` alone finds"
            " those that are."
        )


class RunListener:
    """The socket of this process. Nobody is heard before `listen`."""

    def __init__(self) -> None:
        """Bind. Raises AddressError."""
        self.address = RunAddress(os.getpid())
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.bind(self.address.name)
        except OSError as error:
            self.socket.close()
            raise AddressError(f"{self.address} cannot be had ({error.strerror}).") from None
        self.socket.setblocking(False)

    def listen(self) -> None:
        self.socket.listen(16)

    def close(self) -> None:
        self.socket.close()


def open_to_watchers(log: Callable[[str], None]) -> list[RunListener]:
    """The socket of this process, listening; none where it cannot be had, which is no reason to
    stop a run."""
    try:
        listener = RunListener()
    except AddressError as error:
        log(f"this run cannot be watched: {error}")
        return []
    listener.listen()
    return [listener]


def running() -> list[RunAddress]:
    """Those of this user that can be watched now."""
    found = set()
    prefix = f"@{_prefix()}"
    for line in OPEN.read_text("utf-8", errors="replace").splitlines():
        words = line.split(maxsplit=7)
        if len(words) == 8 and words[3] == LISTENING and words[7].startswith(prefix):
            number = words[7].removeprefix(prefix)
            if number.isascii() and number.isdecimal():
                found.add(RunAddress(int(number)))
    return sorted(found)


def same_user(sock: socket.socket) -> bool:
    """Whether the other end of a socket is this user's, or root's."""
    told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, user, _ = CREDENTIALS.unpack(told)
    return user in (os.getuid(), 0)


def _prefix() -> str:
    return f"forcenet-md-{os.getuid()}-"
