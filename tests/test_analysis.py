"""Figures of runs against what is known of them, and against MDAnalysis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase import units as u
from ase.build import bulk
from runs_on_disk import PS, walk

from forcenet_md.errors import DataError
from forcenet_md.simulation import analysis
from forcenet_md.simulation.analysis import Settings, analyse
from forcenet_md.simulation.analysis_files import write_analysis
from forcenet_md.simulation.analysis_table import MAX_ROWS, shown, title
from forcenet_md.simulation.comparison import compare
from forcenet_md.simulation.coordination import first_minimum
from forcenet_md.simulation.displacement import (
    Diffusion,
    DisplacementSums,
    diffusion,
    finite_size,
)
from forcenet_md.simulation.findings import Report
from forcenet_md.simulation.judging import Run
from forcenet_md.simulation.observables import pair_distribution
from forcenet_md.simulation.snapshot import Snapshot
from forcenet_md.simulation.statistics import Estimate
from forcenet_md.simulation.vibration import CM1_PER_THZ, Correlation

SPACING = 0.1  # ps


def snapshots(frames: Sequence[Atoms], spacing: float = SPACING) -> Iterator[Snapshot]:
    """As a trajectory gives them: unwrapped."""
    for k, atoms in enumerate(frames):
        velocities = atoms.get_velocities() * PS if atoms.has("momenta") else None
        yield Snapshot(
            numbers=atoms.numbers,
            masses=atoms.get_masses(),
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            velocities=velocities,
            energy=atoms.info.get("energy"),
            step=k,
            time=k * spacing,
            unwrapped=True,
        )


def judged(
    frames: Sequence[Atoms],
    settings: Settings | None = None,
    name: str = "run",
    spacing: float = SPACING,
) -> Run:
    return Run(analyse(snapshots(frames, spacing), settings), name, [], [])


def coefficient(found: Diffusion) -> Estimate:
    assert found.coefficient is not None
    return found.coefficient


# Structure ---------------------------------------------------------------------------------------


def rattled(n_frames: int = 16, amplitude: float = 0.05) -> list[Atoms]:
    rng = np.random.default_rng(0)
    perfect = bulk("Cu", cubic=True, a=3.6) * 3
    frames = []
    for _ in range(n_frames):
        frames.append(perfect.copy())
        frames[-1].positions += rng.normal(scale=amplitude, size=perfect.positions.shape)
    return frames


def test_neighbours_of_fcc_are_twelve() -> None:
    pair = judged(rattled()).findings.pairs["Cu-Cu"]
    assert pair.first_peak == pytest.approx(3.6 / np.sqrt(2.0), abs=0.05)
    # between the shells at 2.55 and 3.6 Å
    assert pair.first_minimum == pytest.approx(3.07, abs=0.15)
    near = pair.neighbours["Cu around Cu"]
    assert near.value == pytest.approx(12.0, abs=1e-9)
    assert near.error == pytest.approx(0.0, abs=1e-9)


def test_neighbours_around_either_element() -> None:
    """Cu3Au: twelve Cu around Au, four Au and eight Cu around Cu."""
    rng = np.random.default_rng(0)
    cell = bulk("Cu", cubic=True, a=3.75)
    cell.symbols[0] = "Au"
    atoms = cell * 3
    frames = [atoms.copy() for _ in range(10)]
    for each in frames:
        each.positions += rng.normal(scale=0.05, size=each.positions.shape)
    pairs = judged(frames).findings.pairs
    found = {k: v.value for pair in ("Au-Cu", "Cu-Cu") for k, v in pairs[pair].neighbours.items()}
    assert found == pytest.approx({"Au around Cu": 4.0, "Cu around Au": 12.0, "Cu around Cu": 8.0})


def test_a_gas_has_no_first_minimum() -> None:
    gas = walk(40, ["Ar"] * 200, step=5.0)
    run = judged(gas)
    assert run.curves.g is not None
    np.testing.assert_allclose(run.curves.g.g["Ar-Ar"][40:], 1.0, atol=0.1)
    assert run.findings.pairs["Ar-Ar"].first_minimum is None
    assert run.findings.pairs["Ar-Ar"].neighbours == {}
    nothing = 0.0 * run.curves.g.r
    assert first_minimum(run.curves.g.r, nothing, nothing) is None


@pytest.mark.slow
def test_errors_of_neighbours_are_those_between_runs() -> None:
    """The number within a radius in many runs of a gas: ρ 4/3 π r³."""
    found = []
    for seed in range(60):
        run = judged(walk(48, ["Ar"] * 10, step=4.0, seed=seed), Settings(r_max=4.0))
        found.append(run.neighbours("Ar-Ar", 3.5)["Ar around Ar"])
    values = np.array([each.value for each in found])
    errors = np.array([each.error for each in found], dtype=float)
    exact = 9.0 / 720.0 * 4.0 / 3.0 * np.pi * 3.5**3
    assert values.std() == pytest.approx(np.sqrt((errors**2).mean()), rel=0.25)
    assert values.mean() == pytest.approx(exact, abs=3.0 * errors.mean() / np.sqrt(60))


def test_g_agrees_with_mdanalysis() -> None:
    """Of two elements in a skewed cell, one bin for one."""
    from MDAnalysis import Universe
    from MDAnalysis.analysis.rdf import InterRDF

    frames = walk(6, ["Ag"] * 40 + ["Cu"] * 25, step=0.5, tilted=True)
    for atoms in frames:
        atoms.set_cell(2.0 * atoms.cell.array)
        atoms.wrap()
    g = pair_distribution(frames, r_max=6.0, n_bins=60).g
    universe = Universe.empty(65, trajectory=True)
    universe.load_new(
        np.array([atoms.positions for atoms in frames]),
        dimensions=np.array([atoms.cell.cellpar() for atoms in frames]),
    )
    rotated = [atoms.copy() for atoms in frames]  # as the box's six numbers place the cell
    for k, atoms in enumerate(rotated):
        standard, _ = atoms.cell.standard_form()
        atoms.set_cell(standard, scale_atoms=True)
        universe.trajectory.coordinate_array[k] = atoms.positions
    groups = {"Ag": universe.atoms[:40], "Cu": universe.atoms[40:]}
    for pair, found in g.items():
        one, other = pair.split("-")
        block = (1, 1) if one == other else None
        theirs = InterRDF(
            groups[one], groups[other], nbins=60, range=(0.0, 6.0), exclusion_block=block
        )
        theirs.run()
        np.testing.assert_allclose(found, theirs.results.rdf, rtol=2e-3, atol=0.02, err_msg=pair)


# Motion ------------------------------------------------------------------------------------------


def test_displacements_agree_with_mdanalysis() -> None:
    """At each lag that has every frame as its origin, and over every second frame beyond."""
    from MDAnalysis import Universe
    from MDAnalysis.analysis.msd import EinsteinMSD

    frames = walk(100, ["Ag"] * 4, step=0.3)
    sums = DisplacementSums(np.zeros(4, dtype=np.int64), 1)
    for atoms in frames:
        sums.add(atoms.positions)
    found = sums.result()
    positions = np.array([atoms.positions for atoms in frames])
    universe = Universe.empty(4, trajectory=True)
    universe.load_new(positions)
    theirs = EinsteinMSD(universe, fft=False)
    theirs.run()
    first = found.lag <= 16
    assert found.lag[first].tolist() == list(range(1, 17))
    reference = theirs.results.timeseries[found.lag[first]]
    np.testing.assert_allclose(found.total[first, 0], reference, rtol=1e-5)
    for lag, value in zip(found.lag[~first], found.total[~first, 0], strict=True):
        every = 2 ** int(np.ceil(np.log2(lag / 16)))
        moved = positions[lag::every] - positions[: len(positions) - lag : every]
        assert lag % every == 0
        assert value == pytest.approx((moved**2).sum(axis=2).mean(), rel=1e-12)
    assert found.lag.tolist()[16:] == [*range(18, 33, 2), *range(36, 65, 4), 72, 80, 88, 96]


def test_diffusion_of_random_walks() -> None:
    """D = s² / 2 Δt of steps with deviation s in each direction, of two elements; the centre of
    mass is taken out, and with it one part in n."""
    n = 20
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(1500, 2 * n, 3)) * np.repeat([0.1, 0.2], n)[:, None]
    frames = [Atoms(["Ag"] * n + ["Cu"] * n, x) for x in np.cumsum(steps, axis=0)]
    found = judged(frames).findings.diffusion
    part = frames[0].get_masses() / frames[0].get_masses().sum()
    variance = np.repeat([0.01, 0.04], n)
    drift = (part**2 * variance).sum()
    for k, name in ((0, "Ag"), (n, "Cu")):
        each = coefficient(found[name])
        exact = (variance[k] * (1.0 - 2.0 * part[k]) + drift) / (2.0 * SPACING)
        assert each.error is not None
        assert each.value == pytest.approx(exact, rel=0.15)
        assert 0.01 < each.error / exact < 0.15
        assert found[name].slope.value == pytest.approx(1.0, abs=0.15)
        per_second = found[name].cm2_per_s
        assert per_second is not None
        assert per_second.value == pytest.approx(1e-4 * each.value)


@pytest.mark.slow
def test_errors_of_diffusion_are_those_between_runs() -> None:
    found = []
    for seed in range(150):
        steps = np.random.default_rng(seed).normal(scale=0.1, size=(600, 10, 3))
        sums = DisplacementSums(np.zeros(10, dtype=np.int64), 1)
        for positions in np.cumsum(steps, axis=0):
            sums.add(positions)
        all_of = sums.result(8)
        each = diffusion(
            all_of.times(SPACING),
            all_of.total[:, 0],
            [part[:, 0] for part in all_of.parts],
            (59.9 / 32.0, 59.9 / 16.0),
        )
        assert each is not None
        found.append(coefficient(each))
    values = np.array([each.value for each in found])
    errors = np.array([each.error for each in found], dtype=float)
    assert values.std() == pytest.approx(np.sqrt((errors**2).mean()), rel=0.15)
    exact = 0.01 / (2.0 * SPACING)
    assert values.mean() == pytest.approx(exact, abs=3.0 * values.std() / np.sqrt(150))


def test_free_flight_is_not_called_diffusion() -> None:
    rng = np.random.default_rng(0)
    velocities = rng.normal(size=(30, 3))
    start = rng.random((30, 3)) * 10.0
    flying = [Atoms(["Ar"] * 30, start + velocities * SPACING * k) for k in range(200)]
    bound = [Atoms(["Ar"] * 30, start + rng.normal(scale=0.1, size=(30, 3))) for _ in range(200)]
    for frames, power in ((flying, 2.0), (bound, 0.0)):
        run = judged(frames)
        slope = run.findings.diffusion["Ar"].slope
        assert slope.value == pytest.approx(power, abs=0.05)
        assert any("Not diffusive" in remark for remark in run.findings.remarks)
        assert not any("thermostat" in remark for remark in run.findings.remarks)


def test_the_centre_of_mass_is_taken_out_and_told() -> None:
    frames = walk(100, ["Ag"] * 5 + ["Cu"] * 5, step=0.1)
    drifting = [atoms.copy() for atoms in frames]
    for k, atoms in enumerate(drifting):
        atoms.positions += [0.3 * k, 0.0, 0.0]
    still, moved = judged(frames).findings, judged(drifting).findings
    for name in ("Ag", "Cu"):
        mine, theirs = (coefficient(each.diffusion[name]) for each in (moved, still))
        assert mine.value == pytest.approx(theirs.value)
    assert moved.centre_of_mass is not None
    assert moved.centre_of_mass.distance == pytest.approx(0.3 * 99, rel=0.05)
    assert moved.centre_of_mass.per_ps == pytest.approx(3.0, rel=0.05)


def test_a_window_that_is_asked_for() -> None:
    frames = walk(300, ["Ag"] * 8, step=0.1)
    found = judged(frames, Settings(fit=(0.4, 1.2))).findings.diffusion["Ag"]
    assert found.window == pytest.approx((0.4, 1.2))
    # blocks twice as long as a lag of 10 ps are too few for an error in 30 ps
    long = judged(frames, Settings(fit=(5.0, 10.0))).findings.diffusion["Ag"]
    assert coefficient(long).error is None
    for wrong in ((2.0, 1.0), (0.0, 1.0)):
        with pytest.raises(DataError, match="--fit"):
            Settings(fit=wrong)


def test_frames_that_are_missing_or_between() -> None:
    """Nothing is correlated across a gap, and what lies between is in no displacement."""
    rng = np.random.default_rng(0)
    velocities = rng.normal(size=(6, 3))
    velocities -= velocities.mean(axis=0)

    def at(time: float) -> Snapshot:
        jump = 50.0 * rng.normal(size=(6, 1)) if time > 5.05 else 0.0
        return Snapshot(
            np.full(6, 18), np.ones(6), velocities * time + jump, np.zeros((3, 3)),
            np.zeros(3, dtype=bool), time=time,
        )  # fmt: skip

    times = [0.1 * k for k in range(50)] + [4.93]
    whole = analyse(at(t) for t in times[:-1])
    odd = analyse(at(t) for t in times)
    np.testing.assert_allclose(odd.displacements.result().total, whole.displacements.result().total)
    assert odd.even.off == 1
    gap = analyse(at(t) for t in [*times[:-1], 6.0])  # the last is far away
    np.testing.assert_allclose(gap.displacements.result().total, whole.displacements.result().total)
    run = Run(gap, "run", [], [])
    assert any("1 comes after a gap (" in remark for remark in run.findings.remarks)


def test_times_that_are_rounded_are_even() -> None:
    """Single precision after 1000 ps: differences are off by half a per cent, and do not add up."""
    times = [float(np.float32(1000.0 + 0.01 * k)) for k in range(500)]
    even = analysis.EvenTimes(times[:10])
    assert all(even.follows(time) for time in times)
    assert even.follows(times[-1] + 0.02) is False
    assert even.follows(times[-1] + 0.025) is None


def test_held_atoms_are_not_counted() -> None:
    """They would dilute temperatures and displacements; those of the free atoms are as they are."""
    frames = walk(120, ["Cu"] * 12, step=0.1)
    with_held = []
    for atoms in frames:
        held = Atoms(["Cu"] * 6, positions=np.arange(18.0).reshape(6, 3))
        held.set_momenta(np.zeros((6, 3)))
        with_held.append(atoms + held)
    free, mixed = judged(frames), judged(with_held)
    assert mixed.findings.n_held == 6
    temperatures = [run.findings.temperature["Cu"].mean.value for run in (free, mixed)]
    assert temperatures[0] == pytest.approx(temperatures[1])
    # not relative to a centre of mass that the held atoms hold
    positions = np.array([atoms.positions for atoms in frames])
    lag_1 = ((positions[1:] - positions[:-1]) ** 2).sum(axis=2).mean()
    assert mixed.curves.msd["Cu"][0] == pytest.approx(lag_1)
    assert any("6 atoms are held" in remark for remark in mixed.findings.remarks)


def test_finite_size_by_hand() -> None:
    """Water's 20 Å cell: 2.837 kT / (6 π η L) is 0.31e-9 m²/s at 1 mPa s."""
    assert finite_size(300.0, 8000.0) == pytest.approx(0.0312, rel=2e-3)


