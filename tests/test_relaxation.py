"""Many structures relaxed in one batch, each as ASE relaxes it alone, and how each of them ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian
from ase.optimize import FIRE, LBFGS
from relaxing import Field, crystals, ring

from forcenet_md import ForceNetCalculator, ForcesOnly
from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.inference.ase_evaluator import AseEvaluator
from forcenet_md.inference.interface import Evaluator, Request
from forcenet_md.inference.load import load_evaluator
from forcenet_md.relaxation.batch import Batch, relax
from forcenet_md.relaxation.course import Course, Settings, make_optimizer
from forcenet_md.system import Forces

OPTIMIZERS: tuple[Literal["fire", "lbfgs"], ...] = ("fire", "lbfgs")


def relaxed(
    evaluator: Evaluator, structures: Iterable[Atoms], settings: Settings, batch_atoms: int = 1000
) -> list[Course]:
    found = list(relax(evaluator, structures, settings, batch_atoms))
    return sorted(found, key=lambda course: course.number)


def alone(atoms: Atoms, settings: Settings, calculator: Any) -> tuple[Atoms, int]:
    """By ASE, without any of ours."""
    twin = atoms.copy()
    twin.calc = calculator
    kind = {"fire": FIRE, "lbfgs": LBFGS}[settings.optimizer]
    optimizer = kind(ForcesOnly(twin), logfile=None, maxstep=settings.maxstep)
    optimizer.run(fmax=settings.fmax, steps=settings.steps)
    return twin, optimizer.nsteps


def with_held_atoms(structures: list[Atoms]) -> list[Atoms]:
    structures[0].set_constraint(FixAtoms([0, 3]))
    structures[1].set_constraint([FixCartesian(1, mask=(True, False, True)), FixAtoms([2])])
    return structures


@pytest.mark.parametrize("optimizer", ["lbfgs", pytest.param("fire", marks=pytest.mark.slow)])
def test_a_batch_is_one_optimiser_per_structure(optimizer: Literal["fire", "lbfgs"]) -> None:
    """Of the shipped network, whose forces are no gradient; not all fit into the batch at once."""
    structures = with_held_atoms(crystals(4)[::-1])
    settings = Settings(optimizer, fmax=0.1, steps=24)
    evaluator = load_evaluator("alloy", dtype="float64")
    courses = relaxed(evaluator, structures, settings, batch_atoms=30)
    endings = {"lbfgs": {"converged"}, "fire": {"converged", "steps"}}
    assert {course.ending for course in courses} == endings[optimizer]
    for atoms, course in zip(structures, courses, strict=True):
        twin, steps = alone(atoms, settings, ForceNetCalculator("alloy", dtype="float64"))
        assert course.steps == steps
        result = course.result()
        np.testing.assert_allclose(result.positions, twin.positions, atol=1e-6)
        np.testing.assert_allclose(
            result.get_forces(), twin.get_forces(), atol=1e-6
        )  # constraints applied
        assert course.fmax == pytest.approx(
            np.linalg.norm(twin.get_forces(), axis=1).max(), abs=1e-6
        )
        assert "energy" not in result.calc.results  # the model has none
        assert np.abs(result.positions - atoms.positions).max() > 0.05


def test_energies_come_along_where_the_model_has_them() -> None:
    (course,) = relaxed(AseEvaluator("ase:emt"), crystals(1), Settings(steps=3))
    result, twin = course.result(), course.result()
    twin.calc = EMT()
    assert result.get_potential_energy() == pytest.approx(twin.get_potential_energy(), abs=1e-9)
    assert result.info == {
        "name": "crystal 0",
        "converged": False,
        "steps": 3,
        "fmax": pytest.approx(np.linalg.norm(twin.get_forces(), axis=1).max()),
        "reason": "steps",
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_held_atoms_stay_to_the_bit(optimizer: Literal["fire", "lbfgs"]) -> None:
    structures = with_held_atoms(crystals(3))
    structures[2].set_array("fixed", np.array([1, 1] + [0] * (len(structures[2]) - 2)))
    found = relaxed(AseEvaluator("ase:emt"), structures, Settings(optimizer, steps=20))
    moved = [c.result().positions != a.positions for a, c in zip(structures, found, strict=True)]
    assert not moved[0][[0, 3]].any()
    assert not moved[1][2].any()
    assert not moved[1][1, [0, 2]].any()
    assert not moved[2][:2].any()
    assert moved[0][[1, 2, 4]].all()
    assert moved[1][1, 1]
    assert moved[2][2:].all()


class Counting:
    """Looks at what an evaluator is asked."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.capabilities, self.timings = evaluator.capabilities, evaluator.timings
        self.new_session, self.warm_up = evaluator.new_session, evaluator.warm_up
        self.rounds: list[list[Request]] = []

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        self.rounds.append(list(requests))
        return self._evaluator.evaluate(requests)


