"""The rotation instability against a direct loop, and against models whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from models import write_model
from test_evaluate import cases_of

from forcenet_md import ForceNetCalculator
from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.evaluation.cases import Case
from forcenet_md.evaluation.result import Model
from forcenet_md.evaluation.rotation import instability, random_turns
from forcenet_md.evaluation.run import evaluate, predict
from forcenet_md.evaluation.totals import Settings
from forcenet_md.inference.load import load_evaluator
from forcenet_md.system import Forces


def frames() -> list[Atoms]:
    """Cells, a slab with held atoms, a molecule; of several sizes."""
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    slab.set_constraint(FixAtoms(range(4)))
    out = [bulk("Au", cubic=True) * (2, 1, 1), slab, Atoms("CuAu", [[0, 0, 0], [1.0, 1.5, 1.7]])]
    for k, atoms in enumerate(out):
        atoms.rattle(0.1, seed=k)
        atoms.calc = SinglePointCalculator(atoms, forces=np.zeros((len(atoms), 3)))
    return out


def cases() -> list[Case]:
    with cases_of(frames()) as opened:
        return [opened[k] for k in range(3)]


@pytest.mark.parametrize("axis", ["z", "so3"])
def test_turns_are_rotations_about_the_axis(axis: str) -> None:
    turns = random_turns(200, axis, np.random.default_rng(1))
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.eye(3) + 0 * turns, atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(turns), 1.0)
    assert np.abs(turns.mean(axis=0)[:2, :2]).max() < 0.2  # in every direction
    if axis == "z":
        np.testing.assert_allclose(turns[:, 2], np.tile([0.0, 0.0, 1.0], (200, 1)), atol=1e-15)
    else:
        assert np.abs(turns[:, 2, 2].mean()) < 0.2


@pytest.mark.parametrize("axis", ["z", "so3"])
def test_instability_equals_a_direct_loop(tmp_path: Path, axis: str) -> None:
    """ASE turns the atoms, the ASE calculator answers, and the spread is taken atom by atom."""
    write_model(tmp_path / "m.pt")
    evaluator = load_evaluator(str(tmp_path / "m.pt"), dtype="float64")
    found = instability(lambda batch: predict(evaluator, batch), cases(), 5, axis, seed=7)

    calculator = ForceNetCalculator(tmp_path / "m.pt", dtype="float64")
    rng = np.random.default_rng(7)
    spreads, deviations = [], []
    for atoms in frames():
        turns = random_turns(5, axis, rng)
        backs = []
        for turn in [np.eye(3), *turns]:
            twin = atoms.copy()
            twin.set_cell(twin.cell.array @ turn.T)
            twin.positions = atoms.positions @ turn.T
            twin.calc = calculator
            backs.append([turn.T @ f for f in twin.get_forces(apply_constraint=False)])
        held = {i for constraint in atoms.constraints for i in constraint.index}
        for i in set(range(len(atoms))) - held:
            for c in range(3):
                values = [back[i][c] for back in backs[1:]]
                mean = sum(values) / 5
                spreads.append((sum((v - mean) ** 2 for v in values) / 4) ** 0.5)
                deviations.append(sum(abs(v - backs[0][i][c]) for v in values) / 5)
    assert found.standard_deviation == pytest.approx(np.mean(spreads), rel=1e-9)
    assert found.deviation == pytest.approx(np.mean(deviations), rel=1e-9)
    assert found.standard_deviation > 1e-3 * np.abs(backs[0]).mean()
    assert (found.n_frames, found.n_rotations, found.axis) == (3, 5, axis)


def test_a_field_that_does_not_turn_has_the_spread_of_the_circle() -> None:
    """A constant force along x: turned back, its x and y are cos and sin of a random angle, with a
    standard deviation of 1/√2 each, and z is 0."""

    def along_x(batch: Sequence[Case]) -> list[Forces | ForceNetError]:
        return [Forces(np.tile([3.0, 0.0, 0.0], (case.system.n_atoms, 1))) for case in batch]

    found = instability(along_x, cases()[2:], 4000, "z")
    assert found.standard_deviation == pytest.approx(3.0 * 2 / 3 / 2**0.5, rel=0.02)


def test_a_covariant_model_has_none() -> None:
    evaluator = load_evaluator("ase:emt")
    found = instability(lambda batch: predict(evaluator, batch), cases(), 3, "so3")
    assert found.standard_deviation < 1e-10
    assert found.deviation < 1e-10


def test_frames_that_are_turned_are_few_and_evenly_spread(tmp_path: Path) -> None:
    write_model(tmp_path / "m.pt")
    evaluator = load_evaluator(str(tmp_path / "m.pt"))
    model = Model(name="m", spec="m", sha256=None, dtype="float32")
    settings = Settings(rotations=2, rotation_frames=3)
    with cases_of(frames() * 4) as data:
        rotation = evaluate(evaluator, data, model, settings).result.rotation
    assert rotation is not None
    assert (rotation.n_frames, rotation.n_rotations) == (3, 2)
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1  # only once structures are turned

    with cases_of(frames() * 4) as data:
        half = evaluate(evaluator, data, model, settings, stopped=stopped).result
    assert (half.rotation, half.complete, half.data.n_frames) == (None, False, 12)


def test_one_turn_has_no_spread_and_a_failure_is_named() -> None:
    with pytest.raises(ValueError, match="two rotations"):
        instability(lambda batch: [], cases(), 1)

    def fails(batch: Sequence[Case]) -> list[Forces | ForceNetError]:
        return [EvaluationError("there is not enough memory.")] * len(batch)

    with pytest.raises(EvaluationError, match="frame 0 of the data, turned: there is not enough"):
        instability(fails, cases(), 2)
    assert instability(fails, [], 2) is None
