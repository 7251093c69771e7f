"""What is asked and what is answered: one `System`, one `Forces`, the same on every route."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forcenet_md.errors import StructureError


@dataclass(frozen=True, slots=True)
class System:
    """Atoms in a cell. Positions need not be wrapped.

    positions: [n_atoms, 3] Å, float64
    numbers: [n_atoms] atomic numbers, int64
    cell: [3, 3] Å, rows are the lattice vectors; rows of directions that are not
        periodic may be zero
    pbc: [3] bool
    """

    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]

    @classmethod
    def make(
        cls, positions: ArrayLike, numbers: ArrayLike, cell: ArrayLike, pbc: ArrayLike
    ) -> System:
        """Convert and check shapes and finiteness.

        Raises StructureError when a shape is wrong, a number is not finite, or a
        periodic cell has no volume.
        """
        x = np.ascontiguousarray(positions, dtype=np.float64)
        z = np.ascontiguousarray(numbers, dtype=np.int64)
        h = np.ascontiguousarray(cell, dtype=np.float64)
        p = np.empty(3, dtype=np.bool_)
        p[:] = pbc
        if x.ndim != 2 or x.shape[1] != 3 or z.shape != (len(x),) or h.shape != (3, 3):
            raise StructureError(
                f"positions {x.shape}, numbers {z.shape} and cell {h.shape} do not fit together:"
                " they must be (n, 3), (n,) and (3, 3)."
            )
        if not np.isfinite(x).all():
            bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
            raise StructureError(
                f"the position of atom {bad[0] + 1} is not finite ({len(bad)} such atoms): the"
                " simulation has failed before this step; use a smaller timestep or a relaxed"
                " starting structure."
            )
        if not np.isfinite(h).all():
            raise StructureError("the cell is not finite: the simulation has failed before.")
        if p.any() and not _spans(h[p].tobytes()):
            raise StructureError(
                "the cell has no volume in its periodic directions: give a cell whose periodic"
                " lattice vectors are linearly independent."
            )
        return cls(x, z, h, p)

    @classmethod
    def from_ase(cls, atoms: Any) -> System:
        """The System of an `ase.Atoms`. Raises StructureError as `make` does."""
        return cls.make(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)


@lru_cache(maxsize=64)  # most runs keep their cell, and a step may take a tenth of a millisecond
def _spans(data: bytes) -> bool:
    rows = np.frombuffer(data).reshape(-1, 3)
    lengths = np.linalg.norm(rows, axis=1)
    if (lengths < 1e-8).any():
        return False
    unit = rows / lengths[:, None]
    return bool(np.linalg.svd(unit, compute_uv=False)[-1] > 1e-8)


@dataclass(slots=True)
class Forces:
    """The answer for one System. What the model does not have is None, never zero.

    forces: [n_atoms, 3] eV/Å
    energy: eV, or None
    stress: [3, 3] eV/Å³ with ASE's sign (−virial / volume), or None
    extras: what was seen beside them: `net_force` [3] eV/Å and `torque` [3] eV that were taken
        out, `contact` (inference/contacts.py), `force_spread` of a committee, …
    """

    forces: NDArray[np.float64]
    energy: float | None = None
    stress: NDArray[np.float64] | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def net_force_per_atom(self) -> float:
        """eV/Å: how large the net force was that the evaluator saw; 0 where it saw none."""
        net = self.extras.get("net_force")
        return 0.0 if net is None else float(np.linalg.norm(net)) / max(len(self.forces), 1)

    @property
    def force_spread(self) -> NDArray[np.float64] | None:
        """[n_atoms] eV/Å: how far the members of a committee are apart; None from one model."""
        return self.extras.get("force_spread")


def largest_force(forces: NDArray[np.float64]) -> tuple[int, float]:
    """Row and length in eV/Å of the largest of forces [n, 3]; 0 of none."""
    squared = np.einsum("ij,ij->i", forces, forces)
    if not len(squared):
        return 0, 0.0
    top = int(squared.argmax())
    return top, float(np.sqrt(squared[top]))
