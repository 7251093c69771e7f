"""i-PI's side of its driver protocol, for tests: scripted word by word, or i-PI's own code.

Nothing here uses the package's codec: bytes are put together with struct and NumPy.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ipi.engine.forcefields import ForceRequest
from ipi.interfaces import sockets
from ipi.utils.units import unit_to_internal
from serving import PATIENCE

BOHR = unit_to_internal("length", "angstrom", 1.0)
HARTREE = unit_to_internal("energy", "electronvolt", 1.0)
EV_PER_ANGSTROM = unit_to_internal("force", "ev/ang", 1.0)

sockets.SERVERTIMEOUT = 0.1  # s that i-PI waits for one more driver after another

_names = count()


def own_name() -> str:
    """A name for i-PI's unix socket that no other test uses."""
    return f"forcenet_test_{os.getpid()}_{next(_names)}"


def free_port() -> int:
    """A tcp port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def socket_file(name: str) -> Path:
    return Path(f"/tmp/ipi_{name}")


# Bytes -----------------------------------------------------------------------------------------


def word(text: str) -> bytes:
    return text.upper().ljust(12).encode()


def init(text: str = " ", replica: int = 0) -> bytes:
    return word("init") + struct.pack("=ii", replica, len(text)) + text.encode()


def _cells(atoms: Atoms) -> bytes:
    h = atoms.cell.array.T * BOHR
    with np.errstate(all="ignore"):
        inverse = np.linalg.inv(h) if abs(np.linalg.det(h)) > 0.0 else np.zeros((3, 3))
    return h.tobytes() + inverse.tobytes()


def posdata(atoms: Atoms, n: int | None = None) -> bytes:
    """n: the number of atoms that is told, if not the true one."""
    told = struct.pack("=i", len(atoms) if n is None else n)
    return word("posdata") + _cells(atoms) + told + (atoms.positions * BOHR).tobytes()


def posdata_batch(images: Sequence[Atoms]) -> bytes:
    told = struct.pack("=i", len(images[0]))
    cells = b"".join(_cells(atoms) for atoms in images)
    return word("posdata") + told + cells + b"".join((a.positions * BOHR).tobytes() for a in images)


GETFORCE = word("getforce")
STATUS = word("status")
EXIT = word("exit")


@dataclass
class Answer:
    """What i-PI was answered, in eV and Å; virial: [3, 3] eV."""

    energy: float
    forces: np.ndarray
    virial: np.ndarray
    extras: dict[str, Any]


# A scripted i-PI -------------------------------------------------------------------------------


class Wire:
    """One connection that i-PI has accepted. Every call gives up after PATIENCE."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(PATIENCE)

    def say(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def hear(self, length: int) -> bytes:
        """Raises EOFError when the driver has closed."""
        data = bytearray()
        while len(data) < length:
            try:
                part = self.sock.recv(length - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                raise EOFError(f"{len(data)} of {length} bytes: {bytes(data[:40])!r}")
            data += part
        return bytes(data)

    def status(self) -> str:
        self.say(STATUS)
        return self.hear(12).decode().strip()

    def begin(self, text: str = " ") -> Wire:
        """The handshake up to READY."""
        assert self.status() == "NEEDINIT"
        self.say(init(text))
        assert self.status() == "READY"
        return self

    def answer(self, n_atoms: int, batch: int = 1) -> list[Answer]:
        """Read FORCEREADY and all that follows."""
        assert self.hear(12) == word("forceready")
        energies = struct.unpack(f"={batch}d", self.hear(8 * batch))
        assert struct.unpack("=i", self.hear(4)) == (n_atoms,)
        forces = np.frombuffer(self.hear(24 * n_atoms * batch)).reshape(batch, n_atoms, 3)
        virials = np.frombuffer(self.hear(72 * batch)).reshape(batch, 3, 3)
        extras = [self.hear(struct.unpack("=i", self.hear(4))[0]) for _ in range(batch)]
        return [
            Answer(e / HARTREE, f / EV_PER_ANGSTROM, v / HARTREE, json.loads(x.decode("ascii")))
            for e, f, v, x in zip(energies, forces, virials, extras, strict=True)
        ]

    def ask(self, atoms: Atoms) -> Answer:
        """One step of the consolidated flow, with the STATUS that i-PI sends after it."""
        self.say(posdata(atoms), GETFORCE)
        [answer] = self.answer(len(atoms))
        assert self.status() == "READY"
        return answer

    def ask_batch(self, images: Sequence[Atoms]) -> list[Answer]:
        self.say(posdata_batch(images), GETFORCE)
        answers = self.answer(len(images[0]), len(images))
        assert self.status() == "READY"
        return answers

    def ask_older(self, atoms: Atoms) -> Answer:
        """One step of the older flow: STATUS before every word."""
        assert self.status() == "READY"
        self.say(posdata(atoms))
        assert self.status() == "HAVEDATA"
        self.say(GETFORCE)
        [answer] = self.answer(len(atoms))
        assert self.status() == "READY"
        return answer

    def closed(self) -> bool:
        """Whether the driver says nothing more and closes."""
        try:
            self.hear(1)
        except EOFError:
            return True
        return False

    def close(self) -> None:
        self.sock.close()

    def drop(self) -> None:
        """i-PI's `shutdown` of a client: EXIT, then the end."""
        with contextlib.suppress(OSError):
            self.sock.sendall(EXIT)
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class FakeIpi:
    """An i-PI that listens and says what a test tells it to."""

    def __init__(self, name: str | None = None, port: int | None = None, backlog: int = 4) -> None:
        """A unix socket of that name, or a tcp port of this machine (0: any)."""
        if port is None:
            name = name or own_name()
            self.address = f"unix:{name}"
            self.path: Path | None = socket_file(name)
            self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.path.unlink(missing_ok=True)
            self.listener.bind(str(self.path))
        else:
            self.path = None
            self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(("127.0.0.1", port))
            self.address = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        self.listener.listen(backlog)
        self.listener.settimeout(PATIENCE)
        self.wires: list[Wire] = []

    def accept(self) -> Wire:
        self.wires.append(Wire(self.listener.accept()[0]))
        return self.wires[-1]

    def close(self) -> None:
        """As i-PI does, without a word."""
        for wire in self.wires:
            wire.close()
        self.listener.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> FakeIpi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# i-PI's own code -------------------------------------------------------------------------------


class Listening(socket.socket):
    """i-PI duplicates the socket of a client and leaves the first one to the garbage."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.accepted: list[socket.socket] = []

    def accept(self) -> tuple[socket.socket, Any]:
        sock, peer = super().accept()
        self.accepted.append(sock)
        return sock, peer


class RealIpi:
    """i-PI's own InterfaceSocket, without the rest of i-PI."""

    def __init__(self, name: str | None = None, port: int | None = None, **settings: Any) -> None:
        name = name or own_name()
        mode = "unix" if port is None else "inet"
        self.address = f"unix:{name}" if port is None else f"tcp:localhost:{port}"
        self.path = socket_file(name)
        settings = {"mode": mode, "timeout": 0.0, "port": port or 0} | settings
        address = name if port is None else "localhost"
        self.interface = sockets.InterfaceSocket(address=address, **settings)
        self.requests: list[ForceRequest] = []
        self._clients: list[socket.socket] = []  # i-PI leaves the dead ones open
        self.interface.requests = self.requests
        self.interface.open()
        self.listening = self.interface.server = Listening(self.interface.server)

    def queue(self, images: Sequence[Atoms]) -> list[ForceRequest]:
        """As `ForceField.queue` does for each bead."""
        found = []
        for k, atoms in enumerate(images):
            h = atoms.cell.array.T * BOHR
            found.append(
                ForceRequest(
                    id=k,
                    pos=(atoms.positions * BOHR).ravel(),
                    active=np.arange(3 * len(atoms)),
                    cell=(np.ascontiguousarray(h), np.linalg.inv(h)),
                    pars=" ",
                    result=None,
                    status="Queued",
                    start=-1,
                    t_queued=time.time(),
                    t_dispatched=0,
                    t_finished=0,
                )
            )
        self.requests.extend(found)
        return found

    def step(self, images: Sequence[Atoms], patience: float = PATIENCE) -> list[Answer]:
        """Forces of some beads."""
        return self.wait(self.queue(images), patience)

    def wait(self, found: list[ForceRequest], patience: float = PATIENCE) -> list[Answer]:
        end = time.monotonic() + patience
        while not all(request["status"] == "Done" for request in found):
            assert time.monotonic() < end, "i-PI waits for its driver"
            self.poll()
        for request in found:
            self.requests.remove(request)
        return [_result(request) for request in found]

    def poll(self) -> None:
        """A round of i-PI's polling thread."""
        self.interface.poll()
        self._clients.extend(c for c in self.interface.clients if c not in self._clients)
        time.sleep(1e-4)

    def close(self) -> None:
        """i-PI's end: EXIT to every driver."""
        self.interface.close()
        self.interface.executor.shutdown()
        for sock in (self.listening, *self.listening.accepted, *self._clients):
            sock.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> RealIpi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _result(request: ForceRequest) -> Answer:
    energy, forces, virial, extras = request["result"]
    forces = forces.reshape(-1, 3) / EV_PER_ANGSTROM
    return Answer(float(energy) / HARTREE, forces, virial / HARTREE, extras)
