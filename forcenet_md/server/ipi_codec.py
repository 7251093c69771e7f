"""The bytes of i-PI's driver protocol, to Systems and from Forces.

Native-endian int32 and float64 in atomic units behind headers of 12 characters. i-PI's cell h has
the lattice vectors as columns. Layout: `ipi/interfaces/sockets.py` of i-PI 3.3; its manual, "The
i-PI force provider protocol" (https://docs.ipi-code.org).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import EvaluationError, ProtocolError, RequestError
from forcenet_md.server.template import Template
from forcenet_md.system import Forces, System
from forcenet_md.units import IPI

HEADER = 12  # bytes
CELL = 144  # bytes: h and its inverse
INT = 4

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
    """How many structures every POSDATA has, from the text of INIT. Raises ProtocolError."""
    found = re.search(rb"(?:^|[,\s])batch_size:(\d{1,6})(?=$|[,\s])", parameters)
    size = int(found[1]) if found else 1
    if size < 1:
        raise ProtocolError("i-PI asks for batches of no structure: set batch_size to 1 or more.")
    return size


def check_count(count: int, template: Template, prefix: memoryview) -> None:
    """Raises ProtocolError for i-PI's shared memory, RequestError for another number of atoms."""
    expected = len(template.numbers)
    if b"ipi_shm_" in bytes(prefix):
        raise ProtocolError(
            "i-PI wants to exchange positions through shared memory: set mode='unix' in place of"
            " mode='shm' in its input."
        )
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


def write_forces(systems: Sequence[System], answers: Sequence[Forces], batch: int) -> bytes:
    """FORCEREADY for these structures: `batch` answers, the last one repeated.

    An energy or virial that the model does not have is sent as zero: the protocol has no other
    word. Raises EvaluationError for anything that is not finite or of a wrong shape, since i-PI
    takes it without a word or hangs.
    """
    rows = [_answer(system, forces) for system, forces in zip(systems, answers, strict=True)]
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
    system: System, answer: Forces
) -> tuple[float, NDArray[np.float64], NDArray[np.float64], bytes]:
    with np.errstate(all="ignore"):
        energy = (answer.energy or 0.0) * IPI.electronvolt
        forces = np.ascontiguousarray(answer.forces, dtype=np.float64) * IPI.force
        volume = abs(np.linalg.det(system.cell))
        stress = np.zeros((3, 3)) if answer.stress is None else answer.stress
        virial = np.asarray(stress, dtype=np.float64).T * (-volume * IPI.electronvolt)
    if forces.shape != system.positions.shape or virial.shape != (3, 3):
        raise EvaluationError(
            f"the model answered {system.n_atoms} atoms with forces {forces.shape}: use a model"
            " file that this version has exported."
        )
    if not (np.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(virial).all()):
        raise EvaluationError(
            "energy, virial or forces are not finite: the simulation has failed; use a smaller"
            " timestep or a relaxed starting structure."
        )
    return float(energy), forces, np.ascontiguousarray(virial), _extras(answer)


def _extras(answer: Forces) -> bytes:
    """JSON for i-PI's `extras` output, in eV/Å: what the guards saw."""
    f = answer.forces
    largest = float(np.sqrt(np.einsum("ij,ij->i", f, f).max(initial=0.0)))
    seen: dict[str, Any] = {"largest_force": largest}
    for key, value in answer.extras.items():
        seen[key] = value.tolist() if isinstance(value, np.ndarray) else value
    return json.dumps(seen, ensure_ascii=True, allow_nan=False).encode("ascii")
