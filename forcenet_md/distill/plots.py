"""Pictures of a distillation."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

from forcenet_md.figures import save_figure

Curve = list[tuple[float, float]]  # (seconds of training, validation error in eV/Å)


def learning_curve(runs: Sequence[Path]) -> Curve:
    """Of one member over its rounds.

    runs: folders of its trainings, in order. The clock of each goes on where the one before ended.
    """
    curve: Curve = []
    before = 0.0
    for run in runs:
        now = before
        for path in sorted(run.glob("log/version_*/metrics.csv"), key=lambda p: p.stat().st_mtime):
            with path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    if row.get("seconds"):
                        now = before + float(row["seconds"])
                    if row.get("validation_mae"):
                        curve.append((now, float(row["validation_mae"])))
        before = now
    return curve


def plot_learning(path: Path, curves: Sequence[Curve]) -> None:
    """Validation error over the time of training, a line for each member."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for k, curve in enumerate(curves):
        axes.plot([t / 60.0 for t, _ in curve], [e for _, e in curve], ".-", label=f"member {k}")
    axes.set(xlabel="training (min)", ylabel="validation error (eV/Å)", yscale="log")
    for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis(FormatStrFormatter("%g"))
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def plot_rounds(path: Path, rounds: Sequence[dict[str, Any]], limit: float) -> None:
    """Errors on the test and along paths, round by round."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    x = np.array([r["round"] for r in rounds])
    test = np.array([r["test"]["force_mae"] for r in rounds])
    path_errors = np.array([r["path"]["force_mae"] if r["path"] else 0.0 for r in rounds])
    # Not always limit × test error: the ratio may be one of shares of the mean force.
    allowed = [limit * e / r["ratio"] for e, r in zip(path_errors, rounds, strict=True) if e]
    reached = x[path_errors > 0.0]
    axes.bar(x - 0.2, test, 0.35, color="0.3", label="test")
    axes.bar(x + 0.2, path_errors, 0.35, color="crimson", label="own paths")
    label = f"ratio of {limit}"
    axes.hlines(allowed, reached, reached + 0.4, color="black", ls="--", lw=1.2, label=label)
    axes.set(xlabel="round", ylabel="error (eV/Å)", xticks=x, xlim=(-0.6, x.max() + 1.4))
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def plot_spread(
    path: Path, paths: Sequence[dict[str, Any]], names: Sequence[str], ps: float
) -> None:
    """How far the committee is apart along each path; ps: between two of its frames."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for found, name in zip(paths, names, strict=True):
        times = [ps * (k + 1) for k in range(len(found["spread"]))]
        axes.plot(times, found["spread"], lw=0.9, label=name)
    axes.set(xlabel="time (ps)", ylabel="spread of the worst atom (eV/Å)")
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)
