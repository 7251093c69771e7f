"""Heating against fields whose power is known, ASE's integrator, and potentials that conserve."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from fields import Field
from scipy.linalg import expm, solve_continuous_lyapunov

from forcenet_md.errors import EvaluationError
from forcenet_md.inference.load import load_evaluator
from forcenet_md.simulation import heating
from forcenet_md.simulation.heating import RELAXATION, Plan, heat
from forcenet_md.simulation.probed import Structure
from forcenet_md.units import ACCELERATION
from forcenet_md.watching.heat import Heat

MASS = 63.546
SPRING, TURN = 6.0, 0.6  # eV/Å²
N_ATOMS = 1500


def springs(turn: float, energy: bool) -> tuple[Field, Structure]:
    """Every atom on a spring of its own, and pushed around the z axis through its place."""
    places = 10.0 * np.arange(3 * N_ATOMS).reshape(-1, 3)
    around = np.array([[0.0, turn, 0.0], [-turn, 0.0, 0.0], [0.0, 0.0, 0.0]])

    def force(x: np.ndarray) -> np.ndarray:
        away = x - places
        return -SPRING * away + away @ around

    def potential(x: np.ndarray) -> float:
        return 0.5 * SPRING * float(((x - places) ** 2).sum())

    field = Field(force, potential if energy else None)
    atoms = Atoms("Cu" * N_ATOMS, places)
    atoms.set_masses([MASS] * N_ATOMS)
    return field, Structure.of(atoms, "springs", field.capabilities)


def expected(turn: float, plan: Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, and per atom the mean kinetic and whole energy at them: from the covariance of the
    thermostat's steady state, which moves by the linear equations of motion."""
    m = MASS / ACCELERATION
    k = np.array([[-SPRING, -turn, 0.0], [turn, -SPRING, 0.0], [0.0, 0.0, -SPRING]])
    free = np.block([[np.zeros((3, 3)), np.eye(3)], [k / m, np.zeros((3, 3))]])
    damped = free.copy()
    damped[3:, 3:] = -np.eye(3) / RELAXATION
    noise = np.zeros((6, 6))
    noise[3:, 3:] = np.eye(3) * 2.0 * units.kB * plan.temperature / (m * RELAXATION)
    start = solve_continuous_lyapunov(damped, -noise)
    times = np.arange(0, plan.n_steps + 1, plan.stride) * plan.timestep
    kinetic, whole = [], []
    for t in times:
        moved = expm(free * t)
        now = moved @ start @ moved.T
        kinetic.append(0.5 * m * np.trace(now[3:, 3:]))
        whole.append(kinetic[-1] + 0.5 * SPRING * np.trace(now[:3, :3]))
    return times, np.array(kinetic), np.array(whole)


@pytest.mark.parametrize("energy", [True, False])
def test_a_field_that_turns_heats_at_the_analytic_rate(energy: bool) -> None:
    field, structure = springs(TURN, energy)
    plan = Plan(300.0, 0.002, 0.4, equilibration=0.6)
    found = heat(field, [structure], plan, n_copies=4)
    times, kinetic, whole = expected(TURN, plan)
    per_dof = whole / 3.0 if energy else 2.0 * kinetic / 3.0
    rate = np.polyfit(times, per_dof, 1)[0] / units.kB
    assert found.seen_by == ("model" if energy else "temperature")
    assert found.rate is not None
    assert found.interval is not None
    assert rate > 10.0 * found.interval if energy else rate > 100.0
    assert abs(found.rate - rate) < max(2.0 * found.interval, 0.03 * rate)
    if energy:
        slope = 1000.0 * np.polyfit(times, whole, 1)[0]
        assert found.drift == pytest.approx(slope, rel=0.1)
    else:
        assert found.drift is None


@pytest.mark.slow
def test_a_watched_run_under_a_thermostat_tells_the_same_rate() -> None:
    """And by it, times the time constant, the run is too warm."""
    field, structure = springs(TURN, energy=True)
    plan = Plan(300.0, 0.002, 0.04)
    times, _, whole = expected(TURN, plan)
    rate = np.polyfit(times, whole / 3.0, 3)[-2] / units.kB  # by which energy starts to grow
    rng = np.random.default_rng(4)
    copy = heating._start(field, structure, plan, rng)
    numbers, masses = structure.system.numbers, structure.masses
    watched, temperatures = Heat(numbers), []
    for _ in range(3000):
        heating._step(field, [copy], plan.timestep)
        temperatures.append(copy.temperature)
        before = copy.velocities.copy()
        copy.thermostat(plan.temperature, plan.timestep, rng)
        at_step = 0.5 * (before + copy.velocities)  # and of half a timestep before and after it
        watched.add(watched.sums(numbers, masses, at_step, copy.answer.forces))
    assert watched.heating[0] == pytest.approx(rate, rel=0.08)
    too_warm = np.mean(temperatures) - plan.temperature
    assert too_warm == pytest.approx(rate * RELAXATION, rel=0.3)


