"""The folder of an analysis: figures, every figure's number as JSON, and the curves as CSV."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from forcenet_md.data.frames import check_output
from forcenet_md.simulation import run_plots
from forcenet_md.simulation.analysis_table import title
from forcenet_md.simulation.comparison import comparable
from forcenet_md.simulation.findings import Report
from forcenet_md.simulation.judging import Run
from forcenet_md.simulation.statistics import Array
from forcenet_md.simulation.vibration import CM1_PER_THZ
from forcenet_md.writing import write_text

JSON = "analysis.json"


def check_folder(folder: Path) -> None:
    """Raises DataError where it cannot be written to."""
    check_output(folder / JSON)


def write_analysis(folder: Path, report: Report, run: Run, against: Run | None) -> list[Path]:
    """Write all; the paths. Raises DataError."""
    check_folder(folder)
    write_text(folder / JSON, report.model_dump_json(indent=2) + "\n")
    written = [folder / JSON]
    for each, prefix in ((run, ""), (against, "against-")):
        if each is not None:
            written += _write_curves(folder, each, prefix)
    return written + draw(folder, run, against)


def draw(folder: Path, run: Run, against: Run | None = None) -> list[Path]:
    """The figures of one run, or of two together, as far as they have what these show."""
    runs = {run.findings.name: run}
    name = title(run.findings)
    if against is not None:
        runs[against.findings.name] = against
        name = f"{run.findings.name} against {against.findings.name}"
    drawn = []

    def path(file: str) -> Path:
        drawn.append(folder / file)
        return drawn[-1]

    if run.curves.g is not None:
        both = comparable(run, against) if against else None
        g = dict(zip(runs, both or (run.curves.g,), strict=False))
        run_plots.plot_pairs(path("pair-distributions.png"), g, run.findings, name)
    moved = {
        name: each
        for name, each in runs.items()
        if any((msd > 0.0).any() for msd in each.curves.msd.values())
    }
    if moved:
        run_plots.plot_displacements(path("displacements.png"), moved, name)
    reaches = [each.reach for each in runs.values() if each.reach]
    spectra = {name: (each, each.spectrum(min(reaches))) for name, each in runs.items() if reaches}
    found = {name: (each, one) for name, (each, one) in spectra.items() if one is not None}
    if found:
        run_plots.plot_spectra(path("spectra.png"), found, name)
    hot = {name: each for name, each in runs.items() if each.curves.temperatures}
    if hot:
        run_plots.plot_heat(path("temperatures.png"), hot, name)
    return drawn


def _write_curves(folder: Path, run: Run, prefix: str) -> list[Path]:
    curves, written = run.curves, []

    def write(name: str, columns: Mapping[str, Array]) -> None:
        if columns and all(len(values) for values in columns.values()):
            written.append(folder / f"{prefix}{name}.csv")
            write_text(written[-1], _csv(columns))

    if curves.g is not None:
        write("pair-distributions", {"r (Angstrom)": curves.g.r, **curves.g.g})
    if curves.msd:
        msd = {f"{name} (Angstrom^2)": values for name, values in curves.msd.items()}
        write("displacements", {"lag (ps)": curves.lag, **msd})
    if curves.spectrum is not None:
        vacf = {f"{name} (Angstrom^2/ps^2)": values for name, values in curves.vacf.items()}
        write("velocity-autocorrelation", {"lag (ps)": curves.vacf_lag, **vacf})
        density = {f"{name} (1/THz)": v for name, v in curves.spectrum.density.items()}
        frequency = curves.spectrum.frequency
        waves = {"frequency (THz)": frequency, "wave number (1/cm)": frequency * CM1_PER_THZ}
        write("spectrum", waves | density)
    for name, series, values, unit in (
        ("temperatures", run.sums.temperatures, curves.temperatures, "K"),
        ("energies", run.sums.energies, curves.energies, "eV/atom"),
    ):
        if values:
            n = len(next(iter(values.values())))
            timed = len(series.time) == n
            first = (
                {"time (ps)": np.array(series.time)} if timed else {"frame": np.arange(float(n))}
            )
            write(name, first | {f"{key} ({unit})": v for key, v in values.items()})
    return written


def _csv(columns: Mapping[str, Array]) -> str:
    text = io.StringIO()
    table = np.column_stack(list(columns.values()))
    np.savetxt(text, table, fmt="%.9g", delimiter=",", header=",".join(columns), comments="")
    return text.getvalue()
