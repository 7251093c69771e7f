"""Heat of a run: power, temperatures and their errors, against integrals and LAMMPS's own; and what
LAMMPS says of itself to those who watch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from lammps_runs import EXTERNAL, NO_PAIR, crystal, run
from serving import in_thread

from forcenet_md.blocking import with_error
from forcenet_md.inference.interface import Kind, Moment, Request
from forcenet_md.inference.kinetics import velocities_at_step
from forcenet_md.inference.load import load_evaluator
from forcenet_md.inference.watched import WatchedEvaluator
from forcenet_md.system import Forces, System
from forcenet_md.watching.heat import Heat, HeatWatch
from forcenet_md.watching.ranks import RanksHeat
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


def moment(v: np.ndarray, step: int = 1, kind: Kind = Kind.RUN) -> Moment:
    return Moment(step=step, kind=kind, timestep=DT, velocities=v, masses=MASSES)


def watched(force, n_steps: int) -> HeatWatch:
    """Who has seen that trajectory; its last step is not yet judged."""
    watch = HeatWatch(lambda line: None)
    for k, (x, _, half, f) in enumerate(trajectory(force, n_steps)):
        system = System.make(x, NUMBERS, np.zeros((3, 3)), False)
        at = moment(half, k, Kind.RUN if k else Kind.SETUP)
        watch.see(Request(object(), system, moment=at), Forces(f))
    return watch


def test_velocities_of_the_step_are_found_again() -> None:
    """Before the next step is known, and after."""
    steps = list(trajectory(lambda x: -0.01 * x, 20))
    for k, (_, v, half, f) in enumerate(steps):
        now = moment(half, k, Kind.RUN if k else Kind.SETUP)
        np.testing.assert_allclose(velocities_at_step(now, f), v, rtol=1e-6)
        if k < 20:
            # with a force that the model does not know of, as of a thermostat
            other = moment(v + (v - half) + 0.3 if k else half, k + 1)
            found = velocities_at_step(now, f, other)
            np.testing.assert_allclose(found, v + 0.15 if k else v, rtol=1e-6)
        later = moment(half, k + 2)
        np.testing.assert_allclose(velocities_at_step(now, f, later), v, rtol=1e-6)


def test_the_power_of_a_gradient_is_what_its_potential_loses() -> None:
    stiffness = 0.02  # eV/Å²

    def force(x: np.ndarray) -> np.ndarray:
        return -stiffness * x

    energies = [0.5 * stiffness * (x**2).sum() for x, *_ in trajectory(force)]
    late = watched(force, 400)._streams[0].heat.figures.late
    work = late.mean[0] * N * DT * late.count
    lost = energies[399 - late.count] - energies[399]  # by the trapezia, the work by rectangles
    assert work == pytest.approx(lost, rel=0.1)
    assert abs(lost) > 0.1 * energies[0]


def test_the_power_of_a_whirl_is_what_the_kinetic_energy_gains() -> None:
    """F = w × x is no gradient: every turn heats."""

    def whirl(x: np.ndarray) -> np.ndarray:
        return 0.005 * np.cross([0.0, 0.0, 1.0], x) - 0.02 * x

    kinetic, energies = [], []
    for x, v, *_ in trajectory(whirl, 2000):
        kinetic.append(0.5 * (MASSES[:, None] * v**2).sum() / PER_MASS)
        energies.append(kinetic[-1] + 0.01 * (x**2).sum())
    assert energies[-1] > 1.1 * energies[0]  # it heats
    heat = watched(whirl, 2000)._streams[0].heat
    rate, _ = heat.heating
    late = heat.figures.late.count
    gained = rate * 3.0 * units.kB * N * DT * late
    assert gained == pytest.approx(kinetic[1999] - kinetic[1999 - late], rel=1e-2)


def test_temperatures_are_of_elements() -> None:
    rng = np.random.default_rng(5)
    numbers = np.repeat([29, 47], 4000)
    masses = np.repeat([63.546, 107.868], 4000)
    wanted = np.repeat([300.0, 500.0], 4000)
    v = rng.normal(size=(8000, 3)) * np.sqrt(units.kB * wanted / masses * PER_MASS)[:, None]
    heat = Heat(numbers)
    heat.add(heat.sums(numbers, masses, v, np.zeros((8000, 3))))
    assert heat.temperatures["Cu"][0] == pytest.approx(300.0, rel=0.03)
    assert heat.temperatures["Ag"][0] == pytest.approx(500.0, rel=0.03)
    atoms = Atoms(numbers, np.zeros((8000, 3)), masses=masses)
    atoms.set_velocities(v / (1000.0 * units.fs))
    mean = 0.5 * (heat.temperatures["Cu"][0] + heat.temperatures["Ag"][0])
    assert mean == pytest.approx(atoms.get_temperature(), rel=1e-6)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (301.24, 2.3, "301 ± 2"), (0.01234, 0.0034, "0.012 ± 0.003"), (5.0, np.nan, "5 ± ?"),
        (1234.0, 56.0, "1234 ± 56"), (-0.37, 94.2, "0 ± 94"), (0.0, 0.0, "0"),
        (-0.0, np.nan, "0 ± ?"), (1143.2, np.inf, "1143 ± ?"), (-0.3, 2.0, "0 ± 2"),
    ],
)  # fmt: skip
def test_a_value_has_no_more_digits_than_its_error(value, error, text) -> None:
    assert with_error(value, error) == text


# Against LAMMPS ----------------------------------------------------------------------------------

STEPS, TIMESTEP = 60, 0.002  # ps


class Seen:
    """A watcher that remembers."""

    velocities = True

    def __init__(self) -> None:
        self.seen: list[tuple[Request, Forces]] = []

    def see(self, request: Request, forces: Forces) -> None:
        self.seen.append((request, forces))

    def close(self) -> None: ...

    def heat(self, first: int, last: int) -> HeatWatch:
        """Of steps; that of the last is not yet judged."""
        watch = HeatWatch(lambda line: None)
        for request, forces in self.seen:
            moment = request.moment
            if moment.kind is Kind.RUN and first <= (moment.step or 0) <= last:
                watch.see(request, forces)
        return watch


@dataclass
class Lived:
    """A run of argon: constant energy, then a thermostat whose time constant is ten timesteps.

    temperatures: K, of every step of both; velocities: [n_steps, n_atoms, 3] Å/ps
    """

    watcher: Seen
    temperatures: np.ndarray
    velocities: np.ndarray


@pytest.fixture(scope="module")
def lived(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    folder = tmp_path_factory.mktemp("lived")
    watcher = Seen()
    model = load_evaluator("ase:lj,sigma=3.4,epsilon=0.0104,rc=8.0")
    with in_thread(folder / "s", WatchedEvaluator(model, [watcher])):
        script = (
            crystal(cells=2)
            + NO_PAIR
            + EXTERNAL
            + f"forcenet ext unix:{folder}/s elements Ar\n"
            + f"fix move all nve\ntimestep {TIMESTEP}\n"
            + "compute t all temp\ncompute_modify t extra/dof 0\n"
            + "thermo_style custom step c_t\nthermo_modify format float %.12g\nthermo 1\n"
            + "dump d all custom 1 dump.txt vx vy vz\ndump_modify d sort id format float %.17g\n"
            + f"run {STEPS}\n"
            + f"fix hot all langevin 40 40 {10 * TIMESTEP} 4711\nrun {STEPS}\n"
        )
        done = run(script, folder)
        assert done.returncode == 0, done.output
    cold, hot = done.thermo()
    blocks = (folder / "dump.txt").read_text().split("ITEM: TIMESTEP\n")[1:]
    velocities = [[line.split() for line in block.splitlines()[8:]] for block in blocks]
    temperatures = np.concatenate([cold[:, 1], hot[1:, 1]])
    return Lived(watcher, temperatures, np.array(velocities, dtype=float))


def test_held_atoms_have_no_temperature(plugin: Path, tmp_path: Path) -> None:
    """Of 32 the last 12: LAMMPS's figure is of the others alone."""
    watcher = Seen()
    model = load_evaluator("ase:lj,sigma=3.4,epsilon=0.0104,rc=8.0")
    with in_thread(tmp_path / "s", WatchedEvaluator(model, [watcher])):
        script = (
            crystal(cells=2)
            + NO_PAIR
            + EXTERNAL
            + f"forcenet ext unix:{tmp_path}/s elements Ar\n"
            + "group held id > 20\ngroup moving subtract all held\n"
            + "velocity held set 0 0 0\nfix hold held setforce 0 0 0\n"
            + f"fix move all nve\ntimestep {TIMESTEP}\n"
            + "compute t moving temp\ncompute_modify t extra/dof 0\n"
            + "thermo_style custom step c_t\nthermo_modify format float %.12g\nthermo 1\nrun 30\n"
        )
        done = run(script, tmp_path)
        assert done.returncode == 0, done.output
    [thermo] = done.thermo()
    heat = watcher.heat(1, 30)._streams[0].heat
    late = heat.figures.late.count
    expected = thermo[30 - late : 30, 1].mean()
    assert heat.temperatures["Ar"][0] == pytest.approx(expected, rel=3e-6)  # k_B
    on_ranks = RanksHeat(lambda line: None)
    on_ranks.begin(np.array([18]))
    for request, answer in watcher.seen:
        on_ranks.add(request, answer.forces, on_ranks.sums(request))
    assert on_ranks._heat.temperatures["Ar"][0] == heat.temperatures["Ar"][0]
    assert on_ranks._heat.heating[0] == heat.heating[0]
    # Half a kick, where no step follows, does not move them either.
    request, answer = watcher.seen[-1]
    last = velocities_at_step(request.moment, answer.forces)
    assert np.abs(answer.forces[20:]).min() > 1e-4
    np.testing.assert_array_equal(last[20:], 0.0)
    assert (last[:20] != request.moment.velocities[:20]).all()


