"""One frame of a run, as every reader of trajectories gives it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forcenet_md.graph.frame import Frame
from forcenet_md.system import System

Array = NDArray[np.float64]
SAME_CELL = 1e-6  # parts of its lengths that a cell may be off by, as rounded by files and restarts


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Atoms at one time of a run, in one order throughout it.

    numbers: [n_atoms] atomic numbers; masses: [n_atoms] amu
    positions: [n_atoms, 3] Å, wrapped into the cell unless `unwrapped`
    cell: [3, 3] Å, rows are the lattice vectors; pbc: [3]
    velocities: [n_atoms, 3] Å/ps, or None; energy: the potential one in eV, or None
    step: the engine's count, or None; time: ps, or None where it is not known
    """

    numbers: NDArray[np.int64]
    masses: Array
    positions: Array
    cell: Array
    pbc: NDArray[np.bool_]
    velocities: Array | None = None
    energy: float | None = None
    step: int | None = None
    time: float | None = None
    unwrapped: bool = False

    def system(self) -> System:
        """Raises StructureError where positions or cell are not finite or have no volume."""
        return System.make(self.positions, self.numbers, self.cell, self.pbc)


class Unwrapper:
    """Positions without jumps across the cell: each frame at the images nearest to the one before.

    What the engine unwrapped itself is kept, unless the cell changes: there nearest images in the
    cell of the moment are followed, because an image's number times a fluctuating cell is no
    displacement (von Bülow, Bullerjahn and Hummer, J. Chem. Phys. 153, 021101 (2020)).
    farthest: the longest step between two frames so far, as a part of the cell; from a half on it
    is another image that is nearest
    """

    def __init__(self) -> None:
        self._last: Array | None = None
        self._read: Array | None = None
        self._frame: Frame | None = None
        self._first: System | None = None
        self._known = False  # where the last frame's atoms are, across the cell
        self.farthest = 0.0
        self.cell_changes = False

    def __call__(self, snapshot: Snapshot) -> Array:
        """[n_atoms, 3] Å. Raises StructureError as `Snapshot.system` does."""
        system = snapshot.system()
        if self._last is None or self._read is None or self._frame is None or self._first is None:
            self._frame, self._first = Frame.of(system), system
            self._last = self._read = system.positions
            self._known = snapshot.unwrapped
            return self._last
        if not self._frame.fits(system):
            self._frame = Frame.of(system)
            self.cell_changes = self.cell_changes or not (
                np.array_equal(system.pbc, self._first.pbc)
                and system.has_cell(self._first.cell, SAME_CELL)
            )
        moved = system.positions - self._read
        known = snapshot.unwrapped and self._known and not self.cell_changes
        self._known = snapshot.unwrapped
        if not known:
            moved = self._frame.nearest_images(system.positions, self._read) - self._read
            parts = np.abs(moved @ self._frame.inverse)[:, self._frame.periodic]
            self.farthest = max(self.farthest, float(parts.max(initial=0.0)))
        self._last = self._last + moved
        self._read = system.positions
        return self._last