# Velocities --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_frames", [40, 95, 130])
def test_correlation_is_that_of_all_origins(n_frames: int) -> None:
    """Against a double loop over frames and lags, also across chunks and after a gap."""
    velocities = np.random.default_rng(0).normal(size=(n_frames, 7, 3))
    kind = np.array([0, 0, 1, 1, 1, 0, 1])
    n_lags = 16
    correlation = Correlation(kind, 2, n_lags)
    for k, frame in enumerate(velocities):
        if k == 20:
            correlation.restart()
        correlation.add(frame)
    found = correlation.result().vacf
    parts = [velocities[:20], velocities[20:]]
    for lag in range(min(n_lags, n_frames // 4)):
        products = np.concatenate([(p[lag:] * p[: len(p) - lag]).sum(axis=2) for p in parts])
        for k in (0, 1):
            assert found[lag, k] == pytest.approx(products[:, kind == k].mean(), rel=1e-9)


def oscillators(n_frames: int, spacing: float, thz: dict[str, float]) -> list[Atoms]:
    """Atoms that swing at their element's frequency, with equal kinetic energy."""
    rng = np.random.default_rng(0)
    symbols = [name for name in thz for _ in range(16)]
    omega = 2.0 * np.pi * np.array([thz[name] for name in symbols])[:, None]
    masses = Atoms(symbols).get_masses()[:, None]
    phase = rng.uniform(0.0, 2.0 * np.pi, (len(symbols), 3))
    speed = 1.0 / np.sqrt(masses)
    frames = []
    for k in range(n_frames):
        t = k * spacing
        swing = speed / omega * np.sin(omega * t + phase)
        atoms = Atoms(symbols, positions=swing + np.arange(len(symbols))[:, None])
        atoms.set_velocities(speed * np.cos(omega * t + phase) / PS)
        frames.append(atoms)
    return frames


def test_spectrum_of_oscillators() -> None:
    thz = {"H": 100.0, "O": 40.0}
    run = judged(oscillators(2400, 0.002, thz), Settings(reach=1.0), spacing=0.002)
    found = run.curves.spectrum
    assert found is not None
    for name, frequency in thz.items():
        density = found.density[name]
        assert found.frequency[density.argmax()] == pytest.approx(frequency, abs=0.3)
        assert np.trapezoid(density, found.frequency) == pytest.approx(1.0)
        assert density.min() > -0.02 * density.max()
        half = found.frequency[density > 0.5 * density.max()]
        # The window's width of 1.27 / reach, and half of that on each side
        assert np.ptp(half) == pytest.approx(run.findings.spectrum_resolution, rel=0.25)
    # Weighted by mass the two elements, with equal temperatures and numbers, have equal shares.
    everything = found.density["all"]
    low = found.frequency < 70.0
    share = np.trapezoid(everything[low], found.frequency[low])
    assert share == pytest.approx(0.5, abs=0.02)
    vacf = run.curves.vacf["O"]
    lag = run.curves.vacf_lag
    expected = np.cos(2.0 * np.pi * 40.0 * lag)
    np.testing.assert_allclose(vacf / vacf[0], expected, atol=0.1)
    assert pytest.approx(33.35641) == CM1_PER_THZ
    assert any("250 THz (8339 cm⁻¹)" in remark for remark in run.findings.remarks)


def maxwell(n_frames: int, symbols: list[str], kelvin: float, seed: int, rest: bool) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n_frames):
        atoms = Atoms(symbols, positions=rng.random((len(symbols), 3)))
        width = np.sqrt(u.kB * kelvin / atoms.get_masses())[:, None]
        velocities = rng.normal(size=(len(symbols), 3)) * width
        if rest:
            velocities -= atoms.get_masses() @ velocities / atoms.get_masses().sum()
        atoms.set_velocities(velocities)
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("rest", [False, True])
def test_temperatures_of_maxwell_velocities(rest: bool) -> None:
    """In eight atoms the centre of mass has a seventh of one element's degrees of freedom."""
    found = judged(maxwell(600, ["Au"] * 4 + ["H"] * 4, 500.0, 0, rest)).findings
    assert found.centre_at_rest is rest
    for name in ("Au", "H", "all"):
        mean = found.temperature[name].mean
        assert mean.error is not None
        assert mean.value == pytest.approx(500.0, abs=3.0 * mean.error)
        n = 8 if name == "all" else 4
        exact = 500.0 * np.sqrt(2.0 / (3.0 * n) / 600)  # of independent frames
        assert mean.error == pytest.approx(exact, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("rest", [False, True])
def test_errors_of_temperatures_cover(rest: bool) -> None:
    symbols = ["Au"] * 4 + ["H"] * 4
    z: dict[str, list[float]] = {"Au": [], "H": [], "all": []}
    for seed in range(60):
        found = judged(maxwell(300, symbols, 500.0, seed, rest)).findings
        assert found.centre_at_rest is rest
        for name, values in z.items():
            mean = found.temperature[name].mean
            assert mean.error is not None
            values.append((mean.value - 500.0) / mean.error)
    for name, values in z.items():
        assert np.std(values) == pytest.approx(1.0, abs=0.3), name
        assert abs(np.mean(values)) < 0.45, name


def test_drifts_of_temperature_and_energy() -> None:
    frames = maxwell(400, ["Cu"] * 50, 300.0, seed=0, rest=False)
    for k, atoms in enumerate(frames):
        atoms.set_velocities(atoms.get_velocities() * np.sqrt(1.0 + 0.01 * SPACING * k))
        atoms.info["energy"] = 5.0 - 0.2 * SPACING * k
    found = judged(frames).findings
    drift = found.temperature["Cu"].drift
    assert drift is not None
    assert drift.error is not None
    assert drift.value == pytest.approx(3.0, abs=3.0 * drift.error)
    assert 0.1 < drift.error < 0.6
    potential = found.energy["potential"].drift
    assert potential is not None
    assert potential.value == pytest.approx(-0.2 / 50, rel=1e-6)
    total = found.energy["total"].drift
    assert total is not None
    assert total.value == pytest.approx(-0.2 / 50 + 1.5 * u.kB * drift.value, rel=1e-6)


# Comparisons, and what is missing ----------------------------------------------------------------


def test_against_itself_nothing_differs() -> None:
    frames = walk(256, ["Ag"] * 12 + ["Cu"] * 6, step=0.2)
    one, same = judged(frames), judged(frames, name="same")
    found = compare(one, same)
    assert len(found.figures) == 3 + 2 + len(one.findings.pairs["Ag-Cu"].neighbours) + sum(
        len(one.findings.pairs[pair].neighbours) for pair in ("Ag-Ag", "Cu-Cu")
    )
    for figure in found.figures.values():
        assert figure.difference.value == 0.0
        assert figure.sigma in (0.0, None)
    assert {each.value for each in found.deviation.values()} == {0.0}
    for overlap in found.overlap.values():
        assert overlap.value == pytest.approx(1.0)
        assert overlap.noise_run is not None
        assert overlap.noise_run < 0.999
    assert found.figures["diffusion of Ag (Å²/ps)"].ratio is not None
    assert not found.missing


def test_two_temperatures_differ_by_their_errors() -> None:
    runs = [
        judged(maxwell(400, ["Cu"] * 20, kelvin, seed, rest=False))
        for seed, kelvin in ((0, 300.0), (1, 330.0), (2, 300.0))
    ]
    hot = compare(runs[1], runs[0]).figures["temperature of Cu (K)"]
    same = compare(runs[2], runs[0]).figures["temperature of Cu (K)"]
    assert hot.sigma is not None
    assert same.sigma is not None
    assert hot.sigma > 4.0
    assert abs(same.sigma) < 3.0
    # 2/3n of the temperature's square, over 400 independent frames, of two runs
    exact = np.sqrt(2.0 * 2.0 / 60.0 / 400.0) * 300.0
    assert same.difference.error == pytest.approx(exact, rel=0.25)


def test_runs_of_other_sizes_and_of_other_elements() -> None:
    """g(r) of a larger cell of the same crystal is the same; other elements are refused."""
    small = rattled(8)
    large = [atoms * (2, 1, 1) for atoms in small]
    found = compare(judged(small), judged(large))
    assert found.deviation["Cu-Cu"].value == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(DataError, match="same elements"):
        compare(judged(small), judged(walk(10, ["Ag", "Cu"], 0.1)))


def test_what_is_missing_is_said() -> None:
    frames = walk(64, ["Ag"] * 6, step=0.1)
    bare = [Atoms(atoms.symbols, atoms.positions) for atoms in frames]
    run = judged(bare)
    assert run.findings.temperature == {}
    assert run.findings.pairs == {}
    said = " ".join(run.findings.remarks)
    assert "no velocities" in said
    assert "periodic in all directions" in said
    missing = " ".join(compare(run, judged(frames, name="other")).missing)
    assert "velocities" in missing
    assert "periodic" in missing
    one = judged(frames[:1])
    assert one.findings.diffusion == {}
    assert one.findings.temperature["Ag"].mean.error is None
    assert any("one frame" in remark for remark in one.findings.remarks)
    with pytest.raises(DataError, match="no frame"):
        analyse([])


def test_atoms_at_rest_are_no_fault(tmp_path: Path) -> None:
    atoms = Atoms("Cu4", positions=np.arange(12.0).reshape(4, 3), cell=[13.0] * 3, pbc=True)
    atoms.set_momenta(np.zeros((4, 3)))
    run = judged([atoms] * 64)
    assert run.findings.temperature["Cu"].mean.value == 0.0
    assert run.curves.spectrum is None
    assert run.findings.diffusion["Cu"].coefficient is None
    assert run.findings.diffusion["Cu"].slope.value == 0.0
    write_analysis(tmp_path, Report(run=run.findings), run, None)
    assert not (tmp_path / "displacements.png").exists()


def test_large_systems_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is short some atoms of each element stand for all; it is told."""
    frames = walk(128, ["Ag"] * 60 + ["Cu"] * 20, step=0.1)
    whole = judged(frames)
    monkeypatch.setattr(analysis, "MEMORY", 40 * 20 * 384)
    some = judged(frames)
    chosen = some.sums.moving
    assert len(chosen) == 40
    assert (some.sums.numbers[chosen] == 29).sum() == 10
    mine, theirs = (coefficient(run.findings.diffusion["Ag"]) for run in (some, whole))
    assert mine.value == pytest.approx(theirs.value, rel=0.25)
    assert any("40 of 80 atoms" in remark for remark in some.findings.remarks)
    assert some.findings.temperature == whole.findings.temperature


def test_what_never_changes_is_told_without_rounding() -> None:
    """Each atom of a stiff crystal has its twelve neighbours in every frame."""
    shots = [
        replace(each, time=SPACING * k + 1.11022e-16)
        for k, each in enumerate(snapshots(rattled(40)))
    ]
    found = Run(analyse(shots), "run", [], []).findings
    pair = found.pairs["Cu-Cu"]
    number = pair.neighbours["Cu around Cu"]
    assert number.value == pytest.approx(12.0, rel=1e-12)
    assert number.error == 0.0
    assert shown(number) == "12 ± 0"
    assert found.begins == 0.0
    assert "40 frames, 0 to 3.9 ps" in title(found)


def test_what_is_not_the_case_is_not_told() -> None:
    """Of frames in other places, and of gaps."""
    frames = list(snapshots(walk(20, ["Ar"] * 6, step=0.1)))
    odd = [*frames[:10], replace(frames[10], time=0.94), *frames[10:]]
    gap = [*frames[:10], *frames[12:]]
    for shots, there, absent in ((odd, "1 lies elsewhere", " 0 "), (gap, "1 comes after", " 0 ")):
        remarks = Run(analyse(shots), "run", [], []).findings.remarks
        said = next(remark for remark in remarks if "apart" in remark)
        assert there in said
        assert absent not in said
    assert not any("apart" in each for each in Run(analyse(frames), "", [], []).findings.remarks)


def loosening(symbols: Sequence[str], seed: int) -> list[Atoms]:
    """Each atom walks away from its site, slowly enough for shells of neighbours to be seen."""
    rng = np.random.default_rng(seed)
    crystal = bulk("Cu", cubic=True, a=3.9) * (3, 3, 5)
    crystal.symbols = list(rng.permutation(symbols))
    frames = [crystal]
    for _ in range(39):
        frames.append(frames[-1].copy())
        frames[-1].positions += rng.normal(scale=0.03, size=(len(crystal), 3))
        frames[-1].set_momenta(rng.normal(size=(len(crystal), 3)))
    return frames[1:]


def test_what_counts_comes_first_and_nothing_twice() -> None:
    """Of five elements all temperatures and coefficients are in a table of thirty rows; where
    there is as much of either element, one number of neighbours tells the other."""
    symbols = ["Ag", "Au", "Cu", "Pd", "Pt"] * 36
    runs = [judged(loosening(symbols, seed), spacing=0.5) for seed in (0, 1)]
    rows = list(compare(*runs).figures)
    assert [row.split(" of ")[0] for row in rows[:11]] == ["temperature"] * 6 + ["diffusion"] * 5
    assert len(rows) <= MAX_ROWS
    around = [row.split(" within ")[0] for row in rows if " around " in row]
    assert len({frozenset(row.split(" around ")) for row in around}) == len(around) == 15
    more = ["Ag"] * 36 + symbols[36:]
    fewer = [judged(loosening(more, seed), spacing=0.5) for seed in (0, 1)]
    rows = list(compare(*fewer).figures)
    assert any("Cu around Ag" in row for row in rows)
    assert any("Ag around Cu" in row for row in rows)
    assert sum("Cu around Au" in row or "Au around Cu" in row for row in rows) == 1
