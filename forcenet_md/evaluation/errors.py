"""Errors of forces as sums over atoms: batches are added one after the other and dropped.

Every figure is a quotient of sums over atoms, so a batch becomes one table of measures
[n_atoms, 16] and a group (an element, the free atoms, a temperature) one row of sums; memory does
not grow with the data. All forces are in eV/Å.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from forcenet_md.force_error import ForceError

Array = NDArray[np.float64]
Index = NDArray[np.int64]

# Of the Open Catalyst Project's "energy and forces within threshold" (Chanussot et al. 2021,
# ACS Catal. 11, 6059): every component's error below 0.03 eV/Å.
THRESHOLD = 0.03
# Below it a direction is noise; the cosine is over atoms whose label is at least so long.
COSINE_FLOOR = 0.03

# Columns of `measures`.
ABS, SQUARE, LABEL = slice(0, 3), slice(3, 6), slice(6, 9)
ERROR_NORM, LABEL_NORM, COSINE, DIRECTED, MAGNITUDE, WITHIN, COUNT = range(9, 16)
N_MEASURES = 16


class Figures(BaseModel):
    """Errors of a group of atoms, eV/Å; None where the group has no atom that it is defined for.

    mae, rmse: of a component, over all components; mae_xyz, rmse_xyz: for each direction
    mean_abs_force: mean |F| over components of the labels; relative: mae / mean_abs_force
    error_norm, force_norm: mean length of the error vector and of the label
    cosine: mean cosine between prediction and label, over the n_cosine atoms whose label is at
        least COSINE_FLOOR long; a prediction of zero counts as 0
    magnitude_error: mean difference of the lengths of prediction and label, without its sign
    within: fraction of atoms with every component's error below THRESHOLD
    """

    n_frames: int
    n_atoms: int
    mae: float
    rmse: float
    mae_xyz: list[float]
    rmse_xyz: list[float]
    mean_abs_force: float
    relative: float | None
    error_norm: float
    force_norm: float
    cosine: float | None
    n_cosine: int
    magnitude_error: float
    within: float


def measures(labels: Array, predicted: Array) -> Array:
    """[n_atoms, 16] of forces [n_atoms, 3]: what the figures are sums of."""
    out = np.empty((len(labels), N_MEASURES))
    error = predicted - labels
    label_norm = np.linalg.norm(labels, axis=1)
    predicted_norm = np.linalg.norm(predicted, axis=1)
    product = label_norm * predicted_norm
    directed = label_norm >= COSINE_FLOOR
    cosine = np.einsum("ij,ij->i", labels, predicted) / np.where(product > 0.0, product, 1.0)
    out[:, ABS] = np.abs(error)
    out[:, SQUARE] = error**2
    out[:, LABEL] = np.abs(labels)
    out[:, ERROR_NORM] = np.linalg.norm(error, axis=1)
    out[:, LABEL_NORM] = label_norm
    out[:, COSINE] = np.where(directed, cosine, 0.0)
    out[:, DIRECTED] = directed
    out[:, MAGNITUDE] = np.abs(predicted_norm - label_norm)
    out[:, WITHIN] = (out[:, ABS] < THRESHOLD).all(axis=1)
    out[:, COUNT] = 1.0
    return out


class Sums:
    """Sums of measures for each of a fixed number of groups."""

    def __init__(self, n_groups: int = 1) -> None:
        self.table = np.zeros((n_groups, N_MEASURES))
        self.n_frames = np.zeros(n_groups, dtype=np.int64)

    def add(self, rows: Array, group: Index, frame: Index) -> None:
        """Add atoms: measures [n, 16], the group of each [n], the frame of each [n]."""
        order = np.argsort(group, kind="stable")
        found, first = np.unique(group[order], return_index=True)
        if len(found):
            self.table[found] += np.add.reduceat(rows[order], first)
        seen = np.unique(frame * len(self.table) + group) % len(self.table)
        self.n_frames += np.bincount(seen, minlength=len(self.table))

    def figures(self, group: int = 0) -> Figures | None:
        """None for a group without atoms."""
        row = self.table[group]
        n = int(row[COUNT])
        if n == 0:
            return None
        error = ForceError(row[ABS].sum(), row[LABEL].sum(), 3 * n, int(self.n_frames[group]))
        n_cosine = int(row[DIRECTED])
        return Figures(
            n_frames=error.n_frames,
            n_atoms=n,
            mae=error.mae,
            rmse=float(np.sqrt(row[SQUARE].sum() / (3 * n))),
            mae_xyz=(row[ABS] / n).tolist(),
            rmse_xyz=np.sqrt(row[SQUARE] / n).tolist(),
            mean_abs_force=error.mean_force,
            relative=error.relative if error.size > 0.0 else None,
            error_norm=row[ERROR_NORM] / n,
            force_norm=row[LABEL_NORM] / n,
            cosine=row[COSINE] / n_cosine if n_cosine else None,
            n_cosine=n_cosine,
            magnitude_error=row[MAGNITUDE] / n,
            within=row[WITHIN] / n,
        )


class Sample:
    """At most `capacity` rows of a stream, every row equally likely to be among them.

    Reservoir sampling (algorithm R: Vitter, ACM Trans. Math. Softw. 11, 37, 1985), seeded; while
    no more rows than that have come it holds them all, in order.
    """

    def __init__(self, width: int, capacity: int = 200_000) -> None:
        self._rows = np.empty((0, width))
        self._capacity = capacity
        self._rng = np.random.default_rng(0)
        self.n_seen = 0

    @property
    def rows(self) -> Array:
        return self._rows

    @property
    def complete(self) -> bool:
        return self.n_seen == len(self._rows)

    def add(self, rows: Array) -> None:
        free = self._capacity - len(self._rows)
        if free > 0:
            self._rows = np.concatenate([self._rows, rows[:free]])
            self.n_seen += len(rows[:free])
            rows = rows[free:]
        place = self._rng.integers(0, self.n_seen + 1 + np.arange(len(rows)))
        kept = place < self._capacity
        self._rows[place[kept]] = rows[kept]  # of two for one place the later one stays
        self.n_seen += len(rows)


def starts(counts: Sequence[int]) -> Index:
    """The first atom of each structure, where structures lie behind one another."""
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
