"""Structures for training: what the samplers promise, and the error along a model's path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from forcenet_md.data import alloy, sampling
from forcenet_md.data.frames import composition
from forcenet_md.data.teachers import AseTeacher, LammpsTeacher, open_teacher
from forcenet_md.data.visiting import MODEL_FORCES, Visit, follow, path_errors
from forcenet_md.errors import EvaluationError

ELEMENTS = alloy.ELEMENTS


@pytest.fixture(scope="module")
def teacher() -> Iterator[LammpsTeacher]:
    with open_teacher("zhou2004", ELEMENTS) as opened:
        assert isinstance(opened, LammpsTeacher)
        yield opened


def test_random_alloys_cover_pure_metals_and_mixtures() -> None:
    rng = np.random.default_rng(0)
    present = Counter(
        len(set(sampling.random_alloy(ELEMENTS, rng, repeat=2).symbols)) for _ in range(60)
    )
    assert present[1] >= 2
    assert present[5] >= 10
    lattice = sampling.random_alloy(["Cu"], rng, repeat=2)
    assert lattice.cell.lengths() == pytest.approx(2 * 3.615, abs=0.01)


def test_teacher_dynamics_has_the_temperature_it_was_asked(teacher: LammpsTeacher) -> None:
    """Seen in the spread of positions: a solid at 900 K moves farther than one at 100 K."""
    lattice = sampling.random_alloy(["Pd"], np.random.default_rng(0))
    spread = {}
    for temperature in (100.0, 900.0):
        plan = sampling.Dynamics(temperature, equilibration_ps=0.6, spacing_ps=0.1, frames=6)
        path = list(sampling.run_teacher(teacher.box, lattice, plan, seed=5))
        assert len(path) == 6
        scaled = np.array([atoms.get_scaled_positions(wrap=False) for atoms in path])
        moved = scaled - np.round(scaled * 6) / 6
        spread[temperature] = float((moved**2).mean())
    assert 4.0 < spread[900.0] / spread[100.0] < 20.0


def test_short_pairs_are_short() -> None:
    rng = np.random.default_rng(0)
    atoms = sampling.random_alloy(ELEMENTS, rng)
    pushed = sampling.with_short_pairs(atoms, 1, 1.6, 1.7, rng)
    distances = pushed.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
    assert 1.6 <= distances.min() <= 1.7
    assert (pushed.positions != atoms.positions).any(axis=1).sum() == 2


def test_strain_keeps_scaled_positions_and_changes_the_cell() -> None:
    rng = np.random.default_rng(0)
    atoms = sampling.random_alloy(ELEMENTS, rng, repeat=2)
    out = sampling.strained(atoms, 0.05, rng)
    np.testing.assert_allclose(out.get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-9)
    change = np.linalg.solve(atoms.cell.array, out.cell.array) - np.eye(3)
    assert 0.0 < np.abs(change).max() <= 0.05
    np.testing.assert_allclose(change, change.T, atol=1e-12)


def test_held_out_compositions_and_temperatures_are_not_in_training(
    teacher: LammpsTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same draws as the shipped model's data, with the dynamics left out."""

    def no_dynamics(box: Any, start: Atoms, plan: sampling.Dynamics, seed: int) -> list[Atoms]:
        return [start.copy() for _ in range(plan.frames)]

    monkeypatch.setattr(sampling, "run_teacher", no_dynamics)
    train = list(alloy.training_structures(teacher.box, 600, seed=1))
    test = list(alloy.held_out_structures(teacher.box, train, seed=1))
    assert len(test) == 8 * 3 * 7
    assert not {composition(a) for a in train} & {composition(a) for a in test}
    assert not {a.info["temperature"] for a in train} & {a.info["temperature"] for a in test}
    kinds = Counter(a.info["config_type"] for a in train)
    assert abs(kinds["md"] + kinds["slab"] - 0.8 * 600) <= 10
    assert abs(kinds["rattled"] - 0.12 * 600) <= 1
    again = list(alloy.training_structures(teacher.box, 600, seed=1))
    assert all(a == b for a, b in zip(train, again, strict=True))


class Limited(EMT):
    """EMT that has no forces after sixty calls, as a model off its data may."""

    calls = 0

    def calculate(
        self, atoms: Any = None, properties: Any = None, changes: Any = all_changes
    ) -> Any:
        self.calls += 1
        if self.calls > 60:
            raise EvaluationError("no forces")
        return super().calculate(atoms, properties or ["forces"], changes)


def visit(calculator: Calculator) -> list[Atoms]:
    start = sampling.random_alloy(["Cu", "Au"], np.random.default_rng(1), repeat=2)
    start.info["trajectory"] = "a"
    plan = Visit(600.0, time_ps=0.2, spacing_ps=0.05)
    return list(follow(start, calculator, plan, seed=2))


def test_path_keeps_the_models_forces_and_measures_them() -> None:
    frames = visit(EMT())
    assert len(frames) == 4
    assert all(atoms.info["trajectory"] == "a" for atoms in frames)
    labelled = [AseTeacher("emt").label(atoms) for atoms in frames]
    error = path_errors(labelled)
    assert error["force_mae"] == pytest.approx(0.0, abs=1e-10)
    assert error["mean_abs_force"] > 0.1
    labelled[0].arrays[MODEL_FORCES] += 0.4
    assert path_errors(labelled)["force_mae"] == pytest.approx(0.1, rel=1e-6)


def test_a_path_begins_as_hot_as_it_is_told() -> None:
    lattice = bulk("Cu", cubic=True) * (3, 3, 3)

    def moved(heat: float) -> float:
        plan = Visit(300.0, time_ps=0.01, spacing_ps=0.01, heat=heat)
        (frame,) = follow(lattice, EMT(), plan, seed=2)
        return float(((frame.positions - lattice.positions) ** 2).mean())

    assert moved(2.0) == pytest.approx(2.0 * moved(1.0), rel=0.1)


def test_path_ends_where_the_model_has_no_forces() -> None:
    assert len(visit(Limited())) == 2
