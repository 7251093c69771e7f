"""Where atoms lie for a neighbour search: wrapped into the cell, without the empty space.

Three directions span every System: its periodic lattice vectors and, for the directions that
are not periodic, unit vectors normal to them (whatever the cell has there, zeros included).
A direction with a gap wider than the search radius is open: no pair reaches across the gap, so
it is cut there and the gaps are closed up. The search then meets neither empty nor huge cells,
however far apart the atoms are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forcenet_md.system import System

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Frame:
    """Three linearly independent directions of a System.

    rows: [3, 3] Å; periodic directions as in the cell, others unit normals
    inverse: [3, 3] 1/Å; positions @ inverse are fractional coordinates
    heights: [3] Å, distance between the planes that each direction joins
    periodic: [3] bool
    """

    rows: Array
    inverse: Array
    heights: Array
    periodic: NDArray[np.bool_]

    @classmethod
    def of(cls, system: System) -> Frame:
        periodic = system.pbc
        rows = np.eye(3)
        if periodic.any():
            rows[periodic] = system.cell[periodic]
            _, _, directions = np.linalg.svd(system.cell[periodic])
            rows[~periodic] = directions[periodic.sum() :]
        inverse = np.linalg.inv(rows).astype(np.float64)
        heights = 1.0 / np.linalg.norm(inverse, axis=0)
        return cls(rows, inverse, heights, periodic.copy())

    def fits(self, system: System) -> bool:
        """Whether the System still has these periodic directions and lattice vectors."""
        return np.array_equal(self.periodic, system.pbc) and np.array_equal(
            self.rows[self.periodic], system.cell[self.periodic]
        )

    def nearest_images(self, positions: Array, reference: Array) -> Array:
        """Positions [n, 3] moved by lattice vectors to where reference [n, 3] lies."""
        shifts = np.rint((positions - reference) @ self.inverse)
        shifts[:, ~self.periodic] = 0.0
        return positions - shifts @ self.rows if shifts.any() else positions.copy()


@dataclass(frozen=True, slots=True)
class Placement:
    """The atoms of a System, made ready for a search within `reach`.

    wrapped: [n, 3] Å, the positions moved by lattice vectors
    tight: [n, 3] Å, the same with the gaps closed up; pairs within reach keep their vector
    along: [n, 3] Å, the distance of `tight` from the planes normal to each direction
    box: [3, 3] Å, lattice vectors of `tight`; open directions end in an empty gap
    lengths: [3] Å, heights of the box
    closed: [3] bool, directions in which pairs meet across the cell's faces
    """

    wrapped: Array
    tight: Array
    along: Array
    box: Array
    lengths: Array
    closed: NDArray[np.bool_]

    @classmethod
    def of(cls, positions: Array, frame: Frame, reach: float) -> Placement:
        """positions [n, 3] Å, anywhere; reach Å."""
        if len(positions) == 0:
            return cls(positions, positions, positions, frame.rows, frame.heights, frame.periodic)
        shifts = np.floor(positions @ frame.inverse)
        shifts[:, ~frame.periodic] = 0.0
        wrapped = positions - shifts @ frame.rows
        along = (wrapped @ frame.inverse) * frame.heights
        lengths = frame.heights.copy()
        closed = frame.periodic.copy()
        for k in range(3):
            order = np.argsort(along[:, k], kind="stable")
            sorted_along = along[order, k]
            gaps = np.diff(sorted_along)
            first = 0
            if closed[k]:
                gaps = np.append(gaps, lengths[k] - sorted_along[-1] + sorted_along[0])
                widest = int(np.argmax(gaps))
                if gaps[widest] <= 1.01 * reach:
                    continue
                closed[k] = False
                first = (widest + 1) % len(order)
                order, gaps = np.roll(order, -first), np.roll(gaps, -first)[:-1]
                wrapped[order[: len(order) - first]] -= frame.rows[k] * (first > 0)
            along[order, k] = np.append(0.0, np.cumsum(np.minimum(gaps, 1.01 * reach)))
            lengths[k] = along[order[-1], k] + 1.01 * reach
        tight = (along / frame.heights) @ frame.rows
        box = frame.rows * (lengths / frame.heights)[:, None]
        return cls(wrapped, tight, along, box, lengths, closed)
