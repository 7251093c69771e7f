"""How far atoms and the box may move before LAMMPS must choose its ghosts anew."""

from __future__ import annotations

import numpy as np

from forcenet_md.errors import StructureError
from forcenet_md.graph.frame import Array

NOT_FINITE = (
    "a position is not finite: the simulation has failed before this step; use a smaller timestep"
    " or a relaxed starting structure."
)


class Reference:
    """Where a rank's atoms and the box were when LAMMPS last chose its ghosts."""

    def __init__(
        self,
        positions: Array | None = None,
        cell: Array | None = None,
        origin: Array | None = None,
    ) -> None:
        self._positions = np.empty((0, 3)) if positions is None else positions
        self._corners = corners(np.eye(3) if cell is None else cell, origin)

    def check(self, positions: Array, cell: Array, origin: Array, skin: float) -> None:
        """Raises StructureError where an atom may have come near that LAMMPS shows no ghost of:
        half the skin is for the atoms and for the two corners of the box that moved most, as in
        LAMMPS's own check."""
        moved = np.linalg.norm(positions - self._positions, axis=1).max(initial=0.0)
        box = np.linalg.norm(corners(cell, origin) - self._corners, axis=1)
        used = 2.0 * moved + np.sort(box)[-2:].sum()
        if not np.isfinite(used):
            raise StructureError(NOT_FINITE)
        if used > skin * (1.0 + 1e-6):
            raise StructureError(
                f"atoms moved {moved:.2g} Å since LAMMPS last built its neighbour lists, more than"
                f" half its skin of {skin:.2g} Å: give 'neigh_modify delay 0 every 1 check yes', or"
                " a larger skin by the command neighbor."
            )


def corners(cell: Array, origin: Array | None) -> Array:
    """The corners [8, 3] of the box."""
    steps = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    return steps @ cell + (np.zeros(3) if origin is None else origin)
