"""Augmentation: rotations, inversion, and displaced atoms that are to go back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from forcenet_md.training.config import AugmentationConfig

Array = NDArray[np.float64]
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Augmented:
    """matrix: [3, 3] orthogonal, x → x·matrixᵀ; displacement: [n_atoms, 3] Å, before turning;
    added_force: [n_atoms, 3] eV/Å, to the labels, before turning."""

    matrix: Array
    displacement: Array
    added_force: Array


def random_matrix(rotations: str, inversion: bool, rng: Rng) -> Array:
    """[3, 3] orthogonal matrix: 'so3' uniform, 'z' about z, 'none'; inverted half of the time."""
    if rotations == "z":
        matrix = Rotation.from_euler("z", rng.uniform(0.0, 2.0 * np.pi)).as_matrix()
    elif rotations == "so3":
        matrix = Rotation.random(random_state=rng).as_matrix()
    else:
        matrix = np.eye(3)
    return matrix * rng.choice([-1.0, 1.0]) if inversion else matrix


def augment(config: AugmentationConfig, fixed: NDArray[np.bool_], rng: Rng) -> Augmented:
    """What one frame goes through; fixed [n_atoms] are not displaced.

    The label of a displaced atom becomes F − restore·ξ, F the force of the frame as it was and ξ
    the displacement: near a minimum the true force changes so, with the Hessian for `restore`.
    """
    matrix = random_matrix(config.rotations, config.inversion, rng)
    displacement = np.zeros((len(fixed), 3))
    if config.noise > 0.0 and rng.random() < config.noise_share:
        displacement = rng.normal(0.0, config.noise, displacement.shape)
        displacement[fixed] = 0.0
    return Augmented(matrix, displacement, -config.restore * displacement)
