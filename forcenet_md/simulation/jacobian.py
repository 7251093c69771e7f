"""How far forces are from a gradient: λ = ‖A‖ / ‖J‖, A the antisymmetric part of J = ∂F/∂x.

The measure is that of Bigi, Langer and Ceriotti (arXiv:2412.11569); forces that are a gradient have
0. J is never formed: it is applied to k random orthonormal directions Q [n, k], by central
differences of the forces as they are served. Of such directions

    E ‖J Q‖² = (k / n) ‖J‖²,      E ‖(M − Mᵀ) / 2‖² = k (k − 1) / (n (n − 1)) ‖A‖²,   M = Qᵀ J Q

(Frobenius norms): the first because E q qᵀ = 1 / n, the second because Qᵀ A Q keeps of an
antisymmetric A, on average, the share of the planes that k directions span. Both are without bias,
and exact with k = n. The net force is part of J as it is served: where it is taken out, J is
projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from forcenet_md.simulation.probed import Array, Asker, Structure

STEP = 1e-4  # Å, root mean square over coordinates; the error goes with its square, 5e-7 of ‖J‖
CHECKED = 4  # directions whose images are taken with twice the step as well


class Lambda(BaseModel):
    """λ of all frames together, √(Σ ‖A‖² / Σ ‖J‖²).

    standard_error: of the choice of directions; a jackknife, which is too large by up to √2
    frames: of each frame
    norm: ‖J‖ / √n, a typical force constant, eV/Å²
    step_error: ‖ΔJQ‖ / ‖JQ‖ between the step and twice the step; λ below it is none
    n_directions, n_coordinates: of the first frame
    """

    value: float
    standard_error: float
    frames: list[float]
    norm: float
    step_error: float
    n_directions: int
    n_coordinates: int

    @property
    def seen(self) -> bool:
        """Whether it is more than the finite differences and the directions leave open."""
        return self.value > self.step_error and self.value > 2.0 * self.standard_error


@dataclass(frozen=True, slots=True)
class Images:
    """directions: [n, k] orthonormal, over the coordinates of free atoms; images: [n, k], J of
    them, eV/Å²"""

    directions: Array
    images: Array

    def squares(self) -> tuple[float, float]:
        """‖A‖² and ‖J‖², eV²/Å⁴."""
        pairs, lengths = self._parts()
        return self._scaled(pairs.sum(), lengths.sum(), len(lengths))

    def leaving_one_out(self) -> Array:
        """[k, 2]: the same without each direction."""
        pairs, lengths = self._parts()
        k = len(lengths)
        left = [
            self._scaled(pairs.sum() - 2.0 * pairs[i].sum(), lengths.sum() - lengths[i], k - 1)
            for i in range(k)
        ]
        return np.array(left)

    def _parts(self) -> tuple[Array, Array]:
        products = self.directions.T @ self.images
        return (0.5 * (products - products.T)) ** 2, (self.images**2).sum(axis=0)

    def _scaled(self, pairs: float, lengths: float, k: int) -> tuple[float, float]:
        n = len(self.directions)
        return pairs * n * (n - 1) / (k * (k - 1)), lengths * n / k


def take_images(
    asker: Asker, structure: Structure, n_directions: int, rng: np.random.Generator
) -> Images:
    """J of at most so many random directions, 3 or more. Raises EvaluationError and Stopped."""
    n = 3 * int(structure.free.sum())
    directions, _ = np.linalg.qr(rng.normal(size=(n, min(n_directions, n))))
    return Images(directions, apply(asker, structure, directions, STEP))


def apply(asker: Asker, structure: Structure, directions: Array, step: float) -> Array:
    """[n, k] eV/Å²: J of unit directions [n, k]; step: Å, root mean square over coordinates."""
    n, k = directions.shape
    length = step * np.sqrt(n)
    x = structure.system.positions
    ways = []
    for direction in directions.T:
        by = np.zeros_like(x)
        by[structure.free] = length * direction.reshape(-1, 3)
        ways += [x + by, x - by]
    forces = asker.forces(structure, ways)[:, structure.free].reshape(k, 2, n)
    return ((forces[:, 0] - forces[:, 1]) / (2.0 * length)).T


def step_error(asker: Asker, structure: Structure, found: Images) -> float:
    """See `Lambda`. Raises EvaluationError and Stopped."""
    few = found.directions[:, :CHECKED]
    once = found.images[:, :CHECKED]
    size = np.linalg.norm(once)
    if size == 0.0:
        return 0.0
    return float(np.linalg.norm(apply(asker, structure, few, 2.0 * STEP) - once) / size)


def estimate(frames: Sequence[Images], error_of_step: float) -> Lambda:
    """λ with its error, from what was found for each frame."""
    squares = np.array([images.squares() for images in frames])
    total = squares.sum(axis=0)
    variance = 0.0
    for images, own in zip(frames, squares, strict=True):
        n, k = images.directions.shape
        if k < n:  # else it is exact
            left = [_ratio(*(total - own + other)) for other in images.leaving_one_out()]
            variance += (1.0 - k / n) * (k - 1) * float(np.var(left))
    n, k = frames[0].directions.shape
    n_all = sum(len(images.directions) for images in frames)
    return Lambda(
        value=_ratio(*total),
        standard_error=float(np.sqrt(variance)),
        frames=[_ratio(*own) for own in squares],
        norm=float(np.sqrt(total[1] / n_all)),
        step_error=error_of_step,
        n_directions=k,
        n_coordinates=n,
    )


def _ratio(antisymmetric: float, whole: float) -> float:
    return float(np.sqrt(antisymmetric / whole)) if whole > 0.0 else 0.0
