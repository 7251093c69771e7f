"""Heat of a run: power, temperatures and their errors, against integrals and LAMMPS's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from lammps_runs import EXTERNAL, NO_PAIR, crystal, run
from serving import in_thread

from forcenet_md.inference.interface import Kind, Moment, Request
from forcenet_md.inference.load import load_evaluator
from forcenet_md.inference.watched import WatchedEvaluator
from forcenet_md.system import Forces, System
from forcenet_md.watching.heat import Heat, HeatWatch, on_step, with_error
from forcenet_md.watching.running import LateMean, RunningMean


def test_an_error_of_independent_samples_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal([3.0, -1.0], [2.0, 0.5], (4096, 2))
    mean = RunningMean(2)
    for sample in samples:
        mean.add(sample)
    np.testing.assert_allclose(mean.mean, samples.mean(axis=0), rtol=1e-12)
    expected = samples.std(axis=0, ddof=1) / 64.0
    np.testing.assert_allclose(mean.error, expected, rtol=0.3)


def test_an_error_of_correlated_samples_covers_what_repetition_shows() -> None:
    """AR(1) with a correlation of 0.95: the error of the mean is √39 times the naive one."""
    n, phi = 2**14, 0.95
    rng = np.random.default_rng(1)
    x, mean = np.zeros(200), RunningMean(200)
    for noise in rng.normal(size=(n, 200)):
        x = phi * x + noise
        mean.add(x)
    expected = 1.0 / (1.0 - phi) / np.sqrt(n)
    assert np.median(mean.error) == pytest.approx(expected, rel=0.3)
    inside = np.abs(mean.mean) < 2.0 * mean.error
    assert inside.mean() > 0.9
    assert mean.mean.std() == pytest.approx(expected, rel=0.2)  # the formula itself


def test_the_error_of_a_power_falls_with_the_time_not_its_root() -> None:
    """The work that a potential does is bounded, so that its mean power is that over the time."""
    t = np.arange(2**14) * 0.37
    mean = RunningMean(1)
    for power in np.cos(t) + 0.2 * np.cos(1.7 * t):
        mean.add(np.array([power]))
    assert mean.error[0] < 0.1 / np.sqrt(2**14)
    assert abs(mean.mean[0]) < 3.0 * mean.error[0] + 1e-4


@pytest.mark.parametrize("n", [1, 2, 3, 4, 100, 1023, 1024, 1025])
def test_a_late_mean_is_of_the_last_half_or_more(n: int) -> None:
    samples = np.random.default_rng(0).normal(size=(n, 2))
    mean = LateMean(2)
    for sample in samples:
        mean.add(sample)
    count = mean.late.count
    assert n / 2 <= count <= max(3 * n / 4, 1)
    np.testing.assert_allclose(mean.late.mean, samples[n - count :].mean(axis=0), rtol=1e-12)


def test_few_samples_have_no_error() -> None:
    mean = RunningMean(1)
    assert np.isnan(mean.mean).all()
    samples = np.random.default_rng(0).normal(size=1024)
    for sample in samples[:16]:
        mean.add(np.array([sample]))
        assert np.isnan(mean.error).all()
    for sample in samples[16:]:
        mean.add(np.array([sample]))
    assert np.isfinite(mean.error).all()


# Against an integration of our own ---------------------------------------------------------------

N, DT = 5, 0.002  # ps
MASSES = np.array([12.0, 63.5, 107.9, 1.0, 197.0])
NUMBERS = np.array([6, 29, 47, 1, 79])
PER_MASS = 1.0 / 1.0364269656e-4  # Å/ps² of eV/Å/amu (CODATA: e / (amu · 1e4 m²/s²))


def trajectory(force, n_steps: int = 400):
    """Velocity Verlet: positions, velocities at the step, half a step before, forces."""
    rng = np.random.default_rng(3)
    x, v = rng.normal(size=(N, 3)), rng.normal(size=(N, 3))
    f = force(x)
    yield x, v, v, f
    for _ in range(n_steps):
        half = v + 0.5 * DT * PER_MASS * f / MASSES[:, None]
        x = x + DT * half
        f = force(x)
        v = half + 0.5 * DT * PER_MASS * f / MASSES[:, None]
        yield x, v, half, f


def moment(v: np.ndarray, kind: Kind = Kind.RUN) -> Moment:
    return Moment(step=1, kind=kind, timestep=DT, velocities=v, masses=MASSES)


def test_velocities_of_the_step_are_found_again() -> None:
    for k, (_, v, half, f) in enumerate(trajectory(lambda x: -0.01 * x, 20)):
        kind = Kind.RUN if k else Kind.SETUP
        np.testing.assert_allclose(on_step(moment(half, kind), f), v, rtol=1e-6)


def test_the_power_of_a_gradient_is_what_its_potential_loses() -> None:
    stiffness = 0.02  # eV/Å²
    heat, energies = Heat(NUMBERS), []
    for k, (x, _, half, f) in enumerate(trajectory(lambda x: -stiffness * x)):
        energies.append(0.5 * stiffness * (x**2).sum())
        if k:
            heat.add(moment(half), f)
    late = heat.figures.late
    work = late.mean[0] * N * DT * late.count
    lost = energies[400 - late.count] - energies[-1]  # by the trapezia, the work by rectangles
    assert work == pytest.approx(lost, rel=0.1)
    assert abs(lost) > 0.1 * energies[0]


def test_the_power_of_a_whirl_is_what_the_kinetic_energy_gains() -> None:
    """F = w × x is no gradient: every turn heats."""

    def whirl(x: np.ndarray) -> np.ndarray:
        return 0.005 * np.cross([0.0, 0.0, 1.0], x) - 0.02 * x

    heat, kinetic, energies = Heat(NUMBERS), [], []
    for k, (x, v, half, f) in enumerate(trajectory(whirl, 2000)):
        kinetic.append(0.5 * (MASSES[:, None] * v**2).sum() / PER_MASS)
        energies.append(kinetic[-1] + 0.01 * (x**2).sum())
        if k:
            heat.add(moment(half), f)
    assert energies[-1] > 1.1 * energies[0]  # it heats
    rate, _ = heat.heating
    late = heat.figures.late.count
    gained = rate * 1.5 * units.kB * N * DT * late
    assert gained == pytest.approx(kinetic[-1] - kinetic[2000 - late], rel=1e-2)


def test_temperatures_are_of_elements() -> None:
    rng = np.random.default_rng(5)
    numbers = np.repeat([29, 47], 4000)
    masses = np.repeat([63.546, 107.868], 4000)
    wanted = np.repeat([300.0, 500.0], 4000)
    v = rng.normal(size=(8000, 3)) * np.sqrt(units.kB * wanted / masses * PER_MASS)[:, None]
    heat = Heat(numbers)
    heat.add(Moment(kind=Kind.RUN, timestep=0.0, velocities=v, masses=masses), np.zeros((8000, 3)))
    assert heat.temperatures["Cu"][0] == pytest.approx(300.0, rel=0.03)
    assert heat.temperatures["Ag"][0] == pytest.approx(500.0, rel=0.03)
    atoms = Atoms(numbers, np.zeros((8000, 3)), masses=masses)
    atoms.set_velocities(v / (1000.0 * units.fs))
    mean = 0.5 * (heat.temperatures["Cu"][0] + heat.temperatures["Ag"][0])
    assert mean == pytest.approx(atoms.get_temperature(), rel=1e-6)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (301.24, 2.3, "301 ± 2"), (0.01234, 0.0034, "0.012 ± 0.003"), (5.0, np.nan, "5"),
        (1234.0, 56.0, "1234 ± 56"), (0.0, 0.0, "0"),
    ],
)  # fmt: skip
def test_a_value_has_no_more_digits_than_its_error(value, error, text) -> None:
    assert with_error(value, error) == text


# Against LAMMPS ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("plugin")
def test_temperatures_of_a_run_are_lammps_own(tmp_path: Path) -> None:
    said: list[str] = []
    watch = HeatWatch(said.append)
    evaluator = WatchedEvaluator(load_evaluator("ase:lj,sigma=3.4,epsilon=0.0104,rc=8.0"), [watch])
    with in_thread(tmp_path / "s", evaluator):
        script = (
            crystal(cells=2)
            + NO_PAIR
            + EXTERNAL
            + f"forcenet ext unix:{tmp_path}/s elements Ar\n"
            + "fix move all nve\ntimestep 0.002\n"
            + "compute t all temp\ncompute_modify t extra/dof 0\n"
            + "thermo_style custom step c_t\nthermo_modify format float %.12g\nthermo 1\nrun 60\n"
        )
        done = run(script, tmp_path)
        assert done.returncode == 0, done.output
    [table] = done.thermo()
    heat = watch._heats[0]
    late = heat.figures.late
    assert (heat.figures.total, late.count) == (60, 60 - 16)
    assert heat.temperatures["Ar"][0] == pytest.approx(table[17:, 1].mean(), rel=1e-5)
    assert np.ptp(table[:, 1]) > 5.0  # the forces matter
    watch.close()
    assert len(said) == 1
    assert said[0].startswith("heat: mean of the last 44 of 60 steps: temperatures in K Ar ")


def test_who_sends_no_velocities_is_passed_over() -> None:
    said: list[str] = []
    watch = HeatWatch(said.append, every=0.0)
    system = System.make(np.zeros((1, 3)), [29], np.zeros((3, 3)), False)
    watch.see(Request(object(), system), Forces(np.zeros((1, 3))))
    watch.close()
    assert said == []
