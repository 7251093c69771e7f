"""λ against dense Jacobians, made-up fields whose λ is known, and potentials, which have none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from fields import Field

from forcenet_md.inference.interface import Evaluator
from forcenet_md.inference.load import load_evaluator
from forcenet_md.simulation import jacobian
from forcenet_md.simulation.jacobian import Images, estimate, take_images
from forcenet_md.simulation.probed import Asker, Structure


def cluster(n: int = 5, seed: int = 0) -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms("Cu" * n, rng.uniform(0.0, 4.0, (n, 3)) + 4.0 * np.arange(n)[:, None])


def crystal(seed: int = 0) -> Atoms:
    """Four atoms of the alloy's elements."""
    atoms = bulk("Cu", cubic=True, a=3.95)
    atoms.numbers = [29, 46, 47, 79]
    atoms.rattle(0.15, seed=seed)
    return atoms


def structure_of(atoms: Atoms, evaluator: Evaluator) -> Structure:
    return Structure.of(atoms, "it", evaluator.capabilities)


def measured(
    evaluator: Evaluator, frames: Sequence[Atoms], n_directions: int, seed: int = 0
) -> jacobian.Lambda:
    rng, asker = np.random.default_rng(seed), Asker(evaluator)
    images = [take_images(asker, structure_of(a, evaluator), n_directions, rng) for a in frames]
    error = jacobian.step_error(asker, structure_of(frames[0], evaluator), images[0])
    return estimate(images, error)


def dense(forces: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """∂F/∂x by fourth-order differences, one coordinate after another."""
    columns = []
    for k in range(x.size):
        step = np.zeros(x.size)
        step[k] = 2e-3
        step = step.reshape(x.shape)
        near = forces(x + step) - forces(x - step)
        far = forces(x + 2 * step) - forces(x - 2 * step)
        columns.append(((8.0 * near - far) / (12.0 * 2e-3)).ravel())
    return np.stack(columns, axis=1)


def ratio(matrix: np.ndarray) -> float:
    return float(np.linalg.norm(matrix - matrix.T) / 2.0 / np.linalg.norm(matrix))


def linear(n_atoms: int, seed: int = 1) -> tuple[Field, np.ndarray]:
    """F = x Aᵀ of a random matrix."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(3 * n_atoms, 3 * n_atoms))
    matrix = matrix + 3.0 * matrix.T
    return Field(lambda x: (matrix @ x.ravel()).reshape(-1, 3)), matrix


def test_all_directions_give_the_ratio_of_a_matrix_exactly() -> None:
    field, matrix = linear(5)
    found = measured(field, [cluster()], 100)
    assert found.n_directions == found.n_coordinates == 15
    assert found.value == pytest.approx(ratio(matrix), rel=1e-9)
    assert found.norm == pytest.approx(np.linalg.norm(matrix) / np.sqrt(15), rel=1e-9)
    assert found.standard_error == 0.0
    assert found.step_error < 1e-8


def test_few_directions_are_without_bias_and_their_error_is_not_too_small() -> None:
    """Over many draws: the mean of both squares, and how far λ is spread."""
    n, k, draws = 24, 6, 1500
    matrix = linear(n // 3)[1]
    rng = np.random.default_rng(2)
    squares, found = [], []
    for _ in range(draws):
        q, _ = np.linalg.qr(rng.normal(size=(n, k)))
        images = Images(q, matrix @ q)
        squares.append(images.squares())
        found.append(estimate([images], 0.0))
    true = [np.linalg.norm(matrix - matrix.T) ** 2 / 4.0, np.linalg.norm(matrix) ** 2]
    error = np.std(squares, axis=0) / np.sqrt(draws)
    assert (np.abs(np.mean(squares, axis=0) - true) < 4.0 * error).all()
    assert (error < 0.02 * np.array(true)).all()
    spread = np.std([each.value for each in found])
    told = np.sqrt(np.mean([each.standard_error**2 for each in found]))
    assert spread < told < 1.6 * spread


def test_frames_are_taken_together() -> None:
    field, matrix = linear(4)
    double = Field(lambda x: 2.0 * field.force(x))
    asker = Asker(field)
    rng = np.random.default_rng(0)
    one = take_images(asker, structure_of(cluster(4), field), 12, rng)
    other = take_images(Asker(double), structure_of(cluster(4), double), 12, rng)
    found = estimate([one, other], 0.0)
    assert found.frames == pytest.approx([ratio(matrix)] * 2)
    assert found.norm == pytest.approx(np.linalg.norm(matrix) * np.sqrt(5.0 / 24.0))


def test_held_atoms_have_no_part() -> None:
    field, matrix = linear(5)
    atoms = cluster()
    atoms.set_constraint(FixAtoms([1, 3]))
    found = measured(field, [atoms], 100)
    free = np.flatnonzero(np.repeat([True, False, True, False, True], 3))
    assert found.n_coordinates == 9
    assert found.value == pytest.approx(ratio(matrix[np.ix_(free, free)]), rel=1e-9)


@pytest.mark.parametrize("held", [False, True])
def test_a_model_as_its_dense_jacobian(held: bool) -> None:
    """Of the forces as they are served: without the net force."""
    evaluator = load_evaluator("alloy", dtype="float64")
    atoms = crystal()
    if held:
        atoms.set_constraint(FixAtoms([0]))
    structure = structure_of(atoms, evaluator)
    asker = Asker(evaluator)
    matrix = dense(lambda x: asker.forces(structure, [x])[0], atoms.positions)
    if held:
        matrix = matrix[3:, 3:]
    else:
        np.testing.assert_allclose(matrix.reshape(4, 3, 12).sum(axis=0), 0.0, atol=1e-8)
    found = measured(evaluator, [atoms], 100)
    assert found.value == pytest.approx(ratio(matrix), rel=1e-4)
    assert found.value > 1e-3
    assert found.seen
    part = measured(evaluator, [atoms], 6)
    assert abs(part.value - ratio(matrix)) < 4.0 * part.standard_error


@pytest.mark.parametrize("spec", ["ase:emt", "ase:lj,sigma=2.2,rc=6,smooth=true"])
def test_a_potential_has_none_within_the_error_of_the_step(spec: str) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=3)
    found = measured(load_evaluator(spec), [atoms], 8)
    assert found.value < found.step_error < 1e-4
    assert not found.seen


def test_the_error_goes_with_the_square_of_the_step() -> None:
    evaluator = load_evaluator("ase:emt")
    structure = structure_of(bulk("Cu", cubic=True) * (2, 1, 1), evaluator)
    structure.system.positions[0, 0] += 0.1
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 3)))[0]
    asker = Asker(evaluator)
    best = jacobian.apply(asker, structure, q, 2e-5)
    errors = [
        np.linalg.norm(jacobian.apply(asker, structure, q, s) - best) for s in (5e-4, 1e-3, 2e-3)
    ]
    assert errors[1] / errors[0] == pytest.approx(4.0, rel=0.05)
    assert errors[2] / errors[1] == pytest.approx(4.0, rel=0.05)


def test_batches_change_nothing() -> None:
    evaluator = load_evaluator("ase:emt")
    structure = structure_of(crystal(), evaluator)
    rng = np.random.default_rng(0)
    ways = [structure.system.positions + 0.05 * rng.normal(size=(4, 3)) for _ in range(7)]
    one = Asker(evaluator, batch_atoms=1).forces(structure, ways)
    advanced: list[int] = []
    many = Asker(evaluator, batch_atoms=12, advance=advanced.append).forces(structure, ways)
    np.testing.assert_allclose(many, one, rtol=0, atol=1e-12)
    assert advanced == [3, 3, 1]
