"""Ghosts as counted, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.scaling.cases import Case
from benchmarks.scaling.lattice import DENSITY
from benchmarks.scaling.model import Machine, Network, brick_load, efficiency, step_seconds
from benchmarks.scaling.report import Found
from forcenet_md.figures import save_figure

COLOURS = ("tab:blue", "tab:red")
LINES = {False: "-", True: "--"}  # exchanged, deep
BELOW = (0.5, -0.15)  # the panel
ATOMS = np.logspace(2.5, 6.5, 81)
GPUS = [2**k for k in range(11)]


def draw(found: Found, path: Path) -> None:
    """Of the model, the first machine, and the second, which is that of today's code."""
    figure = Figure(figsize=(11.5, 4.4), layout="constrained")
    ghosts, times, scaling = figure.subplots(1, 3)
    for network, colour in zip(found.networks, COLOURS, strict=False):
        one = next(iter(found.machines.values()))[network.name]
        draw_ghosts(ghosts, network, found.cases, colour)
        draw_times(times, network, one, colour)
        draw_scaling(scaling, network, found, colour)
    ghosts.set(
        title="lines: volumes, marks: counted",
        xlabel="atoms per rank",
        ylabel="ghosts per own atom",
    )
    name = next(iter(found.machines))
    times.set(title=f"modelled: {name}", xlabel="atoms per GPU", ylabel="ms per step")
    scaling.set(title="modelled: H200, rows exchanged", xlabel="GPUs", ylabel="efficiency")
    scaling.set_ylim(0.0, 1.03)
    scaling.set_xscale("log", base=2)
    scaling.set_xticks(GPUS[::2], [str(n) for n in GPUS[::2]])
    for axes in (ghosts, times):
        axes.set_xscale("log")
        axes.set_yscale("log")
    for axes in (ghosts, times, scaling):
        axes.title.set_fontsize(10)
        axes.legend(frameon=False, fontsize=7.5, ncols=2, loc="upper center", bbox_to_anchor=BELOW)
        axes.grid(alpha=0.25)
    save_figure(figure, path)


def draw_ghosts(axes: Axes, network: Network, cases: Sequence[Case], colour: str) -> None:
    for deep, line in LINES.items():
        loads = [brick_load(*cube(n), network, deep) for n in ATOMS]
        label = f"{network.name}, {'deep' if deep else 'exchanged'}"
        axes.plot(ATOMS, [x.ghosts / x.atoms for x in loads], line, color=colour, label=label)
        # bricks that are nearly cubes and cut on all sides, which the lines are of
        points = [
            (c.counts[0].atoms, c.mean(lambda count: count.ghosts))
            for c in cases
            if c.counts and c.network == network and c.deep == deep and c.n_ranks in (8, 64, 512)
        ]
        marker = "o" if not deep else "s"
        atoms, n = np.array(sorted(points)).T
        axes.plot(atoms, n / atoms, marker, color=colour, markersize=4, markerfacecolor="none")


def draw_times(axes: Axes, network: Network, machine: Machine, colour: str) -> None:
    for deep, line in LINES.items():
        loads = [brick_load(*cube(n), network, deep) for n in ATOMS]
        times = [1e3 * step_seconds(x, network, machine, 0.0) for x in loads]
        label = f"{network.name}, {'deep' if deep else 'exchanged'}"
        axes.plot(ATOMS, times, line, color=colour, label=label)


def draw_scaling(axes: Axes, network: Network, found: Found, colour: str) -> None:
    alone, today = list(found.machines.values())[:2]
    for machine, weak, atoms, line, label in (
        (alone, True, 1e5, "-", "weak, 100 000 per GPU"),
        (alone, False, 1e7, "--", "strong, 10 million"),
        (today, True, 1e5, ":", "weak, code of today"),
    ):
        at = [
            efficiency(atoms * n if weak else atoms, n, network, machine[network.name], weak)
            for n in GPUS
        ]
        axes.plot(GPUS, at, line, color=colour, label=f"{network.name}: {label}")


def cube(n_atoms: float) -> tuple[list[float], list[int]]:
    """A cubic brick, Å, of a system so large that it is cut on all sides."""
    return [(n_atoms / DENSITY) ** (1 / 3)] * 3, [2**20] * 3
