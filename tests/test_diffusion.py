"""What is called diffusion: of Langevin's free particle and harmonic oscillator, known exactly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.linalg import expm

from forcenet_md.figures import save_figure
from forcenet_md.simulation import run_plots
from forcenet_md.simulation.analysis import Settings, analyse
from forcenet_md.simulation.comparison import compare
from forcenet_md.simulation.judging import Run
from forcenet_md.simulation.snapshot import Snapshot

SPACING = 0.04  # ps
FRICTION = 10.0  # per ps
HEAT = 4.0  # kT / m, Å²/ps²: copper at 300 K
N = 100

Walk = NDArray[np.float64]


def free(n_frames: int, seed: int = 0) -> Walk:
    """Flies at first and diffuses later, with D = kT / (m γ): [n_frames, N, 3] Å."""
    rng, fine = np.random.default_rng(seed), 8
    step = SPACING / fine
    keeps = np.exp(-FRICTION * step)
    kicks = rng.normal(scale=np.sqrt(HEAT * (1.0 - keeps**2)), size=(n_frames * fine, N, 3))
    kicks[0] = rng.normal(scale=np.sqrt(HEAT), size=(N, 3))
    velocities = np.empty_like(kicks)
    velocity = np.zeros((N, 3))
    for k, kick in enumerate(kicks):
        velocities[k] = velocity = keeps * velocity + kick
    return np.cumsum(step * velocities, axis=0)[::fine]


def bound(n_frames: int, thz: float = 2.0, friction: float = FRICTION) -> Walk:
    """To sites: each coordinate an oscillator, stepped exactly."""
    rng, rate = np.random.default_rng(1), (2.0 * np.pi * thz) ** 2
    spread = np.diag([HEAT / rate, HEAT])
    moves = expm(np.array([[0.0, 1.0], [-rate, -friction]]) * SPACING)
    noise = np.linalg.cholesky(spread - moves @ spread @ moves.T)
    state = np.sqrt(spread) @ rng.normal(size=(2, 3 * N))
    positions = []
    for _ in range(n_frames):
        positions.append(state[0].reshape(N, 3))
        state = moves @ state + noise @ rng.normal(size=(2, 3 * N))
    return np.array(positions)


def run_of(walk: Walk, fit: tuple[float, float] | None = None, name: str = "run") -> Run:
    def snapshots() -> Iterator[Snapshot]:
        for k, positions in enumerate(walk):
            yield Snapshot(
                np.full(N, 29), np.full(N, 63.5), positions, np.zeros((3, 3)),
                np.zeros(3, dtype=bool), step=k, time=k * SPACING,
            )  # fmt: skip

    return Run(analyse(snapshots(), Settings(fit=fit)), name, [], [])


@pytest.mark.parametrize("n_frames", [50, 250, 1000])
@pytest.mark.parametrize("thz", [0.5, 2.5])
@pytest.mark.parametrize("fit", [None, (0.08, 0.12), (0.12, 0.36)])
def test_what_is_bound_has_no_coefficient(
    n_frames: int, thz: float, fit: tuple[float, float] | None
) -> None:
    """Also not on the bend from flight to rest, where for a while the slope is that of
    diffusion."""
    found = run_of(bound(n_frames, thz), fit).findings
    each = found.diffusion["Cu"]
    assert each.coefficient is None
    assert each.cm2_per_s is None
    assert each.slope.value < 2.0
    assert any("coefficient" in remark and "Cu" in remark for remark in found.remarks)


def test_the_bend_looks_like_diffusion_but_does_not_go_on() -> None:
    run = run_of(bound(250, 2.5), (0.08, 0.2))
    each = run.findings.diffusion["Cu"]
    assert each.slope.value == pytest.approx(1.0, abs=0.1)
    assert each.later is not None
    assert each.later.value == pytest.approx(0.0, abs=0.15)
    assert each.coefficient is None


@pytest.mark.parametrize("fit", [None, (2.0, 4.0)])
def test_what_flies_first_and_diffuses_later(fit: tuple[float, float] | None) -> None:
    found = run_of(free(1000), fit).findings
    each = found.diffusion["Cu"]
    exact = HEAT / FRICTION * (1.0 - 1.0 / N)
    assert each.coefficient is not None
    assert each.coefficient.error is not None
    assert each.coefficient.value == pytest.approx(exact, abs=4.0 * each.coefficient.error)
    assert each.coefficient.error < 0.1 * exact
    assert each.window[0] >= 1.0
    assert each.later is not None
    assert each.later.value == pytest.approx(1.0, abs=0.3)


def test_errors_of_the_later_slope_are_those_between_runs() -> None:
    laters = [
        run_of(np.cumsum(rng.normal(size=(200, N, 3)), axis=0)).findings.diffusion["Cu"].later
        for rng in map(np.random.default_rng, range(40))
    ]
    values = np.array([each.value for each in laters if each is not None])
    errors = np.array([each.error for each in laters if each is not None], dtype=float)
    assert len(values) == 40
    assert values.mean() == pytest.approx(1.0, abs=3.0 * values.std() / np.sqrt(40))
    assert values.std() < 1.3 * errors.mean()
    assert values.std() > 0.4 * errors.mean()


def test_a_run_that_is_too_short_has_none() -> None:
    found = run_of(free(50)).findings
    assert found.diffusion["Cu"].coefficient is None
    assert any("give a run of 4 ps or more" in remark for remark in found.remarks)


def test_what_has_no_coefficient_is_not_compared() -> None:
    solid, liquid = run_of(bound(250), name="solid"), run_of(free(250), name="liquid")
    found = compare(solid, liquid)
    assert "diffusion of Cu (Å²/ps)" not in found.figures
    assert any("Cu" in said and "solid" in said for said in found.missing)
    found = compare(liquid, run_of(free(250, seed=5)))
    assert found.figures["diffusion of Cu (Å²/ps)"].ratio is not None


def test_nothing_in_the_figure_lies_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The legend over the curves, or one tick's label over the next where an axis is short."""
    drawn: list[Figure] = []

    def save(figure: Figure, path: Path) -> None:
        drawn.append(figure)
        save_figure(figure, path)

    monkeypatch.setattr(run_plots, "save_figure", save)
    for n in (250, 40):
        run_plots.plot_displacements(tmp_path / "d.png", {"run": run_of(free(n))}, "run")
        (axes,) = drawn[-1].axes
        (legend,) = [each for each in (axes.get_legend(), *drawn[-1].legends) if each is not None]
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
        labels = axes.get_xticklabels(which="both")
        boxes = [each.get_window_extent() for each in labels if each.get_text()]
        boxes.sort(key=lambda box: box.x0)
        assert len(boxes) > 1
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
