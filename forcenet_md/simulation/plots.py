"""Pictures of a finished run, as PNG. Drawn without a display and without pyplot's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from forcenet_md.figures import save_figure
from forcenet_md.simulation.observables import PairDistribution


def plot_pair_distributions(
    path: str | Path,
    curves: Mapping[str, PairDistribution],
    title: str = "",
    minima: Mapping[str, float | None] | None = None,
) -> None:
    """One panel per pair of elements, one line per name in curves (the last of several dashed).

    minima: Å, by pair; each is marked
    """
    pairs = list(next(iter(curves.values())).g)
    columns = min(4, len(pairs))
    rows = ceil(len(pairs) / columns)
    size = (max(4.4, 2.3 * columns), max(2.8, 1.9 * rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for panel in panels[len(pairs) :]:
        panel.set_visible(False)
    for panel in panels[len(pairs) - columns :]:  # also above one that is not there
        panel.tick_params(labelbottom=True)
    last = list(curves)[-1] if len(curves) > 1 else None
    for panel, pair in zip(panels, pairs, strict=False):
        for name, curve in curves.items():
            panel.plot(curve.r, curve.g[pair], "--" if name == last else "-", label=name, lw=1.4)
        if minima and (minimum := minima.get(pair)) is not None:
            panel.axvline(minimum, color="black", lw=0.7, ls=":")
        panel.set_title(pair, fontsize=9)
        panel.tick_params(labelsize=7)
    if last:
        panels[0].legend(fontsize=7, frameon=False)
    figure.supxlabel("r (Å)", fontsize=9)
    figure.supylabel("g(r)", fontsize=9)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


@dataclass(frozen=True, slots=True)
class TemperatureCurves:
    """Of one run. time: [n_frames] ps; temperatures: [n_frames] K by element; averaged from: ps."""

    time: NDArray[np.float64]
    temperatures: Mapping[str, NDArray[np.float64]]
    averaged_from: float


def plot_temperatures(
    path: str | Path,
    runs: Mapping[str, TemperatureCurves],
    target: float | None = None,
    title: str = "",
    label: str = "time (ps)",
) -> None:
    """Temperature of each element over time, and the thermostat's (K) where it is known; one panel
    per run. label: of the axis of time"""
    figure = Figure(figsize=(7.0, 0.4 + 3.2 * len(runs)), layout="constrained")
    free = target is None  # the axis is then that of the values, and all panels'
    panels = figure.subplots(len(runs), squeeze=False, sharex=True, sharey=free).ravel()
    shaded = False
    for axes, (name, run) in zip(panels, runs.items(), strict=True):
        for element, values in run.temperatures.items():
            mean = values[run.time >= run.averaged_from].mean()
            axes.plot(run.time, values, lw=1.0, label=f"{element}  {mean:.0f} K")
        if target is not None:
            name_of_line = f"thermostat  {target:.0f} K"
            axes.axhline(target, color="black", lw=0.8, ls="--", label=name_of_line)
            # Atoms start on their sites with twice the kinetic energy: not what is to be looked at.
            axes.set_ylim(0.5 * target, 1.5 * target)
        if run.averaged_from > run.time[0]:
            shaded = True
            axes.axvspan(run.averaged_from, run.time[-1], color="black", alpha=0.05, lw=0)
        axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower right")
        if len(runs) > 1:
            axes.set_title(name, fontsize=9)
    if free:
        low, high = panels[0].get_ylim()
        panels[0].set_ylim(low - 0.15 * (high - low), high)  # room for the legend
    panels[-1].set_xlabel(label + "; averaged over the shaded part" * shaded)
    figure.supylabel("temperature (K)", fontsize=10)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)
