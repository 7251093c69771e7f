"""The surroundings of a rank's atoms: images of atoms, its own and those of other ranks.

An image is an atom seen through a lattice shift. However many images of a remote atom a rank sees,
it is one ghost: one row of node features, which the exchange refreshes (graph/exchange.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import TooManyEdgesError
from forcenet_md.graph.frame import Array, Frame
from forcenet_md.mpi import Ranks

MOST_IMAGES = 20_000  # of a cell, about those of a cube of half an Å
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A rank's atoms, which come first, and the images that they may see.

    positions: [n_points, 3] Å; numbers, ids: [n_points], of the atoms
    rank, row: [n_points], which rank owns the atom, and in which of its rows
    shift: [n_points, 3] lattice shift S from some image of the atom, the same for all its points
    """

    n_owned: int
    positions: Array
    numbers: Rows
    ids: Rows
    rank: Rows
    row: Rows
    shift: Rows

    @property
    def n_points(self) -> int:
        return len(self.ids)


def surroundings(
    ids: Rows, numbers: Rows, positions: Array, frame: Frame, reach: float, ranks: Ranks
) -> Surroundings:
    """Of atoms that every rank has some of: what lies within reach Å of a rank's own. Collective.

    ids: [n_owned] different on all ranks; numbers [n_owned]; positions [n_owned, 3] Å, of atoms
    that lie together, wherever they are wrapped. A rank may have none. Raises TooManyEdgesError,
    on all ranks, for a cell that is absurdly small.
    """
    images = np.prod(2.0 * np.ceil(reach / frame.heights[frame.periodic]) + 1.0)
    if images > MOST_IMAGES:
        raise TooManyEdgesError(
            f"an atom would see {images:.0f} images of the cell within {reach:g} Å: the cell is far"
            " smaller than it should be."
        )
    along = (positions @ frame.inverse) * frame.heights
    bounds = np.array([[np.inf] * 3, [-np.inf] * 3])
    if len(ids):
        bounds = np.array([along.min(axis=0), along.max(axis=0)])
    parcels = {}
    for other, (low, high) in enumerate(ranks.allgather(bounds)):
        row, shift = images_near(along, bounds, low - reach, high + reach, frame)
        if other == ranks.rank:
            seen = shift.any(axis=1)
            row, shift = row[seen], shift[seen]
        if len(row):
            rows, place = np.unique(row, return_inverse=True)
            parcels[other] = rows, place, shift, ids[rows], numbers[rows], positions[rows]
    parts = [(np.arange(len(ids)), np.zeros((len(ids), 3), np.int64), ids, numbers, positions)]
    owners = [np.full(len(ids), ranks.rank)]
    for other, (rows, place, shift, i, z, x) in sorted(ranks.swap(parcels).items()):
        owners.append(np.full(len(place), other))
        parts.append((rows[place], shift, i[place], z[place], x[place] + shift @ frame.rows))
    row, shift, i, z, x = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Surroundings(len(ids), x, z, i, np.concatenate(owners), row, shift)


def images_near(
    along: Array, bounds: Array, low: Array, high: Array, frame: Frame
) -> tuple[Rows, Rows]:
    """The images of atoms in a brick: their rows [n_images] and lattice shifts [n_images, 3].

    along: [n, 3] Å, distance of the atoms from the planes of the cell
    bounds: [2, 3] Å, the least and the most of them; low, high: [3] Å, the brick
    """
    if not (np.isfinite(bounds).all() and np.isfinite(low).all()):
        return np.empty(0, np.int64), np.empty((0, 3), np.int64)
    steps = []
    for k in range(3):
        if not frame.periodic[k]:
            steps.append(range(1))
            continue
        height = frame.heights[k]
        first, last = (low[k] - bounds[1, k]) / height, (high[k] - bounds[0, k]) / height
        steps.append(range(ceil(first - 1e-9), floor(last + 1e-9) + 1))
    rows, shifts = [np.empty(0, np.int64)], [np.empty((0, 3), np.int64)]
    for step in product(*steps):
        moved = along + np.array(step) * frame.heights
        inside = np.flatnonzero(((moved >= low) & (moved <= high)).all(axis=1))
        rows.append(inside)
        shifts.append(np.broadcast_to(np.array(step, np.int64), (len(inside), 3)))
    return np.concatenate(rows), np.concatenate(shifts)