def test_springs_alone_conserve_and_are_as_warm_as_the_thermostat_made_them() -> None:
    field, structure = springs(0.0, True)
    found = heat(field, [structure], Plan(300.0, 0.001, 0.3), n_copies=3)
    assert found.rate is not None
    assert abs(found.rate) < 0.5
    assert found.temperature == pytest.approx(300.0, rel=0.03)
    assert found.lost == []
    assert found.time == pytest.approx(0.3)


def test_steps_are_those_of_velocity_verlet() -> None:
    """Of ASE, from the same velocities."""
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.05, seed=1)
    evaluator = load_evaluator("ase:emt")
    structure = Structure.of(atoms.copy(), "it", evaluator.capabilities)
    plan = Plan(600.0, 0.002, 1.0)
    copy = heating._start(evaluator, structure, plan, np.random.default_rng(3))
    atoms.calc = EMT()
    atoms.set_velocities(copy.velocities / (1000.0 * units.fs))
    assert copy.kinetic == pytest.approx(atoms.get_kinetic_energy(), rel=1e-12)
    VelocityVerlet(atoms, 2.0 * units.fs).run(30)
    for _ in range(30):
        heating._step(evaluator, [copy], plan.timestep)
    np.testing.assert_allclose(copy.system.positions, atoms.positions, rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        copy.velocities / (1000.0 * units.fs), atoms.get_velocities(), rtol=0, atol=1e-10
    )


def test_a_potential_conserves_by_its_own_energy_and_by_a_teachers() -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 1)
    evaluator = load_evaluator("ase:emt")
    structure = Structure.of(atoms, "it", evaluator.capabilities)

    def energy(system) -> float:
        found = Atoms(system.numbers, system.positions, cell=system.cell, pbc=system.pbc)
        found.calc = EMT()
        return found.get_potential_energy()

    plan = Plan(300.0, 0.002, 0.1, equilibration=0.05)
    found = heat(evaluator, [structure], plan, 2)
    assert found.seen_by == "model"
    assert abs(found.drift) < 1.0
    taught = heat(evaluator, [structure], plan, 2, teacher=energy)
    assert taught.seen_by == "teacher"
    assert taught.rate == pytest.approx(found.rate, rel=1e-4)


def test_held_atoms_stay_and_do_not_count() -> None:
    slab = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    slab.set_constraint(FixAtoms(range(4)))
    evaluator = load_evaluator("ase:emt")
    structure = Structure.of(slab, "it", evaluator.capabilities)
    copy = heating._start(evaluator, structure, Plan(300.0, 0.002, 1.0), np.random.default_rng(0))
    assert copy.n_dof == 12
    for _ in range(5):
        heating._step(evaluator, [copy], 0.002)
        copy.thermostat(300.0, 0.002, np.random.default_rng(1))
    np.testing.assert_array_equal(copy.system.positions[:4], slab.positions[:4])
    assert (copy.system.positions[4:] != slab.positions[4:]).all()


def test_a_copy_that_falls_apart_is_told_and_the_others_go_on() -> None:
    field, structure = springs(0.0, True)
    calls = 0

    class Failing(Field):
        def _answer(self, x: np.ndarray):
            nonlocal calls
            calls += 1
            if calls == 3 + 3 * 41 + 2 * 19 + 1:  # three to start with; the second of step 61
                return EvaluationError("no.")
            answer = super()._answer(x)
            if calls == 3 + 3 * 40 + 1:
                answer.forces[0, 0] = 1e5
            return answer

    evaluator = Failing(field.force, field.energy)
    found = heat(evaluator, [structure], Plan(300.0, 0.001, 0.1, equilibration=0.02), 3)
    assert len(found.lost) == 2
    assert found.lost[0].startswith("after 0.041 ps it is at ")
    assert found.lost[1] == "after 0.061 ps the model says: no."
    assert found.rate is None
    assert found.time == pytest.approx(0.1)


def test_the_interval_is_student_s_of_the_copies() -> None:
    """By hand, from the slopes of each copy's temperature."""
    field, structure = springs(0.0, False)
    plan = Plan(300.0, 0.002, 0.1, equilibration=0.02)
    copies = []
    for k in range(3):
        copy = heating._start(field, structure, plan, np.random.default_rng(k))
        copy.samples = [(0.01 * i, 300.0 + (k + 1.0) * 0.01 * i, np.nan) for i in range(6)]
        copies.append(copy)
    found = heating.judge(copies, plan, 0.05, "temperature")
    assert found.rate == pytest.approx(2.0)
    assert found.interval == pytest.approx(4.302653 * 1.0 / np.sqrt(3.0), rel=1e-6)


def test_what_is_known_when_it_is_stopped_counts() -> None:
    field, structure = springs(0.0, True)
    steps = 0

    def advance(n: int) -> None:
        nonlocal steps
        steps += n

    plan = Plan(300.0, 0.001, 10.0, equilibration=0.1)
    found = heat(field, [structure], plan, 2, stopped=lambda: steps >= 300, advance=advance)
    assert found.time == pytest.approx(0.2, abs=0.0015)
    assert found.rate is not None
    early = heat(field, [structure], plan, 2, stopped=lambda: True)
    assert early.rate is None
