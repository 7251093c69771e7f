"""Rotation instability: how far predictions are from turning with the structure.

ForceNet's forces are not rotation-covariant by construction (Hu et al. 2021, arXiv:2103.01436).
Table 1 of the paper measures it: structures are turned at random about the vertical axis, the
predicted forces are turned back, and the standard deviation over the turns is averaged over the
free atoms. A covariant model has 0. The paper took 1000 structures and 100 turns of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.spatial.transform import Rotation

from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.evaluation.cases import Case
from forcenet_md.system import Forces, System

Array = NDArray[np.float64]
Axis = Literal["z", "so3"]
Predict = Callable[[Sequence[Case]], list[Forces | ForceNetError]]


class Instability(BaseModel):
    """eV/Å, over components of free atoms (all atoms of a frame where none is free).

    standard_deviation: of a component over the turns (n − 1 in the denominator), averaged
    deviation: mean absolute difference to the prediction for the structure as it stands
    axis: turned about z, or about a random axis (so3)
    """

    standard_deviation: float
    deviation: float
    axis: Axis
    n_rotations: int
    n_frames: int


def instability(
    predict: Predict, cases: Sequence[Case], n_rotations: int, axis: Axis = "z", seed: int = 0
) -> Instability | None:
    """Instability over the cases, every atom with the same weight; None without cases.

    predict: forces of a batch of cases. n_rotations: at least 2, for each case.
    Raises EvaluationError when the model has no forces for a turned structure.
    """
    if n_rotations < 2:
        raise ValueError("a standard deviation needs two rotations")
    rng = np.random.default_rng(seed)
    spread, deviation, n_atoms = 0.0, 0.0, 0
    for case in cases:
        turns = random_turns(n_rotations, axis, rng)
        straight, *turned = _forces(predict, [case, *(turn(case, matrix) for matrix in turns)])
        back = np.stack([f @ matrix for f, matrix in zip(turned, turns, strict=True)])
        counted = ~case.fixed if not case.fixed.all() else case.fixed
        spread += back.std(axis=0, ddof=1)[counted].mean(axis=1).sum()
        deviation += np.abs(back - straight).mean(axis=(0, 2))[counted].sum()
        n_atoms += int(counted.sum())
    if n_atoms == 0:
        return None
    return Instability(
        standard_deviation=spread / n_atoms,
        deviation=deviation / n_atoms,
        axis=axis,
        n_rotations=n_rotations,
        n_frames=len(cases),
    )


def random_turns(n: int, axis: Axis, rng: np.random.Generator) -> Array:
    """[n, 3, 3] rotation matrices: uniform angles about z, or uniform on SO(3)."""
    if axis == "z":
        return Rotation.from_euler("z", rng.uniform(0.0, 2.0 * np.pi, (n, 1))).as_matrix()
    return Rotation.random(n, rng).as_matrix()


def turn(case: Case, matrix: Array) -> Case:
    """The structure with its cell turned: x → x·matrixᵀ. Labels turn with it."""
    system = System.make(
        case.system.positions @ matrix.T,
        case.system.numbers,
        case.system.cell @ matrix.T,
        case.system.pbc,
    )
    return Case(case.row, system, case.forces @ matrix.T, case.energy, case.fixed)


def _forces(predict: Predict, cases: Sequence[Case]) -> list[Array]:
    found = []
    for case, answer in zip(cases, predict(cases), strict=True):
        if isinstance(answer, ForceNetError):
            raise EvaluationError(f"frame {case.row} of the data, turned: {answer}")
        found.append(answer.forces)
    return found
