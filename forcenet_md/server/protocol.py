"""The wire format of docs/protocol.md: frames, text payloads and the layouts of STEP and FORCES.

Pure functions of bytes; no sockets and no units. Both the server and the Python client use them.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import ProtocolError
from forcenet_md.inference.interface import Kind

Buffer = bytes | bytearray | memoryview

MAGIC = b"FNMD"
VERSION = 1

HEADER = struct.Struct("<4sHHQ")  # magic, version, type, length of the payload
STEP = struct.Struct("<qIId9d3dQII")
FORCES = struct.Struct("<qQIId6d")

TEXT_LIMIT = 64 * 1024
HELLO_LIMIT = 1024 * 1024
ERROR_LIMIT = 4096

HAS_VELOCITIES = 1  # flag of STEP
HAS_ENERGY = 1  # flags of FORCES
HAS_VIRIAL = 2
HAS_SPREAD = 4


class MessageType(IntEnum):
    GREETING = 1
    AUTH = 2
    AUTHENTICATED = 3
    HELLO = 4
    WELCOME = 5
    STEP = 6
    FORCES = 7
    ERROR = 8
    BYE = 9
    WATCH = 10
    STATUS = 11


class StepFrame(NamedTuple):
    """A STEP payload in the engine's units; arrays are views of the payload.

    ids [n] ascending int64; positions [n, 3]; velocities [n, 3] or None; types [n] int32, from 1;
    cell [3, 3] rows a, b, c; periodic [3] bool.
    """

    step: int
    kind: Kind
    timestep: float
    cell: NDArray[np.float64]
    origin: NDArray[np.float64]
    periodic: tuple[bool, bool, bool]
    ids: NDArray[np.int64]
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64] | None
    types: NDArray[np.int32]


class ForcesFrame(NamedTuple):
    """A FORCES payload in the engine's units; forces [n, 3], virial [6] xx yy zz xy xz yz, spread
    [n] of a committee."""

    step: int
    energy: float | None
    virial: NDArray[np.float64] | None
    forces: NDArray[np.float64]
    spread: NDArray[np.float64] | None = None


def frame(message: MessageType, payload: bytes = b"") -> bytes:
    """A whole message: header and payload."""
    return HEADER.pack(MAGIC, VERSION, message, len(payload)) + payload


def read_header(header: Buffer) -> tuple[MessageType, int]:
    """Type and payload length of 16 header bytes.

    Raises ProtocolError for another magic or version, or an unknown type.
    """
    magic, version, message, length = HEADER.unpack(header)
    if magic != MAGIC:
        raise ProtocolError("this is not a forcenet-md message: the first four bytes are not FNMD.")
    if version != VERSION:
        raise ProtocolError(
            f"protocol version {version} is not spoken here, only version {VERSION}:"
            " use an engine plugin and a server of the same forcenet-md release."
        )
    try:
        return MessageType(message), length
    except ValueError:
        raise ProtocolError(f"message type {message} is unknown.") from None


def step_size(n_atoms: int, velocities: bool) -> int:
    """Bytes of a STEP payload."""
    return STEP.size + n_atoms * (8 + 24 + 4 + (24 if velocities else 0))


def forces_size(n_atoms: int, spread: bool = False) -> int:
    """Bytes of a FORCES payload."""
    return FORCES.size + (32 if spread else 24) * n_atoms


# Text ------------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """The text with control, format and undecodable characters spelled out: safe to print."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def encode_text(*lines: tuple[str, str]) -> bytes:
    """Lines `key value value …`, in order; control characters in values are escaped."""
    return "".join(f"{key} {escape(value)}".rstrip() + "\n" for key, value in lines).encode()


def decode_text(payload: Buffer) -> dict[str, list[str]]:
    """All lines of each key, without the key, in order.

    Raises ProtocolError if the payload is not UTF-8.
    """
    try:
        text = bytes(payload).decode()
    except UnicodeDecodeError:
        raise ProtocolError("a text message is not UTF-8.") from None
    lines: dict[str, list[str]] = {}
    for line in text.split("\n"):
        key, _, value = line.partition(" ")
        if key:
            lines.setdefault(key, []).append(value)
    return lines


def encode_error(sentence: str) -> bytes:
    """One line of at most 4096 bytes of UTF-8, cut between characters."""
    data = escape(" ".join(sentence.split())).encode()
    return data[:ERROR_LIMIT].decode(errors="ignore").encode()


# STEP and FORCES -------------------------------------------------------------------------------


