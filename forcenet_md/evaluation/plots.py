"""Pictures of an evaluation, drawn without a display and without pyplot's state."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.visualize.plot import plot_atoms_raw
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from forcenet_md.evaluation.errors import THRESHOLD
from forcenet_md.evaluation.totals import Picture
from forcenet_md.figures import save_figure, tick_few_powers

Array = NDArray[np.float64]

MAX_ELEMENTS = 12  # in one histogram, the most frequent ones
FLOOR = 1e-6  # eV/Å: smaller errors are drawn as this, on logarithmic axes


def plot_parity(path: Path, labels: Array, predicted: Array) -> None:
    """Density of predictions, and of their errors, over labels: components, [n_atoms, 3] eV/Å."""
    x, y = labels.ravel(), predicted.ravel()
    reach, wide, far = _reach(np.concatenate([x, y])), _reach(y - x), _reach(x)
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    parity, error = figure.subplots(1, 2)
    parity.plot([-reach, reach], [-reach, reach], color="black", lw=0.6, alpha=0.6)
    _density(parity, x, y, (-reach, reach, -reach, reach))
    parity.set(aspect="equal", ylabel="model (eV/Å)")
    error.axhline(0.0, color="black", lw=0.6, alpha=0.6)
    bins = _density(error, x, y - x, (-far, far, -wide, wide))
    error.set(ylabel="model − label (eV/Å)")
    outside = (np.abs(x) > min(reach, far)) | (np.abs(y) > reach) | (np.abs(y - x) > wide)
    if outside.any():
        figure.suptitle(f"{outside.mean():.2%} of the components lie outside", fontsize=9)
    for axes in (parity, error):
        axes.set_xlabel("label, a component (eV/Å)")
    figure.colorbar(bins, ax=[parity, error], label="components")
    save_figure(figure, path)


def plot_histograms(path: Path, errors: Array, numbers: NDArray[np.int64]) -> None:
    """Distribution of the length of the error, a line for each element; errors [n_atoms] eV/Å."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    errors = np.maximum(errors, FLOOR)
    low, high = np.quantile(errors, 0.001) / 1.2, errors.max() * 1.2
    errors = np.maximum(errors, low)
    edges = np.geomspace(low, high, 45)
    found, counts = np.unique(numbers, return_counts=True)
    shown = found[np.argsort(-counts, kind="stable")][:MAX_ELEMENTS]
    colors = colormaps["tab20" if len(shown) > 10 else "tab10"]
    for k, z in enumerate(shown):
        mine = errors[numbers == z]
        heights, _ = np.histogram(mine, edges)
        label = f"{chemical_symbols[z]}  median {np.median(mine):.3g}"
        axes.stairs(heights / len(mine), edges, label=label, color=colors(k), lw=1.2)
    axes.axvline(THRESHOLD, color="black", lw=0.8, ls="--", label=f"{THRESHOLD} eV/Å")
    axes.set(xscale="log", xlim=(low, high), ylim=(0.0, None))
    tick_few_powers(axes.xaxis, low, high)
    axes.set_xlabel("length of the error of an atom (eV/Å)")
    axes.set_ylabel("fraction of the element's atoms")
    if len(shown) < len(found):
        axes.set_title(f"the {len(shown)} most frequent of {len(found)} elements", fontsize=9)
    figure.legend(fontsize=7, frameon=False, loc="outside right upper")
    save_figure(figure, path)


def plot_against(path: Path, errors: Array, lengths: Array, what: str, sign: str) -> None:
    """Error over another length: density, and the median in bands; [n_atoms] eV/Å.

    what: the lengths in words, sign: in short
    """
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    shown = lengths > FLOOR  # a label of zero, as by symmetry, has no place on the axis
    lengths, errors = lengths[shown], np.maximum(errors[shown], FLOOR)
    if len(lengths):
        bins = axes.hexbin(
            lengths, errors, gridsize=70, bins="log", mincnt=1, linewidths=0.0,
            xscale="log", yscale="log", cmap="viridis",
        )  # fmt: skip
        bar = figure.colorbar(bins, label="atoms", format="{x:g}")
        bar.ax.yaxis.set_minor_formatter("{x:g}")
        edges = np.unique(np.quantile(lengths, np.linspace(0.0, 1.0, 21)))
        if len(edges) > 2:
            band = np.clip(np.searchsorted(edges, lengths, "right") - 1, 0, len(edges) - 2)
            middle = [float(np.median(lengths[band == b])) for b in np.unique(band)]
            median = [float(np.median(errors[band == b])) for b in np.unique(band)]
            axes.plot(middle, median, "o-", color="crimson", ms=3, lw=1.2, label="median")
        ends = np.array([lengths.min(), lengths.max()])
        axes.plot(ends, ends, color="black", lw=0.6, ls="--", label=f"error = {sign}")
        axes.legend(fontsize=8, frameon=False, loc="upper left")
        tick_few_powers(axes.xaxis, lengths.min(), lengths.max())
        tick_few_powers(axes.yaxis, errors.min(), errors.max())
    axes.set_xlabel(f"{what} (eV/Å)")
    axes.set_ylabel("length of the error (eV/Å)")
    save_figure(figure, path)


def plot_structures(path: Path, pictures: Sequence[Picture]) -> None:
    """Worst frames from the side, z upwards, each atom coloured by its error."""
    columns = min(3, len(pictures))
    rows = ceil(len(pictures) / columns)
    figure = Figure(figsize=(3.4 * columns + 0.6, 3.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    top = max(float(np.max(picture.error)) for picture in pictures)
    colours = ScalarMappable(Normalize(0.0, top or 1.0), colormaps["YlOrRd"])
    for axes, picture in zip(panels, pictures, strict=False):
        system, worst = picture.system, picture.worst
        atoms = Atoms(system.numbers, system.positions, cell=system.cell, pbc=system.pbc)
        plot_atoms_raw(
            atoms, axes, rotation="-80x,15y", radii=0.8,
            colors=colours.to_rgba(picture.error)[:, :3],
        )  # fmt: skip
        lines = (
            worst.name,
            worst.formula,
            f"MAE {worst.mae:.3g} eV/Å",
            f"{worst.element} {worst.atom}: off by {worst.max_error:.3g} of {worst.max_force:.3g}",
        )
        axes.set_title("\n".join(_short(line) for line in lines), fontsize=8)
    for axes in panels:
        axes.set_axis_off()
    figure.colorbar(colours, ax=list(panels), label="length of the error (eV/Å)", shrink=0.7)
    save_figure(figure, path)


def _density(
    axes: Axes, x: Array, y: Array, extent: tuple[float, float, float, float]
) -> PolyCollection:
    axes.set(xlim=extent[:2], ylim=extent[2:])
    return axes.hexbin(
        x, y, extent=extent, gridsize=90, bins="log", mincnt=1, linewidths=0.0, cmap="viridis"
    )


def _reach(components: Array) -> float:
    """Half the width of a plot: nearly all of the components, not the few that are far off."""
    size = np.abs(components)
    most, largest = float(np.quantile(size, 0.9995)), float(size.max())
    return 1.05 * (largest if largest < 3.0 * most else 1.5 * most) or 1.0


def _short(text: str, most: int = 40) -> str:
    """The head and the tail of a long text: of a path its end matters."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"
