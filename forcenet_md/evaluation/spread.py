"""How well the spread of a committee tells its error, atom by atom.

The spread of an atom (inference/committee.py) and the length of the error of the mean force are
both distances in eV/Å. Where the spread tells the error, atoms put in order of the one are in order
of the other: Spearman's rank correlation is 1, and the mean error grows from tenth to tenth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.stats import spearmanr

from forcenet_md.evaluation.errors import Sample

Array = NDArray[np.float64]

N_PARTS = 10


class Tenth(BaseModel):
    """Mean spread and mean length of the error of a tenth of the atoms, eV/Å."""

    spread: float
    error: float


class Spread(BaseModel):
    """Of free atoms (all where none is free), eV/Å.

    mean, mean_error: mean spread, and mean length of the error
    spearman: rank correlation of the two; None where one of them is the same for every atom
    tenths: of the atoms in order of their spread, the smallest first; fewer for under ten atoms
    n_sampled: atoms it is from; exact if all were
    """

    mean: float
    mean_error: float
    spearman: float | None
    tenths: list[Tenth]
    n_sampled: int
    exact: bool


def judge_spread(sample: Sample) -> Spread | None:
    """None for a model without a spread. sample: of atoms, with columns as of `Outcome`."""
    if np.isnan(sample.rows[:, 8]).any():
        return None
    spread, error = spread_and_error(sample)
    order = np.argsort(spread, kind="stable")
    parts = np.array_split(order, min(N_PARTS, len(order)))
    ranked = spread.min() < spread.max() and error.min() < error.max()
    return Spread(
        mean=float(spread.mean()),
        mean_error=float(error.mean()),
        spearman=float(spearmanr(spread, error).statistic) if ranked else None,
        tenths=[
            Tenth(spread=float(spread[part].mean()), error=float(error[part].mean()))
            for part in parts
        ],
        n_sampled=len(spread),
        exact=sample.complete,
    )


def spread_and_error(sample: Sample) -> tuple[Array, Array]:
    """[n_atoms] each, eV/Å: of the free atoms of a sample, of all where none is free."""
    rows = sample.rows
    free = rows[:, 7] == 0.0
    rows = rows[free] if free.any() else rows
    return rows[:, 8], np.linalg.norm(rows[:, 3:6] - rows[:, :3], axis=1)
