"""Pictures of one run or of two in one figure: displacements, velocities and their spectra."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forcenet_md.figures import save_figure, tick_few_powers
from forcenet_md.simulation.findings import Findings
from forcenet_md.simulation.judging import Run
from forcenet_md.simulation.observables import PairDistribution
from forcenet_md.simulation.plots import (
    TemperatureCurves,
    plot_pair_distributions,
    plot_temperatures,
)
from forcenet_md.simulation.statistics import Array
from forcenet_md.simulation.vibration import ALL, CM1_PER_THZ, Spectrum

MAX_PAIRS, MAX_ELEMENTS = 20, 10  # in one figure, those with the most atoms
MAX_POINTS = 150  # of a series; more are averaged
QUIET = 0.01  # of a spectrum's largest value: where all is below this, nothing is drawn
LINES = ("-", "--")


def plot_pairs(path: Path, g: Mapping[str, PairDistribution], found: Findings, title: str) -> None:
    """g: of each run; found: of the first, whose minima are marked"""
    n = found.formula
    pairs = [pair for pair in found.pairs if all(pair in each.g for each in g.values())]
    pairs.sort(key=lambda pair: -np.prod([n[name] for name in pair.split("-")]))
    shown = sorted(pairs[:MAX_PAIRS])
    if len(shown) < len(pairs):
        title += f" ({len(shown)} of {len(pairs)} pairs)"
    curves = {
        name: PairDistribution(each.r, {pair: each.g[pair] for pair in shown})
        for name, each in g.items()
    }
    minima = {pair: found.pairs[pair].first_minimum for pair in shown}
    plot_pair_distributions(path, curves, title, minima)


def plot_heat(path: Path, runs: Mapping[str, Run], title: str) -> None:
    """Temperatures of each run, averaged to a few hundred points."""
    series = {name: run.sums.temperatures for name, run in runs.items()}
    timed = all(len(each.time) == len(each.values[ALL]) for each in series.values())
    curves = {}
    for name, run in runs.items():
        n = len(series[name].values[ALL])
        time = np.array(series[name].time) if timed else np.arange(float(n))
        names = [e for e in _elements(run.findings) if e in run.curves.temperatures]
        if len(names) > 1:
            names.append(ALL)
        values = {each: _thinned(run.curves.temperatures[each]) for each in names}
        curves[name] = TemperatureCurves(_thinned(time), values, float(time[0]))
    label = "time (ps)" if timed else "frame (no times are known)"
    plot_temperatures(path, curves, title=title, label=label)


def plot_displacements(path: Path, runs: Mapping[str, Run], title: str) -> None:
    """Mean square displacements over lags, both logarithmic, with the fitted lines."""
    figure = Figure(figsize=(7.2 if len(runs) == 1 else 8.6, 4.6), layout="constrained")
    axes = figure.subplots()
    window = None
    for (name, run), line in zip(runs.items(), LINES, strict=False):
        for k, element in enumerate(_elements(run.findings)):
            msd = run.curves.msd.get(element)
            if msd is None or not (msd > 0.0).any():
                continue
            label = element if len(runs) == 1 else f"{element}, {name}"
            axes.plot(run.curves.lag, msd, line, color=_colour(k), lw=1.4, label=label)
        window = window or run.window
    if window:
        axes.axvspan(*window, color="black", alpha=0.07, lw=0, label="fitted")
    axes.set(xscale="log", yscale="log", xlabel="lag (ps)")
    axes.set_ylabel("mean square displacement (Å²)")
    _slope_guides(axes)
    tick_few_powers(axes.xaxis, *axes.get_xlim())
    tick_few_powers(axes.yaxis, *axes.get_ylim())
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    axes.set_title(title, fontsize=10)
    save_figure(figure, path)


def _slope_guides(axes: Axes) -> None:
    """Powers 1 and 2 of time, in the corner that curves leave free."""
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    x = np.array([low * (high / low) ** 0.62, low * (high / low) ** 0.78])
    for power, height in ((1, 0.06), (2, 0.06)):
        y = bottom * (top / bottom) ** height * (x / x[0]) ** power
        axes.plot(x, y, color="grey", lw=0.8)
        name = "t²" if power == 2 else "t"
        axes.annotate(
            name, (x[1], y[1]), (3, 0), textcoords="offset points", va="center", fontsize=8,
            color="grey",
        )  # fmt: skip
    axes.set(xlim=(low, high), ylim=(bottom, top))


def plot_spectra(path: Path, runs: Mapping[str, tuple[Run, Spectrum]], title: str) -> None:
    """Velocity autocorrelation beside its spectrum: a row for each element and for all atoms."""
    first, density = next(iter(runs.values()))
    names = [name for name in _elements(first.findings) if name in density.density]
    names += [ALL] if len(names) > 1 else []
    figure = Figure(figsize=(9.0, 0.8 + 1.9 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False, sharex="col")
    top = max(_top(each) for _, each in runs.values())
    lag = max(run.curves.vacf_lag[-1] for run, _ in runs.values())
    for (left, right), name in zip(panels, names, strict=True):
        for (label, (run, each)), line in zip(runs.items(), LINES, strict=False):
            vacf = run.curves.vacf.get(name)
            if vacf is not None and vacf[0] > 0.0:
                left.plot(run.curves.vacf_lag, vacf / vacf[0], line, lw=1.1, label=label)
            if name in each.density:
                right.plot(each.frequency, each.density[name], line, lw=1.1)
        left.axhline(0.0, color="black", lw=0.5)
        left.set(xlim=(0.0, lag), ylabel=name if name != ALL else "all, by mass")
        right.set(xlim=(0.0, top), ylim=(0.0, None))
    panels[0, 0].set_title("velocity autocorrelation, v(0)·v(t) / v²", fontsize=9)
    panels[0, 1].set_title("density of states (1/THz)", fontsize=9)
    panels[-1, 0].set_xlabel("lag (ps)")
    panels[-1, 1].set_xlabel("frequency (THz)")
    upper = panels[0, 1].secondary_xaxis(
        "top", functions=(lambda x: x * CM1_PER_THZ, lambda x: x / CM1_PER_THZ)
    )
    upper.set_xlabel("cm⁻¹", fontsize=8)
    upper.tick_params(labelsize=8)
    if len(runs) > 1:
        panels[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def _top(found: Spectrum) -> float:
    """THz: beyond which no element has anything to be seen."""
    loud = [values > QUIET * values.max() for values in found.density.values()]
    last = max(int(np.flatnonzero(each)[-1]) for each in loud)
    return min(1.1 * float(found.frequency[last]), float(found.frequency[-1]))


def _elements(found: Findings) -> list[str]:
    """The most frequent ones, in alphabetical order."""
    return sorted(sorted(found.formula, key=lambda name: -found.formula[name])[:MAX_ELEMENTS])


def _thinned(values: Array) -> Array:
    """[at most MAX_POINTS]: means of as many neighbours as it takes."""
    each = ceil(len(values) / MAX_POINTS)
    whole = len(values) // each * each
    return values[:whole].reshape(-1, each).mean(axis=1)


def _colour(k: int) -> tuple[float, ...]:
    return tuple(colormaps["tab10"](k))
