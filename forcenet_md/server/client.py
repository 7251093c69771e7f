"""A small blocking client: the Python counterpart of the LAMMPS plugin, for tests and tools."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike

from forcenet_md.errors import AddressError, ProtocolError, RequestError
from forcenet_md.inference.interface import Kind
from forcenet_md.server import auth
from forcenet_md.server.address import connect, parse_address
from forcenet_md.server.protocol import (
    HEADER,
    TEXT_LIMIT,
    ForcesFrame,
    MessageType,
    StepFrame,
    decode_forces,
    decode_text,
    encode_step,
    encode_text,
    escape,
    forces_size,
    frame,
    read_header,
)
from forcenet_md.server.status import Status


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the server said of its model; cutoff in Å."""

    model: str
    sha256: str | None
    energy: bool
    virial: bool
    conservative: bool
    velocities: bool
    cutoff: float
    elements: tuple[str, ...]
    warnings: tuple[str, ...]
    spread: bool = False


class Client:
    """One connection. The constructor connects and, with a secret, authenticates both sides.

    Everything is in the units that `hello` declares. Raises AddressError if nobody answers or the
    connection is lost, ProtocolError if the other side does not speak docs/protocol.md,
    RequestError with the server's sentence where it refuses.
    """

    def __init__(
        self,
        address: str | socket.socket,
        secret: bytes | None = None,
        timeout: float | None = 60.0,
    ) -> None:
        if isinstance(address, str):
            self.socket = connect(parse_address(address), timeout)
        else:
            self.socket = address
            self.socket.settimeout(timeout)
        try:
            self._authenticate(secret)
        except BaseException:
            self.socket.close()
            raise

    def hello(
        self,
        elements: Sequence[str],
        units: str = "metal",
        masses: Sequence[float] | None = None,
        mass_check: bool = True,
        n_atoms: int = 1,
        group: str = "all",
        held: bool = False,
        need: Sequence[str] = (),
        engine: str = "python",
        spread: bool = False,
    ) -> Welcome:
        """Declare the simulation; may be called again between steps."""
        payload = encode_text(
            ("engine", engine),
            ("units", units),
            ("elements", " ".join(elements)),
            ("masses", "none" if masses is None else " ".join(f"{m:.17g}" for m in masses)),
            ("mass_check", "on" if mass_check else "off"),
            ("periodic", "1 1 1"),
            ("group", group),
            ("held", "yes" if held else "no"),
            ("atoms", str(n_atoms)),
            ("need", " ".join(need)),
            ("spread", "yes" if spread else "no"),
        )
        self.send(frame(MessageType.HELLO, payload))
        lines = decode_text(self.receive(MessageType.WELCOME))
        try:
            first = {key: values[0] for key, values in lines.items()}
            return Welcome(
                model=first["model"],
                sha256=None if first["sha256"] == "none" else first["sha256"],
                energy=first["energy"] == "yes",
                virial=first["virial"] == "yes",
                conservative=first["conservative"] == "yes",
                velocities=first["velocities"] == "yes",
                cutoff=float(first["cutoff"]),
                elements=tuple(first["elements"].split()),
                warnings=tuple(lines.get("warning", ())),
                spread=first.get("spread") == "yes",
            )
        except (KeyError, ValueError) as error:
            raise ProtocolError(f"the server's WELCOME is incomplete: {error}.") from None

    def step(
        self,
        positions: ArrayLike,
        types: ArrayLike,
        cell: ArrayLike,
        periodic: tuple[bool, bool, bool] = (True, True, True),
        velocities: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        step: int = 0,
        kind: Kind = Kind.RUN,
        timestep: float = 0.001,
    ) -> ForcesFrame:
        """Forces [n, 3] of positions [n, 3] with atom types [n] from 1."""
        x = np.asarray(positions, dtype=float)
        request = StepFrame(
            step=step,
            kind=kind,
            timestep=timestep,
            cell=np.asarray(cell, dtype=float),
            origin=np.zeros(3),
            periodic=periodic,
            ids=np.arange(1, len(x) + 1) if ids is None else np.asarray(ids),
            positions=x,
            velocities=None if velocities is None else np.asarray(velocities, dtype=float),
            types=np.asarray(types, dtype=np.int32),
        )
        self.send(frame(MessageType.STEP, encode_step(request)))
        limit = max(forces_size(len(x), spread=True), TEXT_LIMIT)
        answer = decode_forces(self.receive(MessageType.FORCES, limit))
        if answer.step != step or answer.forces.shape != x.shape:
            raise ProtocolError("the server answered another request than the one it was sent.")
        return answer

    def status(self) -> Status:
        """How the server and what it serves are. Asks for no forces."""
        self.send(frame(MessageType.WATCH))
        return Status.read(decode_text(self.receive(MessageType.STATUS)))

    def send(self, data: bytes) -> None:
        """Raw bytes. A server that closes while they are sent may have said why: see `receive`."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except OSError as error:
            raise AddressError(f"nothing can be sent to the server: {error}.") from None

    def receive(self, expected: MessageType, limit: int = TEXT_LIMIT) -> bytearray:
        """The payload of the next message, which must be of that type and within that length."""
        message, length = read_header(self._read(HEADER.size))
        if message not in (expected, MessageType.ERROR) or length > limit:
            raise ProtocolError(
                f"the server sent {message.name} of {length} bytes instead of {expected.name}."
            )
        payload = self._read(length)
        if message is MessageType.ERROR:
            raise RequestError(escape(payload.decode(errors="replace")))
        return payload

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(frame(MessageType.BYE))
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def _authenticate(self, secret: bytes | None) -> None:
        greeting = decode_text(self.receive(MessageType.GREETING))
        challenge = greeting.get("challenge", ["none"])[0]
        if challenge == "none":
            if secret is not None:
                raise RequestError("a secret was given but the server does not ask for one.")
            return
        if secret is None:
            raise RequestError(
                f"the server asks for a secret: put it into the variable {auth.ENVIRONMENT}."
            )
        server_nonce = auth.parse_nonce(challenge)
        if server_nonce is None:
            raise ProtocolError("the server's challenge is not 64 hexadecimal digits.")
        nonce = auth.new_nonce()
        mac = auth.client_mac(secret, server_nonce, nonce)
        self.send(frame(MessageType.AUTH, encode_text(("nonce", nonce.hex()), ("mac", mac))))
        answer = decode_text(self.receive(MessageType.AUTHENTICATED)).get("mac", [""])[0]
        if not auth.same(answer, auth.server_mac(secret, server_nonce, nonce)):
            raise RequestError("the server does not know the secret: is it the right server?")

    def _read(self, n: int) -> bytearray:
        data = bytearray(n)
        view = memoryview(data)
        while view:
            try:
                got = self.socket.recv_into(view)
            except TimeoutError:
                raise AddressError("the server did not answer in time.") from None
            except OSError as error:
                raise AddressError(f"the connection to the server was lost: {error}.") from None
            if got == 0:
                raise AddressError("the server closed the connection.")
            view = view[got:]
        return data