def test_who_has_ended_leaves_and_the_next_come_in() -> None:
    structures = crystals(9)
    structures[4].rattle(0.3, seed=4)  # takes longer than the others
    counting = Counting(AseEvaluator("ase:emt"))
    courses = relaxed(counting, structures, Settings(fmax=0.05), batch_atoms=40)
    assert all(course.ending == "converged" for course in courses)
    atoms = [sum(request.system.n_atoms for request in asked) for asked in counting.rounds]
    assert max(atoms) <= 40
    asked = [request.moment.stream for requests in counting.rounds for request in requests]
    for course in courses:
        assert asked.count(course.number) == course.steps + 1
    # while structures wait there is no room for the next of them
    begins = {number: asked.index(number) for number in set(asked)}
    assert sorted(begins, key=begins.__getitem__) == list(range(9))
    streams = [{request.moment.stream for request in requests} for requests in counting.rounds]
    for before, after, n in zip(streams, streams[1:], atoms[1:], strict=False):
        waiting = max(after) + 1
        assert waiting == len(structures) or n + len(structures[waiting]) > 40
        assert before - after == {
            c.number for c in courses if c.number in before and c.number not in after
        }
    assert len(counting.rounds) < sum(course.steps + 1 for course in courses) / 2


def test_a_structure_larger_than_the_batch_is_alone_in_it() -> None:
    counting = Counting(AseEvaluator("ase:emt"))
    courses = relaxed(counting, crystals(3), Settings(steps=2), batch_atoms=1)
    assert [course.number for course in courses] == [0, 1, 2]
    assert {len(asked) for asked in counting.rounds} == {1}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_cycle_is_named(optimizer: Literal["fire", "lbfgs"]) -> None:
    """Round and round a ring of minima, where the force that drives it is 0.3 eV/Å. Without that
    force it relaxes."""
    atoms = Atoms("H2", positions=[[0.4, 0.3, 0.2], [-1.5, 0.1, 0.0]])
    settings = Settings(optimizer, steps=2000)
    (still,) = relaxed(Field(ring(swirl=0.0)), [atoms], settings)
    assert still.ending == "converged"
    (course,) = relaxed(Field(ring(swirl=0.3)), [atoms], settings)
    assert (course.ending, course.reason) == ("cycle", "cycle")
    assert course.steps < 1000
    assert course.fmax is not None
    assert course.fmax > 0.1
    assert course.result().info["reason"] == "cycle"


def slow(seed: int) -> Field:
    """A valley whose stiffness is 10,000 times as large across as along."""
    rng = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    stiffness = turned @ np.diag(np.geomspace(1e-3, 1e1, 12)) @ turned.T
    return Field(lambda x: -(stiffness @ x.ravel()).reshape(-1, 3))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("seed", range(2))
