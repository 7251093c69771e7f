"""What is recorded of one answer, and how exactly.

`full` keeps float64 as it is. `rounded` keeps positions to the nearest 2⁻¹³ Å, velocities and
forces to 12 bits behind the leading one, all as float32 whose last bits are zero and so compress:
a third of the size (docs of the option in cli/options.py; measured in tests/test_recording.py).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.units import kJ, mol
from numpy.typing import NDArray

from forcenet_md.system import Forces

Precision = Literal["full", "rounded"]
VECTORS = ("position", "velocity", "force")

FORCE_UNIT = kJ / mol  # eV/Å: MDAnalysis refuses a file whose forces are in eV/Å
GRID = 2.0**-13  # Å: of rounded positions, which are off by half of it at most
POSITION_ERROR = GRID / 2  # Å, within 1000 Å of the origin; float32 itself is coarser beyond
BITS = 12  # of rounded velocities and forces
RELATIVE_ERROR = 2.0 ** -(BITS + 1)
LEVEL = 1  # of zlib: noise does not get smaller by trying harder


@dataclass(frozen=True, slots=True)
class Particles:
    """Whose trajectory it is.

    numbers, ids: [n_atoms]; ids None where the engine has none
    masses: [n_atoms] amu, or None
    pbc: [3] bool
    """

    numbers: NDArray[np.int64]
    ids: NDArray[np.int64] | None
    masses: NDArray[np.float64] | None
    pbc: NDArray[np.bool_]

    def same(self, other: Particles) -> bool:
        """Their frames fit into one file."""
        if self.ids is None or other.ids is None:
            same_ids = self.ids is other.ids
        else:
            same_ids = np.array_equal(self.ids, other.ids)
        same_numbers = np.array_equal(self.numbers, other.numbers)
        return same_ids and same_numbers and np.array_equal(self.pbc, other.pbc)


@dataclass(frozen=True, slots=True)
class Frame:
    """One answer as it goes into a file.

    time: ps, NaN where the engine says no timestep
    cell: [3, 3] Å
    vectors: name → the compressed bytes of [n_atoms, 3]; Å, Å/ps, kJ/mol/Å
    scalars: name → value; eV, eV/Å or what a guard has put there
    """

    step: int
    time: float
    cell: NDArray[np.float64]
    vectors: dict[str, bytes]
    scalars: dict[str, float]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.vectors.values()))


def dtype(precision: Precision) -> str:
    return "<f8" if precision == "full" else "<f4"


def encode(name: str, values: NDArray[np.float64], precision: Precision) -> NDArray[np.floating]:
    """Positions [Å], velocities [Å/ps] or forces [kJ/mol/Å] as they are kept."""
    if precision == "full":
        return np.ascontiguousarray(values, dtype="<f8")
    if name == "position":
        return (np.round(values / GRID) * GRID).astype("<f4")
    drop = np.uint32(23 - BITS)
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded = (bits + (np.uint32(1) << (drop - np.uint32(1)))) >> drop << drop
    return rounded.view("<f4")


def compress(values: NDArray[np.floating]) -> bytes:
    """As HDF5's filters shuffle and gzip would, but other threads run meanwhile."""
    columns = np.ascontiguousarray(values).reshape(-1).view(np.uint8).reshape(-1, values.itemsize)
    return zlib.compress(columns.T.tobytes(), LEVEL)


def scalars(forces: Forces) -> dict[str, float]:
    """The numbers of an answer: `Forces.seen`, and the energy (eV)."""
    found = forces.seen()
    if forces.energy is not None:
        found["potential_energy"] = float(forces.energy)
    return found
