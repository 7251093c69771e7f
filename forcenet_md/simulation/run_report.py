"""A recorded run as one HTML page: what it was, what guards saw, what it shows, how it looks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.data.colors import jmol_colors
from ase.visualize.plot import plot_atoms
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from forcenet_md import __version__
from forcenet_md.data.frames import check_output
from forcenet_md.errors import DataError
from forcenet_md.evaluation.page import embed, page, table
from forcenet_md.figures import save_figure
from forcenet_md.recording.layout import OURS, REMOVED
from forcenet_md.simulation.analysis import Settings
from forcenet_md.simulation.analysis_files import draw
from forcenet_md.simulation.analysis_table import tables, title
from forcenet_md.simulation.h5md_reader import last_word
from forcenet_md.simulation.judging import Run, judge
from forcenet_md.simulation.statistics import Array
from forcenet_md.simulation.trajectory import Reading, Trajectory
from forcenet_md.writing import write_text

CAPTIONS = {
    "pair-distributions": "g(r) of each pair of elements; the first minima are marked.",
    "displacements": "Mean square displacements over the lag.",
    "spectra": "Velocity autocorrelation and vibrational spectra.",
    "temperatures": "Temperatures of the elements.",
}
SEEN = {  # observables of a recording, see recording/layout.py
    "largest_force": "largest force (eV/Å)",
    "net_force": "net force (eV/Å per atom)",
    "torque_force": "forces of the torque (eV/Å per atom)",
    "contact_ratio": "closest pair / shortest known",
    "force_spread_max": "largest spread (eV/Å)",
    "potential_energy": "potential energy (eV)",
}
DISC: dict[str, Any] = {"marker": "o", "ls": "", "ms": 10, "mec": "black"}
MOST_DRAWN = 3000  # atoms, of which a picture still shows something
POINTS = 400  # of a curve; the least and the most of what lies between are kept


def write_report(
    source: Path,
    out: Path,
    settings: Settings,
    reading: Reading | None = None,
    read: Callable[[int], None] = lambda frames: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Run:
    """Write the page of an H5MD file; nothing in it is fetched or run.

    reading: what is before its `begins` is left out of all but the picture and what guards saw
    read: told how many frames are read; stopped: asked whether that is enough
    Raises DataError for a file that is no recording, and where the page cannot be written.
    """
    check_output(out)
    trajectory = Trajectory([source], reading)
    trajectory.elements()  # whatever is no trajectory is told of by its reader
    recording = Recording.read(source)
    run = judge(trajectory, source.name, settings, read, stopped)
    with tempfile.TemporaryDirectory(prefix="forcenet-report-") as folder:
        body = "".join(_body(recording, run, Path(folder)))
        write_text(out, page(title(run.findings), [body], __version__))
    return run


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file of --record has beside a trajectory.

    steps: [n_frames] without those that were run again; seen: [n_frames] of each of SEEN that it
    has; last: as it was served, wrapped into its cell
    """

    steps: Array
    seen: Mapping[str, Array]
    last: Atoms

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Raises DataError for what is not a recording of ours."""
        try:
            with h5py.File(path, "r") as file:
                every = file["particles/all/position/step"][()]
                counting = last_word(every)
                steps, group = every[counting], file["observables"]
                seen = {n: group[n]["value"][()][counting] for n in SEEN if n in group}
                if file[OURS].attrs.get(REMOVED, False):
                    seen.pop("net_force", None)
                last = _last_frame(file["particles/all"])
        except (OSError, LookupError, ValueError, TypeError):
            raise DataError(
                f"{path} was not written by --record: `forcenet-md analyse` reads trajectories of"
                " others."
            ) from None
        known = {
            name: values
            for name, values in seen.items()
            if values.shape == steps.shape and np.isfinite(values).any()
        }
        return cls(steps, known, last)


def _last_frame(everything: h5py.Group) -> Atoms:
    box = everything["box"]
    edges = box["edges"]["value"][-1] if "value" in box["edges"] else box["edges"][()]
    atoms = Atoms(
        everything["species"][()].astype(int),
        everything["position/value"][-1].astype(float),
        cell=edges,
        pbc=[kind == "periodic" for kind in box.attrs["boundary"]],
    )
    atoms.wrap()
    return atoms


def _body(recording: Recording, run: Run, folder: Path) -> Iterator[str]:
    found, steps, seen = run.findings, recording.steps, recording.seen
    if len(recording.last) <= MOST_DRAWN:
        plot_system(folder / "system.png", recording.last)
        yield from embed(folder / "system.png", f"The last frame, step {steps[-1]}.")
    for header, rows in tables(found):
        listed = list(rows)
        if listed:
            yield from table(header, listed)
    if found.remarks:
        yield "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in found.remarks) + "</ul>"
    if seen:
        plot_observables(folder / "seen.png", steps, seen)
        yield from embed(folder / "seen.png", "What was seen beside the forces, by step.")
        yield from table(("", "least", "mean", "most"), _extremes(seen))
    for path in draw(folder, run):
        yield from embed(path, CAPTIONS[path.stem])


def plot_system(path: Path, atoms: Atoms) -> None:
    """From two sides."""
    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    for axes, rotation in zip(figure.subplots(1, 2), ("-80x,15y", "0x"), strict=True):
        plot_atoms(atoms, axes, rotation=rotation, radii=0.6)
        axes.set_axis_off()
    numbers = np.unique(atoms.numbers)
    discs = [Line2D([], [], color=jmol_colors[z], **DISC) for z in numbers]
    names = [chemical_symbols[z] for z in numbers]
    figure.legend(discs, names, loc="outside lower center", ncols=12, frameon=False)
    save_figure(figure, path)


def plot_observables(path: Path, steps: Array, seen: Mapping[str, Array]) -> None:
    """One panel each, above one another."""
    figure = Figure(figsize=(7.0, 0.5 + 1.7 * len(seen)), layout="constrained")
    panels = figure.subplots(len(seen), squeeze=False, sharex=True).ravel()
    for axes, (name, values) in zip(panels, seen.items(), strict=True):
        where, shown = envelope(steps, values)
        axes.plot(where, shown, lw=0.8)
        axes.set_ylabel(SEEN[name].replace(" (", "\n("), fontsize=8)
        axes.tick_params(labelsize=8)
    panels[-1].set_xlabel("step")
    save_figure(figure, path)


def envelope(steps: Array, values: Array) -> tuple[Array, Array]:
    """A curve of few points that has every peak: of each stretch the least and the most.

    steps, values: [n], in whatever unit; where there is no value it is not a number. Returns both,
    [m] of at most 2 POINTS.
    """
    if len(values) <= 2 * POINTS:
        return steps, values
    rows = []
    for stretch in np.array_split(np.arange(len(values)), POINTS):
        known = stretch[np.isfinite(values[stretch])]
        if len(known):
            low, high = known[values[known].argmin()], known[values[known].argmax()]
            rows += sorted({int(low), int(high)})
    return steps[rows], values[rows]


def _extremes(seen: Mapping[str, Array]) -> Iterator[tuple[str, ...]]:
    for name, values in seen.items():
        known = values[np.isfinite(values)]
        yield SEEN[name], f"{known.min():.4g}", f"{known.mean():.4g}", f"{known.max():.4g}"
