"""Net force and torque: what a direct-force network gives of them is taken out, and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from models import ALLOY, write_model

from forcenet_md.graph.frame import Frame
from forcenet_md.graph.ghosts import surroundings
from forcenet_md.graph.neighbours import SLACK
from forcenet_md.inference.committee import CommitteeEvaluator
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.graph_evaluator import GraphEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.inference.local import LocalModel
from forcenet_md.inference.ranks import Sharing
from forcenet_md.mpi import One
from forcenet_md.server.monitor import Largest
from forcenet_md.system import Forces, System
from forcenet_md.watching.guards import figures_of_ranks


@pytest.fixture(scope="module")
def evaluator(small_model: Path) -> ModelEvaluator:
    return ModelEvaluator(small_model, dtype="float64")


def cluster(n: int = 9, pbc: bool | tuple[bool, bool, bool] = False) -> Atoms:
    rng = np.random.default_rng(n)
    positions = rng.uniform(0.0, 1.9 * n ** (1 / 3) + 1.0, (n, 3))
    return Atoms(rng.choice(ALLOY, n), positions, cell=[30.0, 30.0, 30.0], pbc=pbc)


def answer(evaluator: GraphEvaluator, atoms: Atoms, keep: bool = False) -> Forces:
    request = Request(evaluator.new_session(), System.from_ase(atoms), keep_net_force=keep)
    (found,) = evaluator.evaluate([request])
    assert isinstance(found, Forces), found
    return found


def torque(atoms: Atoms, forces: np.ndarray) -> np.ndarray:
    return np.cross(atoms.positions - atoms.positions.mean(axis=0), forces).sum(axis=0)


def turning(atoms: Atoms, forces: np.ndarray) -> float:
    """Root mean square of the rotation that is nearest to forces, by least squares."""
    arms = atoms.positions - atoms.positions.mean(axis=0)
    turns = np.stack([np.cross(axis, arms).ravel() for axis in np.eye(3)], axis=1)
    alpha, *_ = np.linalg.lstsq(turns, forces.ravel(), rcond=None)
    return float(np.linalg.norm(turns @ alpha) / np.sqrt(len(atoms)))


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
    assert raw.torque_force is None
    assert served.torque_force == pytest.approx(turning(atoms, raw.forces), rel=1e-9)
    assert served.seen()["torque_force"] == served.torque_force
    largest = Largest()
    largest.see(served)
    told = f"had a torque with forces of at most {served.torque_force:.2g} eV/Å per atom"
    assert told in largest.describe(evaluator.capabilities)


def test_a_committee_tells_the_torque_of_its_mean(small_model: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "b.pt", seed=1)
    atoms = cluster()
    committee = CommitteeEvaluator([small_model, tmp_path / "b.pt"], dtype="float64")
    raw, served = answer(committee, atoms, keep=True), answer(committee, atoms)
    np.testing.assert_allclose(served.torque, torque(atoms, raw.forces), rtol=1e-9)
    assert served.torque_force == pytest.approx(turning(atoms, raw.forces), rel=1e-9)


@pytest.mark.parametrize("isolated", [True, False])
def test_ranks_that_have_atoms_apart_tell_the_same(
    evaluator: ModelEvaluator, isolated: bool
) -> None:
    system = System.from_ase(cluster(pbc=not isolated))
    frame, reach = Frame.of(system), evaluator.card.cutoff + SLACK
    around = surroundings(np.arange(1, 10), system.numbers, system.positions, frame, reach, One())
    model = LocalModel(evaluator, One(), Sharing())
    model.divide(around, reach, isolated=isolated)
    forces, seen = model.forces_of(system.positions, frame.rows, keep_net_force=False)
    model.close()
    one = answer(evaluator, cluster(pbc=not isolated))
    np.testing.assert_allclose(forces, one.forces, atol=1e-12)
    assert (seen.torque_force is not None) == isolated
    if isolated:
        assert seen.torque_force == pytest.approx(one.torque_force, rel=1e-9)
    assert ("torque" in [figure.name for figure in figures_of_ranks(seen)]) == isolated


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
    raw = answer(evaluator, line, keep=True).forces
    assert answer(evaluator, line).torque_force == pytest.approx(turning(line, raw), rel=1e-9)
    alone = answer(evaluator, Atoms(ALLOY[:1], [[1, 2, 3]]))
    assert np.isfinite(alone.forces).all()
    assert alone.torque_force == 0.0


@pytest.mark.parametrize("pbc", [True, (True, False, False)])
def test_what_is_periodic_somewhere_keeps_its_torque(
    evaluator: ModelEvaluator, pbc: bool | tuple[bool, bool, bool]
) -> None:
    atoms = cluster(pbc=pbc)
    raw, served = answer(evaluator, atoms, keep=True), answer(evaluator, atoms)
    expected = raw.forces - raw.forces.mean(axis=0)
    np.testing.assert_allclose(served.forces, expected, atol=1e-12)
    assert served.torque is None
    assert "torque_force" not in served.seen()