def encode_step(frame: StepFrame) -> bytes:
    """The payload of a STEP."""
    n = len(frame.ids)
    fixed = STEP.pack(
        frame.step,
        frame.kind,
        0 if frame.velocities is None else HAS_VELOCITIES,
        frame.timestep,
        *np.asarray(frame.cell, dtype=float).reshape(9),
        *np.asarray(frame.origin, dtype=float).reshape(3),
        n,
        sum(bit << axis for axis, bit in enumerate(frame.periodic)),
        0,
    )
    arrays: list[tuple[NDArray, str]] = [(frame.ids, "<i8"), (frame.positions, "<f8")]
    if frame.velocities is not None:
        arrays.append((frame.velocities, "<f8"))
    arrays.append((frame.types, "<i4"))
    return fixed + b"".join(np.ascontiguousarray(a, dtype=t).tobytes() for a, t in arrays)


def decode_step(payload: Buffer) -> StepFrame:
    """The fields of a STEP payload, arrays as views.

    Raises ProtocolError where kind, flags, or the length for that number of atoms are wrong.
    """
    if len(payload) < STEP.size:
        raise ProtocolError(f"a STEP of {len(payload)} bytes is shorter than its fixed part.")
    step, kind, flags, timestep, *box, n, periodic, _ = STEP.unpack_from(payload)
    if flags & ~HAS_VELOCITIES or kind > Kind.MINIMISE or periodic > 7:
        raise ProtocolError("a STEP has an unknown kind of call, flag or periodicity.")
    has_velocities = bool(flags & HAS_VELOCITIES)
    if len(payload) != step_size(n, has_velocities):
        raise ProtocolError(
            f"a STEP of {n} atoms has {len(payload)} bytes"
            f" instead of {step_size(n, has_velocities)}."
        )

    offset = STEP.size

    def take(dtype: str, count: int) -> NDArray:
        nonlocal offset
        array = np.frombuffer(payload, dtype=dtype, count=count, offset=offset)
        offset += array.nbytes
        return array

    ids = take("<i8", n)
    positions = take("<f8", 3 * n).reshape(n, 3)
    velocities = take("<f8", 3 * n).reshape(n, 3) if has_velocities else None
    types = take("<i4", n)
    return StepFrame(
        step,
        Kind(kind),
        timestep,
        np.array(box[:9]).reshape(3, 3),
        np.array(box[9:12]),
        (bool(periodic & 1), bool(periodic & 2), bool(periodic & 4)),
        ids,
        positions,
        velocities,
        types,
    )


def encode_forces(
    step: int,
    energy: float | None,
    virial: NDArray[np.float64] | None,
    forces: NDArray[np.float64],
    spread: NDArray[np.float64] | None = None,
) -> memoryview:
    """A whole FORCES message, header included; forces [n, 3], spread [n]."""
    length = forces_size(len(forces), spread is not None)
    message = np.empty(HEADER.size + length, dtype=np.uint8).data
    flags = HAS_ENERGY * (energy is not None) | HAS_VIRIAL * (virial is not None)
    flags |= HAS_SPREAD * (spread is not None)
    w = (0.0,) * 6 if virial is None else virial
    HEADER.pack_into(message, 0, MAGIC, VERSION, MessageType.FORCES, len(message) - HEADER.size)
    FORCES.pack_into(message, HEADER.size, step, len(forces), flags, 0, energy or 0.0, *w)
    numbers = np.frombuffer(message, dtype="<f8", offset=HEADER.size + FORCES.size)
    numbers[: 3 * len(forces)] = np.ravel(forces)
    if spread is not None:
        numbers[3 * len(forces) :] = spread
    return message


def decode_forces(payload: Buffer) -> ForcesFrame:
    """The fields of a FORCES payload. Raises ProtocolError if its length is wrong."""
    if len(payload) < FORCES.size:
        raise ProtocolError(f"a FORCES of {len(payload)} bytes is shorter than its fixed part.")
    step, n, flags, _, energy, *virial = FORCES.unpack_from(payload)
    if len(payload) != forces_size(n, bool(flags & HAS_SPREAD)):
        raise ProtocolError(f"a FORCES of {n} atoms has {len(payload)} bytes.")
    numbers = np.frombuffer(payload, dtype="<f8", offset=FORCES.size)
    return ForcesFrame(
        step,
        energy if flags & HAS_ENERGY else None,
        np.array(virial) if flags & HAS_VIRIAL else None,
        numbers[: 3 * n].reshape(n, 3),
        numbers[3 * n :] if flags & HAS_SPREAD else None,
    )