def test_what_lammps_says_of_itself_reaches_the_watcher(lived: Lived) -> None:
    pairs = lived.watcher.seen
    moments = [request.moment for request, _ in pairs]
    assert [moment.step for moment in moments] == [*range(61), *range(60, 121)]
    assert {k for k, m in enumerate(moments) if m.kind is Kind.SETUP} == {0, 61}
    assert {m.kind for m in moments} == {Kind.SETUP, Kind.RUN}
    for moment in moments:
        assert moment.timestep == pytest.approx(TIMESTEP)
        assert moment.stream == 0
        assert moment.ids is not None
        assert moment.masses is not None
        np.testing.assert_array_equal(moment.ids, np.arange(1, 33))
        np.testing.assert_allclose(moment.masses, 39.948)
    for k, step in ((0, 0), (61, 60)):
        np.testing.assert_allclose(moments[k].velocities, lived.velocities[step], rtol=1e-12)
    # velocity Verlet: at step 1 the forces are asked for half a kick after step 0
    half = lived.velocities[0] + 0.5 * TIMESTEP * pairs[0][1].forces / 39.948 * PER_MASS
    np.testing.assert_allclose(moments[1].velocities, half, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("first", [1, 1 + STEPS])
def test_temperatures_and_power_of_a_run_are_lammps_own(first: int, lived: Lived) -> None:
    """Also under a thermostat, of whose forces the model knows nothing."""
    watch = lived.watcher.heat(first, first + 59)
    heat = watch._streams[0].heat
    assert (heat.figures.total, heat.figures.late.count) == (59, 59 - 16)
    late = range(first + 16, first + 59)
    own = lived.temperatures[late]
    assert heat.temperatures["Ar"][0] == pytest.approx(own.mean(), rel=3e-6)  # k_B
    assert np.ptp(own) > 5.0  # the forces matter
    forces = {request.moment.step: answer.forces for request, answer in lived.watcher.seen}
    power = [(forces[step] * lived.velocities[step]).sum() / 32 for step in late]
    assert heat.figures.late.mean[0] == pytest.approx(np.mean(power), rel=1e-5)
    rate = np.mean(power) / (3.0 * units.kB)
    assert heat.heating[0] == pytest.approx(rate, rel=1e-5)


def test_half_a_kick_of_the_model_reads_too_warm_under_a_thermostat(lived: Lived) -> None:
    """By half the timestep over the time constant: why the step after is waited for."""
    pairs = [p for p in lived.watcher.seen if p[0].moment.step > 60 and p[0].moment.kind == 1]
    kicked = [velocities_at_step(r.moment, f.forces) for r, f in pairs]
    of_kicked = np.mean([(v**2).sum() for v in kicked])
    own = np.mean([(v**2).sum() for v in lived.velocities[61:]])
    assert of_kicked / own == pytest.approx(1.05, abs=0.03)


@pytest.mark.parametrize("every", [1000, 7])
def test_ranks_find_what_one_finds(every: int, lived: Lived) -> None:
    """Two, between which a fifth of the atoms go to and fro every so many steps; those that go are
    left out in that step."""
    rng, said = np.random.default_rng(0), []
    heats = [RanksHeat(said.append), RanksHeat(said.append)]
    for heat in heats:
        heat.begin(np.array([18, 29, 18]))  # no copper
    home = np.arange(32) % 2
    for k, (request, answer) in enumerate(lived.watcher.seen):
        moment, system = request.moment, request.system
        if k % every == every - 1:
            home[rng.choice(32, 6, replace=False)] ^= 1
        rows = [rng.permutation(np.flatnonzero(home == rank)) for rank in (0, 1)]
        parts = [
            replace(
                request,
                system=replace(system, positions=system.positions[r], numbers=system.numbers[r]),
                moment=replace(
                    moment,
                    ids=moment.ids[r],
                    masses=moment.masses[r],
                    velocities=moment.velocities[r],
                ),
            )
            for r in rows
        ]
        sums = sum(heat.sums(part) for heat, part in zip(heats, parts, strict=True))
        for heat, part, r in zip(heats, parts, rows, strict=True):
            heat.add(part, answer.forces[r], sums)
    one = HeatWatch(said.append)
    for pair in lived.watcher.seen:
        one.see(*pair)
    own, found = one._streams[0].heat, heats[0]._heat
    assert found.figures.total == own.figures.total == 119
    exact = every == 1000
    for ours, theirs in ((found.temperatures, own.temperatures), (found.heating, own.heating)):
        if isinstance(ours, dict):
            assert list(ours) == ["Ar"]
            ours, theirs = ours["Ar"], theirs["Ar"]
        assert ours[0] == pytest.approx(theirs[0], rel=1e-9 if exact else 0.05)
    assert exact == (found.heating[0] == pytest.approx(own.heating[0], rel=1e-9))
    for heat in heats:
        heat.tell()
    assert said[0] == said[1]
    assert "temperatures in K Ar " in said[0]


def test_the_log_tells_a_run_at_its_end(lived: Lived) -> None:
    said: list[str] = []
    watch = HeatWatch(said.append)
    for pair in lived.watcher.seen:
        watch.see(*pair)
    assert said == []
    watch.close()
    assert len(said) == 1
    assert said[0].startswith("heat: mean of the last 88 of 120 steps: temperatures in K Ar ")


def test_other_atoms_are_another_run() -> None:
    said: list[str] = []
    watch = HeatWatch(said.append)
    for k, numbers in enumerate(([29, 29], [29, 29], [29, 47], [29, 47], [29, 47])):
        system = System.make(np.eye(3)[:2], numbers, np.zeros((3, 3)), False)
        at = Moment(step=k, timestep=DT, velocities=np.ones((2, 3)), masses=MASSES[:2])
        watch.see(Request(object(), system, moment=at), Forces(np.zeros((2, 3))))
    assert watch.figures(0)["temperature"].startswith("Cu ")
    assert " Ag " in watch.figures(0)["temperature"]
    watch.close()
    assert ["of 2 steps" in said[0], "of 3 steps" in said[1], len(said)] == [True, True, 2]


def test_heating_is_told_with_its_error() -> None:
    rng = np.random.default_rng(0)
    heat = Heat(np.array([29]))
    for power in rng.normal(0.05, 0.01, 512):  # eV/ps
        heat.add(np.array([power, 1.0, 0.1]))
    rate = 0.05 / (3.0 * units.kB)
    found = re.fullmatch(r"(\d+) ± (\d)", heat.told()["heating"])
    assert found, heat.told()
    assert float(found[2]) == pytest.approx(0.2 * rate / np.sqrt(256), rel=0.5)
    assert float(found[1]) == pytest.approx(rate, abs=4.0 * float(found[2]))
    assert heat.told()["means"] == "100 steps, heating 256"
    assert heat.describe().endswith(f"{found[0]} K/ps, power / (degrees of freedom x k_B)")


def test_no_heating_is_told_before_its_error_is_known(lived: Lived) -> None:
    """Of 19 steps the last 11 count, which is less than can be told of. Temperatures are told,
    with a word that the error is not known."""
    said: list[str] = []
    watch = HeatWatch(said.append)
    for request, forces in lived.watcher.seen[:20]:
        watch.see(request, forces)
    told = watch.figures(0)
    assert set(told) == {"temperature", "means"}
    assert told["means"] == "18 steps"
    watch.close()
    assert re.search(r"temperatures in K Ar [0-9.]+ ± \?; .* heat is not known", said[0])


def shown(watch: HeatWatch, v: np.ndarray, at: Moment) -> None:
    """Atoms of copper at these velocities [n_atoms, 3] Å/ps, of whom nothing is asked."""
    masses = np.full(len(v), 63.5)
    system = System.make(np.zeros(v.shape), [29] * len(v), np.zeros((3, 3)), False)
    at = replace(at, velocities=v, masses=masses)
    watch.see(Request(object(), system, moment=at), Forces(np.zeros(v.shape)))


def test_figures_are_of_one_simulation() -> None:
    """Not of another client's that came after it, nor of one that begins again. Runs that go on
    from where the last one ended, with a relaxation between them, are one."""
    said: list[str] = []
    watch = HeatWatch(said.append)
    for client, steps, speed in ((1, range(1, 7), 30.0), (1, range(3), 10.0), (2, range(2, 5), 1)):
        for step in steps:
            kind = Kind.RUN if step else Kind.SETUP
            shown(watch, np.full((2, 3), speed), Moment(client=client, step=step, kind=kind))
    for step, kind in ((4, Kind.SETUP), (5, Kind.MINIMISE), (5, Kind.SETUP), (6, Kind.RUN)):
        shown(watch, np.full((2, 3), 1.0), Moment(client=2, step=step, kind=kind))
    heat = watch._streams[0].heat
    assert heat.temperatures["Cu"][0] == pytest.approx(63.5 / PER_MASS / units.kB)
    watch.left(1)  # another's
    assert len(said) == 2
    watch.left(0)
    assert watch.figures(0)  # still there to be looked at
    watch.close()
    assert [re.search("of ([0-9]+) steps", line)[1] for line in said] == ["6", "2", "4"]
    assert [line.startswith("heat: of the run before, ") for line in said] == [True, True, False]


def test_ranks_begin_anew_where_steps_go_back() -> None:
    said: list[str] = []
    heat = RanksHeat(said.append)
    heat.begin(np.array([29]))
    for step, speed in ((1, 30.0), (2, 30.0), (1, 1.0), (2, 1.0)):
        system = System.make(np.zeros((2, 3)), [29, 29], np.zeros((3, 3)), False)
        at = Moment(step=step, masses=np.full(2, 63.5), velocities=np.full((2, 3), speed))
        request = Request(object(), system, moment=replace(at, ids=np.arange(2)))
        heat.add(request, np.zeros((2, 3)), heat.sums(request))
    assert heat._heat.temperatures["Cu"][0] == pytest.approx(63.5 / PER_MASS / units.kB)
    assert "of 2 steps" in said[0]


def test_who_sends_no_velocities_is_passed_over() -> None:
    said: list[str] = []
    watch = HeatWatch(said.append, every=0.0)
    system = System.make(np.zeros((1, 3)), [29], np.zeros((3, 3)), False)
    watch.see(Request(object(), system), Forces(np.zeros((1, 3))))
    watch.close()
    assert said == []
