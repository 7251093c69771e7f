"""Means, slopes and their errors of correlated series against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from forcenet_md.simulation.statistics import (
    Blocks,
    Estimate,
    from_blocks,
    mean_of,
    slope_of,
)
from forcenet_md.watching.running import RunningMean


def autoregressive(n: int, phi: float, seed: int, runs: int = 1) -> np.ndarray:
    """[runs, n]: x' = phi x + noise of variance 1, from the stationary state."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(runs, n))
    series = np.empty_like(noise)
    series[:, 0] = noise[:, 0] / np.sqrt(1.0 - phi**2)
    for k in range(1, n):
        series[:, k] = phi * series[:, k - 1] + noise[:, k]
    return series


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_error_of_a_correlated_mean(phi: float) -> None:
    """The variance of the mean of a long AR(1) series is 1 / (1 − φ)² n."""
    n = 2**14
    exact = 1.0 / (1.0 - phi) / np.sqrt(n)
    found = [mean_of(series).error for series in autoregressive(n, phi, seed=1, runs=40)]
    assert all(error is not None for error in found)
    assert np.mean(found) == pytest.approx(exact, rel=0.1)
    assert np.std(found) < 0.35 * exact


def test_errors_of_means_cover() -> None:
    """Of two thirds of all runs the mean is within one error of the truth."""
    runs = autoregressive(4096, 0.8, seed=2, runs=400)
    z = [estimate.value / estimate.error for estimate in map(mean_of, runs) if estimate.error]
    assert len(z) > 390
    assert np.mean(np.abs(z) < 1.0) == pytest.approx(0.683, abs=0.06)
    assert np.mean(np.abs(z) < 2.0) == pytest.approx(0.954, abs=0.04)


def test_a_run_too_short_has_no_error() -> None:
    """Of less than a few correlation times nothing can be said."""
    assert mean_of(np.array([1.0, 2.0, 4.0])) == Estimate(value=7.0 / 3.0, error=None)
    assert mean_of(np.linspace(0.0, 1.0, 200)).error is None
    assert mean_of(np.full(64, 3.0)) == Estimate(value=3.0, error=0.0)


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.95, -0.6])
@pytest.mark.parametrize("n", [20, 100, 1000, 5001])
def test_a_log_and_an_analysis_tell_the_same_error(n: int, phi: float) -> None:
    """One counts sample by sample, the other has the whole series."""
    [series] = autoregressive(n, phi, seed=n)
    running = RunningMean(1)
    for value in series:
        running.add(np.array([value]))
    found = mean_of(series)
    assert running.mean[0] == pytest.approx(found.value, rel=1e-9)
    if found.error is None:
        assert np.isnan(running.error[0])
    else:
        assert running.error[0] == pytest.approx(found.error, rel=1e-9)


def test_errors_of_slopes_cover() -> None:
    time = np.linspace(0.0, 40.0, 4096)
    runs = autoregressive(4096, 0.8, seed=3, runs=300)
    found = [slope_of(time, 5.0 + 0.3 * time + series) for series in runs]
    z = [(s.value - 0.3) / s.error for s in found if s is not None and s.error]
    assert len(z) > 290
    assert np.mean(np.abs(z) < 1.0) == pytest.approx(0.683, abs=0.07)


def test_slope_of_a_line_is_exact() -> None:
    found = slope_of(np.arange(50.0), 2.0 - 0.5 * np.arange(50.0))
    assert found is not None
    assert found.value == pytest.approx(-0.5, abs=1e-12)
    assert slope_of(np.arange(2.0), np.arange(2.0)) is None


@pytest.mark.parametrize("n", [1, 5, 63, 64, 65, 1000, 12345])
def test_blocks_lose_nothing(n: int) -> None:
    blocks = Blocks((2,))
    rows = np.random.default_rng(n).normal(size=(n, 2))
    for row in rows:
        blocks.add(row)
    np.testing.assert_allclose(blocks.total, rows.sum(axis=0))
    for parts in (1, 2, 8):
        np.testing.assert_allclose(sum(blocks.parts(parts)), rows.sum(axis=0))
        assert len(blocks.parts(parts)) == min(parts, n)
    first = blocks.means(1)[0]
    np.testing.assert_allclose(first, rows.mean(axis=0))


def test_halves_are_halves() -> None:
    blocks = Blocks(())
    for k in range(4096):
        blocks.add(np.array(float(k >= 2048)))
    assert [float(part) for part in blocks.means(2)] == [0.0, 1.0]


def test_arithmetic_of_estimates() -> None:
    one, other = Estimate(value=4.0, error=0.3), Estimate(value=2.0, error=0.4)
    assert (one - other).value == 2.0
    assert (one - other).error == pytest.approx(0.5)
    quotient = one / other
    assert quotient.value == 2.0
    # relative errors add in squares
    assert quotient.error == pytest.approx(2.0 * np.hypot(0.3 / 4.0, 0.4 / 2.0))
    assert (one - Estimate(value=1.0)).error is None
    assert from_blocks(1.0, [1.0, 2.0]).error is None
    assert from_blocks(1.0, [1.0, 3.0, 1.0, 3.0]).error == pytest.approx(1.1547 / 2.0, rel=1e-4)


def test_what_never_changes_has_no_error() -> None:
    """Sums of numbers like 0.1 are off by their rounding, which is no error."""
    rounded = 12.0 * (1.0 + np.array([0.0, 1.0, 2.0, 1.0, 0.0, -1.0, 1.0, 0.0]) * 2.0**-52)
    many = np.tile(rounded, 512)
    slope = slope_of(np.arange(len(many)) * 0.1, many)
    assert from_blocks(12.0, rounded) == Estimate(value=12.0, error=0.0)
    assert mean_of(many).error == 0.0
    assert slope == Estimate(value=0.0, error=0.0)
    same = Estimate(value=rounded[2], error=0.0) - Estimate(value=12.0, error=0.0)
    assert same == Estimate(value=0.0, error=0.0)
    small = mean_of(many + 1e-9 * np.random.default_rng(0).normal(size=len(many)))
    assert small.error == pytest.approx(1e-9 / 64.0, rel=0.3)