def test_slow_is_no_cycle(optimizer: Literal["fire", "lbfgs"], seed: int) -> None:
    start = np.random.default_rng(seed).normal(scale=3.0, size=(4, 3))
    settings = Settings(optimizer, fmax=1e-3, steps=2000)
    (course,) = relaxed(slow(seed), [Atoms("H4", positions=start)], settings)
    assert course.ending == "converged"
    assert course.steps > 100


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_batch_of_a_potential_is_one_optimiser_per_structure(
    optimizer: Literal["fire", "lbfgs"],
) -> None:
    structures, settings = with_held_atoms(crystals(3)[::-1]), Settings(optimizer, fmax=0.1)
    for atoms, course in zip(
        structures, relaxed(AseEvaluator("ase:emt"), structures, settings, 30), strict=True
    ):
        twin, steps = alone(atoms, settings, EMT())
        assert (course.ending, course.steps) == ("converged", steps)
        np.testing.assert_allclose(course.result().positions, twin.positions, atol=1e-9)


def test_a_long_way_of_real_forces_is_no_cycle() -> None:
    """From far away to forces near the rounding of the potential."""
    structures = crystals(2, rattle=0.4)
    courses = relaxed(AseEvaluator("ase:emt"), structures, Settings("fire", fmax=1e-7, steps=1500))
    assert [course.ending for course in courses] == ["converged"] * 2
    assert min(course.steps for course in courses) > 100


def escaping(x: np.ndarray) -> np.ndarray:
    return 0.5 * x


def exploding(x: np.ndarray) -> np.ndarray:
    return 0.1 * np.exp(np.abs(x)) * np.sign(x)


def apart(x: np.ndarray) -> np.ndarray:
    """Two atoms that push each other away until they are 3 Å apart."""
    between = x[0] - x[1]
    length = np.linalg.norm(between)
    push = max(3.0 - length, 0.0) * between / length
    return np.array([push, -push])


def broken(x: np.ndarray) -> np.ndarray:
    return -x if np.abs(x).max() > 0.5 else np.full_like(x, np.nan)


@pytest.mark.parametrize(
    ("law", "ending", "reason"),
    [
        (escaping, "runaway", "runaway: atom 1 is 20.* Å from where it began"),
        (exploding, "runaway", "runaway: the force on atom 1 is .* eV/Å"),
        (apart, "runaway", "runaway: 2 atoms have no other within 3 Å any more"),
        (broken, "failed", "the field gives a force that is not finite"),
    ],
)
def test_a_runaway_is_named_and_where_it_was_is_kept(law: Any, ending: str, reason: str) -> None:
    atoms = Atoms("H2", positions=[[0.9, 0.2, 0.1], [-0.2, 0.0, 0.1]])
    (course,) = relaxed(Field(law, cutoff=3.0), [atoms], Settings("fire", steps=2000))
    assert course.ending == ending
    result = course.result()
    assert not result.info["converged"]
    assert re.match(reason, result.info["reason"])
    # the positions of the last forces there were
    np.testing.assert_array_equal(result.get_forces(), law(result.positions))


def test_a_step_that_is_not_finite_is_a_runaway() -> None:
    """Where the force is the same everywhere, L-BFGS divides by a curvature of zero."""
    field = Field(lambda x: np.full_like(x, 0.1))
    (course,) = relaxed(field, [Atoms("H")], Settings("lbfgs"))
    assert course.ending == "runaway"
    assert "not finite" in course.reason
    assert np.isfinite(course.result().positions).all()


def test_atoms_that_were_alone_from_the_beginning_do_not_run_away() -> None:
    atoms = Atoms("Cu3", positions=[[0, 0, 0], [0, 0, 2.4], [20, 0, 0]])
    (course,) = relaxed(AseEvaluator("ase:emt"), [atoms], Settings())
    assert course.ending == "converged"


