"""The bytes of i-PI's driver protocol, to Systems and from Forces.

Native-endian int32 and float64 in atomic units behind headers of 12 characters. i-PI's cell h has
the lattice vectors as columns. Layout: `ipi/interfaces/sockets.py` of i-PI 3.3; its manual, "The
i-PI force provider protocol" (https://docs.ipi-code.org).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import EvaluationError, ProtocolError, RequestError
from forcenet_md.inference.interface import Capabilities
from forcenet_md.server.template import Template
from forcenet_md.system import Forces, System
from forcenet_md.units import IPI

HEADER = 12  # bytes
CELL = 144  # bytes: h and its inverse
INT = 4
MAX_BATCH = 4096
MANY = 1000  # atoms beyond which i-PI gets no text of a number for each
HEAD = 16  # enough of POSDATA to see what it is

STATUS = b"STATUS      "
INIT = b"INIT        "
POSDATA = b"POSDATA     "
GETFORCE = b"GETFORCE    "
EXIT = b"EXIT        "
NEEDINIT = b"NEEDINIT    "
READY = b"READY       "
HAVEDATA = b"HAVEDATA    "
FORCEREADY = b"FORCEREADY  "


def read_int(data: memoryview) -> int:
    return int(np.frombuffer(data, np.int32, 1)[0])


def read_batch_size(parameters: bytes) -> int:
    """How many structures every POSDATA has: i-PI's last word in INIT. Raises ProtocolError."""
    found = re.findall(rb"(?:^|[,\s])batch_size:(\d+)(?=$|[,\s])", parameters)
    size = int(found[-1]) if found else 1
    if not 1 <= size <= MAX_BATCH:
        raise ProtocolError(
            f"i-PI asks for batches of {size} structures: set a batch_size from 1 to {MAX_BATCH}."
        )
    return size


def check_not_shared(head: memoryview) -> None:
    """Raises ProtocolError for i-PI's shared memory, whose names stand where a cell should.

    head: the first HEAD bytes of a POSDATA
    """
    if bytes(head[8:]) == b"ipi_shm_":
        raise ProtocolError(
            "i-PI wants to exchange positions through shared memory: set mode='unix' in place of"
            " mode='shm' in its input."
        )


def split_prefix(prefix: bytes, batch: int) -> tuple[int, memoryview]:
    """The number of atoms and the cells: i-PI sends one cell first, those of a batch last."""
    data = memoryview(prefix)
    if batch == 1:
        return read_int(data[CELL:]), data[:CELL]
    return read_int(data), data[INT:]


def check_count(count: int, template: Template) -> None:
    """Raises RequestError when i-PI has another number of atoms than the template."""
    expected = len(template.numbers)
    if count != expected:
        raise RequestError(
            f"i-PI sends {count} atoms but the template has {expected}: give the structure that"
            " i-PI starts from."
        )


def read_systems(cells: memoryview, positions: memoryview, template: Template) -> list[System]:
    """One System for each structure of POSDATA; the last ones may be copies that fill a batch.

    cells: h and inverse of each; positions: of all. Raises StructureError where not finite.
    """
    h = np.frombuffer(cells, np.float64).reshape(-1, 2, 3, 3)[:, 0]
    x = np.frombuffer(positions, np.float64).reshape(len(h), -1, 3)
    with np.errstate(all="ignore"):  # what overflows is refused as not finite
        return [
            System.make(x_k / IPI.angstrom, template.numbers, h_k.T / IPI.angstrom, template.pbc)
            for x_k, h_k in zip(x, h, strict=True)
        ]


def distinct(systems: Sequence[System]) -> list[System]:
    """Without the copies of the last structure that i-PI fills its batches with."""
    n = len(systems)
    while n > 1 and _same(systems[n - 2], systems[n - 1]):
        n -= 1
    return list(systems[:n])


def _same(one: System, other: System) -> bool:
    return np.array_equal(one.positions, other.positions) and np.array_equal(one.cell, other.cell)


def write_forces(
    systems: Sequence[System], answers: Sequence[Forces], batch: int, model: Capabilities
) -> bytes:
    """FORCEREADY for these structures: `batch` answers, the last one repeated.

    An energy or virial that the model does not have is sent as zero: the protocol has no other
    word. Raises EvaluationError for one that it has but did not give, and for anything that is
    not finite or of a wrong shape, since i-PI takes it without a word or hangs.
    """
    rows = [_answer(system, forces, model) for system, forces in zip(systems, answers, strict=True)]
    rows += [rows[-1]] * (batch - len(rows))
    energies, forces, virials, extras = zip(*rows, strict=True)
    return b"".join(
        [
            FORCEREADY,
            np.array(energies).tobytes(),
            np.int32(systems[0].n_atoms).tobytes(),
            *(f.tobytes() for f in forces),
            *(v.tobytes() for v in virials),
            *(np.int32(len(text)).tobytes() + text for text in extras),
        ]
    )


def _answer(
    system: System, answer: Forces, model: Capabilities
) -> tuple[float, NDArray[np.float64], NDArray[np.float64], bytes]:
    if (model.energy and answer.energy is None) or (model.stress and answer.stress is None):
        raise EvaluationError(
            f"the model {model.name} gave no energy or no virial for this structure, though it has"
            " them: use a model file that this version has exported."
        )
    forces = np.ascontiguousarray(answer.forces, dtype=np.float64)
    shape = (3, 3) if answer.stress is None else np.shape(answer.stress)
    if forces.shape != system.positions.shape or shape != (3, 3):
        raise EvaluationError(
            f"the model answered {system.n_atoms} atoms with forces {forces.shape} and a stress"
            f" {shape}: use a model file that this version has exported."
        )
    with np.errstate(all="ignore"):
        energy = float(answer.energy or 0.0) * IPI.electronvolt
        f = forces * IPI.force
        virial = _virial(system, answer)
    if not (np.isfinite(energy) and np.isfinite(f).all() and np.isfinite(virial).all()):
        raise EvaluationError(
            "energy, virial or forces are not finite: the simulation has failed; use a smaller"
            " timestep or a relaxed starting structure."
        )
    return energy, f, virial, _extras(answer)


def _virial(system: System, answer: Forces) -> NDArray[np.float64]:
    """[3, 3] in i-PI's units; zero where there is none."""
    if answer.stress is None:
        return np.zeros((3, 3))
    volume = abs(np.linalg.det(system.cell))
    return np.ascontiguousarray(answer.stress, np.float64).T.copy() * (-volume * IPI.electronvolt)


def _extras(answer: Forces) -> bytes:
    """JSON for i-PI's `extras` output: what was seen beside the forces. The net force (eV/Å) and
    torque (eV) are whole ones, and vectors; the spread (eV/Å) is that of each atom, of few."""
    seen: dict[str, Any] = dict(answer.seen())
    if answer.net_force is not None:
        seen["net_force"] = answer.net_force
    if answer.torque is not None:
        seen["torque"] = answer.torque
    spread = answer.force_spread
    if spread is not None and len(spread) <= MANY:
        seen["force_spread"] = np.round(spread, 6)
    return json.dumps({name: _plain(value) for name, value in seen.items()}).encode("ascii")


def _plain(value: Any) -> Any:
    """What JSON can say of it; a number that is not finite is null."""
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value.tolist()]
    return value if isfinite(value) else None
