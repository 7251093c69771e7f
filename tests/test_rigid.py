"""Net force and torque: what a direct-force network gives of them is taken out, and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from models import ALLOY

from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.system import Forces, System


@pytest.fixture(scope="module")
def evaluator(small_model: Path) -> ModelEvaluator:
    return ModelEvaluator(small_model, dtype="float64")


def cluster(n: int = 9, pbc: bool | tuple[bool, bool, bool] = False) -> Atoms:
    rng = np.random.default_rng(n)
    positions = rng.uniform(0.0, 1.9 * n ** (1 / 3) + 1.0, (n, 3))
    return Atoms(rng.choice(ALLOY, n), positions, cell=[30.0, 30.0, 30.0], pbc=pbc)


def answer(evaluator: ModelEvaluator, atoms: Atoms, keep: bool = False) -> Forces:
    request = Request(evaluator.new_session(), System.from_ase(atoms), keep_net_force=keep)
    (found,) = evaluator.evaluate([request])
    assert isinstance(found, Forces), found
    return found


def torque(atoms: Atoms, forces: np.ndarray) -> np.ndarray:
    return np.cross(atoms.positions - atoms.positions.mean(axis=0), forces).sum(axis=0)


@pytest.mark.parametrize("n", [3, 9, 40])
def test_an_isolated_molecule_is_not_turned(evaluator: ModelEvaluator, n: int) -> None:
    atoms = cluster(n)
    raw = answer(evaluator, atoms, keep=True)
    served = answer(evaluator, atoms)
    scale = np.abs(raw.forces).max()
    assert np.abs(torque(atoms, raw.forces)).max() > 1e-3 * scale  # there is something to remove
    assert np.abs(torque(atoms, served.forces)).max() < 1e-11 * scale
    assert np.abs(served.forces.sum(axis=0)).max() < 1e-11 * scale
    np.testing.assert_allclose(served.torque, torque(atoms, raw.forces), rtol=1e-9)
    np.testing.assert_allclose(served.net_force, raw.forces.sum(axis=0), rtol=1e-9)
    assert raw.torque is None


def test_no_smaller_change_would_do(evaluator: ModelEvaluator) -> None:
    """Least squares with the six conditions as constraints, by the pseudo-inverse."""
    atoms = cluster()
    raw = answer(evaluator, atoms, keep=True).forces
    arms = atoms.positions - atoms.positions.mean(axis=0)
    conditions = np.zeros((6, len(atoms), 3))
    for k, axis in enumerate(np.eye(3)):
        conditions[k] = axis
        conditions[3 + k] = np.cross(axis, arms)  # axis · (arm × f) = (axis × arm) · f
    a = conditions.reshape(6, -1)
    expected = raw.ravel() - np.linalg.pinv(a) @ (a @ raw.ravel())
    np.testing.assert_allclose(answer(evaluator, atoms).forces.ravel(), expected, atol=1e-12)


def test_a_line_of_atoms(evaluator: ModelEvaluator) -> None:
    """It has no inertia about its own axis, and one atom has none at all."""
    line = Atoms(ALLOY[:3], [[0, 0, 0], [1.5, 1.5, 0], [3.4, 3.4, 0]])
    forces = answer(evaluator, line).forces
    assert np.abs(torque(line, forces)).max() < 1e-9 * np.abs(forces).max()
    assert np.isfinite(answer(evaluator, Atoms(ALLOY[:1], [[1, 2, 3]])).forces).all()


@pytest.mark.parametrize("pbc", [True, (True, False, False)])
def test_what_is_periodic_somewhere_keeps_its_torque(
    evaluator: ModelEvaluator, pbc: bool | tuple[bool, bool, bool]
) -> None:
    atoms = cluster(pbc=pbc)
    raw, served = answer(evaluator, atoms, keep=True), answer(evaluator, atoms)
    expected = raw.forces - raw.forces.mean(axis=0)
    np.testing.assert_allclose(served.forces, expected, atol=1e-12)
    assert served.torque is None