def test_what_cannot_be_evaluated_does_not_hold_up_the_others() -> None:
    structures = crystals(4)
    structures[1].numbers[0] = 92  # unknown to EMT
    structures[2].positions[0] = np.nan
    structures.append(Atoms())
    courses = relaxed(AseEvaluator("ase:emt"), structures, Settings(fmax=0.05))
    endings = [course.ending for course in courses]
    assert endings == ["converged", "failed", "failed", "converged", "failed"]
    assert "not finite" in courses[2].reason
    assert "no atoms" in courses[4].reason
    assert courses[1].result().calc is None  # no forces are made up
    assert courses[1].result().info["reason"] == courses[1].reason.replace('"', "'")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_course_goes_on_from_its_state_to_the_bit(optimizer: Literal["fire", "lbfgs"]) -> None:
    settings = Settings(optimizer, steps=30, memory=5)
    (atoms,) = crystals(1)
    evaluator = AseEvaluator("ase:emt")
    whole = Course(0, atoms, settings, 6.0)
    session = whole.session = evaluator.new_session()
    for _ in range(12):
        whole.take(evaluator.evaluate([whole.request()])[0])
    other = Course(0, atoms, settings, 6.0)
    other.restore(whole.state())
    other.session = session
    for course in (whole, other):
        while not course.ending:
            course.take(evaluator.evaluate([course.request()])[0])
    assert whole.steps == other.steps > 20 or whole.ending == "converged"
    np.testing.assert_array_equal(other.result().positions, whole.result().positions)


def test_the_state_of_a_cycle_goes_along() -> None:
    """Else a run that is stopped every so often would never find it."""
    atoms = Atoms("H2", positions=[[0.4, 0.3, 0.2], [-1.5, 0.1, 0.0]])
    settings, field = Settings("fire", steps=2000), Field(ring(swirl=0.3))
    (whole,) = relaxed(field, [atoms], settings)
    course = Course(0, atoms, settings, 6.0)
    while not course.ending:
        state = course.state()
        course = Course(0, atoms, settings, 6.0)
        course.restore(state)
        course.session = field.new_session()
        course.take(field.evaluate([course.request()])[0])
    assert (course.ending, course.steps) == ("cycle", whole.steps)


@pytest.mark.slow
def test_a_committee_tells_its_spread(tmp_path: Any) -> None:
    from models import write_model

    for seed in range(2):
        write_model(tmp_path / f"{seed}.pt", seed=seed)
    evaluator = load_evaluator(str(tmp_path / "0.pt"), committee=[str(tmp_path / "1.pt")])
    (course,) = relaxed(evaluator, crystals(1), Settings(steps=1))
    result = course.result()
    twin = result.copy()
    twin.calc = ForceNetCalculator(tmp_path / "0.pt", committee=[tmp_path / "1.pt"])
    twin.get_forces()
    np.testing.assert_allclose(
        result.arrays["force_spread"], twin.calc.results["force_spread"], rtol=1e-4
    )


def test_an_evaluator_that_fails_as_a_whole_is_not_hidden() -> None:
    class Broken(Field):
        def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
            raise EvaluationError("the device is gone.")

    with pytest.raises(EvaluationError, match="the device is gone"):
        relaxed(Broken(escaping), [Atoms("H")], Settings())


def test_make_optimizer_is_ase_with_its_own_defaults() -> None:
    """What the paper of neither says is ASE's."""
    atoms = bulk("Cu")
    fire, lbfgs = (make_optimizer(atoms, Settings(kind)) for kind in OPTIMIZERS)
    assert isinstance(fire, FIRE)
    assert isinstance(lbfgs, LBFGS)
    assert (fire.maxstep, lbfgs.maxstep) == (FIRE(atoms).maxstep, LBFGS(atoms).maxstep)
    assert lbfgs.state.memory == LBFGS(atoms).state.memory


def test_nothing_to_relax_is_no_round() -> None:
    assert list(Batch(AseEvaluator("ase:emt"), [], 100).rounds()) == []
