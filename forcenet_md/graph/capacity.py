"""How many neighbour pairs a search would find, known before it allocates anything."""

from __future__ import annotations

from itertools import product
from math import ceil, pi

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import TooManyEdgesError
from forcenet_md.graph.frame import Placement

MANY = 500  # neighbours of an atom, where networks are slow
MOST_BINS = 2**20  # along one direction; three of them fit an int64 key


def many_neighbours(n_atoms: int, cell: NDArray[np.float64], reach: float) -> str:
    """A sentence where atoms of a cell (rows, Å) have more than MANY neighbours within reach Å, by
    the mean density; "" elsewhere, and without a cell."""
    volume = abs(float(np.linalg.det(cell)))
    expected = n_atoms / volume * 4.0 / 3.0 * pi * reach**3 if volume > 0.0 else 0.0
    if expected <= MANY:
        return ""
    return (
        f"each atom has about {expected:.0f} neighbours within the cutoff of {reach:g} Å: a step"
        " takes time and memory in proportion; 5 to 8 Å are usual"
    )


def check_capacity(placement: Placement, reach: float, max_edges: int) -> None:
    """Raises TooManyEdgesError if more than max_edges ordered pairs lie within reach Å.

    Ordinary systems pass by the cheap bound; only where that exceeds max_edges are pairs
    counted, without being stored.
    """
    if pair_bound(placement, reach) <= max_edges:
        return
    pairs = count_pairs(placement, reach, max_edges)
    if pairs is None or pairs > max_edges:
        found = "too many" if pairs is None else f"{pairs}"
        raise TooManyEdgesError(
            f"{len(placement.tight)} atoms have {found} neighbour pairs within {reach:g} Å where at"
            f" most {max_edges} are allowed: atoms lie on top of one another, the cell is far"
            " smaller than it should be, or it is too large for the limit (--max-edges of serve)."
        )


def pair_bound(placement: Placement, reach: float) -> int:
    """Pairs of atoms in the same or in touching bins at least `reach` wide: an upper bound on the
    ordered pairs within `reach` Å, self-images included.

    About 6.4 times the pairs of a dense system. Time and memory of order n_atoms.
    """
    columns: list[NDArray[np.int64]] = []
    sizes: list[int] = []
    wraps: list[int] = []
    steps: list[tuple[int, ...]] = []
    images = 1.0
    for k in range(3):
        along, length = placement.along[:, k], placement.lengths[k]
        n_bins = int(np.clip(length // reach, 1, MOST_BINS))
        index = np.clip(along / length * n_bins, 0, n_bins - 1).astype(np.int64)
        if not placement.closed[k]:
            # a free bin at both ends keeps the neighbours of the last from being the first
            columns.append(index + 1)
            sizes.append(n_bins + 2)
        else:
            columns.append(index)
            sizes.append(n_bins)
        wraps.append(sizes[-1])
        if n_bins > 1:
            steps.append((-1, 0, 1))
        else:
            steps.append((0,))
            if placement.closed[k]:
                images *= 2 * ceil(reach / length) + 1
    key = (columns[0] * sizes[1] + columns[1]) * sizes[2] + columns[2]
    bins, counts = np.unique(key, return_counts=True)
    weights = counts.astype(np.float64)
    index3 = np.stack(np.unravel_index(bins, sizes))
    total = 0.0
    for step in product(*steps):
        near = (index3 + np.array(step)[:, None]) % np.array(wraps)[:, None]
        near_key = (near[0] * sizes[1] + near[1]) * sizes[2] + near[2]
        at = np.minimum(np.searchsorted(bins, near_key), len(bins) - 1)
        total += float(weights @ (weights[at] * (bins[at] == near_key)))
    return int(total * images) - len(placement.tight)


def count_pairs(placement: Placement, reach: float, most: int) -> int | None:
    """The ordered pairs within reach, or None if even the images to look at exceed `most`."""
    from scipy.spatial import cKDTree  # half of scipy: only where pairs must be counted

    points = placement.tight
    along = placement.along
    for k in np.flatnonzero(placement.closed):
        length = float(placement.lengths[k])
        n_images = ceil(reach / length)
        if (2 * n_images - 1) * len(points) > most:
            return None
        shifts = [
            (s, np.flatnonzero(np.abs(along[:, k] / length + s - 0.5) <= 0.5 + reach / length))
            for s in range(-n_images, n_images + 1)
        ]
        if sum(len(rows) for _, rows in shifts) > most:
            return None
        points = np.concatenate([points[rows] + s * placement.box[k] for s, rows in shifts])
        along = np.concatenate([along[rows] for _, rows in shifts])
    pairs = cKDTree(placement.tight).count_neighbors(cKDTree(points), reach)
    return int(pairs) - len(placement.tight)
