"""What an analysis found, as tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from math import floor, log10

from rich.console import Console
from rich.table import Table
from rich.text import Text

from forcenet_md.simulation.findings import Comparison, Drifting, Findings, Report
from forcenet_md.simulation.statistics import Estimate
from forcenet_md.simulation.vibration import ALL

MAX_ROWS = 30  # of a table; the JSON has them all
NONE = "–"
Row = tuple[str, ...]
WIDE = 1000  # no cell is cut: a narrow terminal breaks lines by itself


def shown(estimate: Estimate | None) -> str:
    """'301.2 ± 1.4': the error with two digits, the value with as many places."""
    if estimate is None:
        return NONE
    value, error = estimate.value, estimate.error
    if error is None:
        return f"{value:.4g} ± ?"
    if error == 0.0:
        return f"{value:.4g} ± 0"
    largest = max(abs(value), error)
    places = 1 - floor(log10(error))
    if largest >= 1e5 or largest < 1e-3:
        power = floor(log10(largest))
        digits = max(0, places + power)
        scale = 10.0**power
        return f"({value / scale:.{digits}f} ± {error / scale:.{digits}f})e{power}"
    places = max(0, places)
    return f"{round(value, places) + 0.0:.{places}f} ± {error:.{places}f}"  # no −0


def print_report(report: Report, console: Console) -> None:
    """Each run's tables and remarks, then how they compare."""
    console = Console(file=console.file, width=WIDE, force_terminal=console.is_terminal)
    for found in (report.run, report.against):
        if found:
            _print_run(found, console)
    if report.comparison and report.against:
        _print_comparison(report.run, report.against, report.comparison, console)


def title(found: Findings) -> str:
    formula = "".join(f"{name}{n}" for name, n in found.formula.items())
    when = ""
    if found.begins is not None and found.ends is not None:
        when = f", {found.begins:g} to {found.ends:g} ps"
    frames = "frame" if found.n_frames == 1 else "frames"
    return f"{found.name}: {formula}, {found.n_frames} {frames}{when}"


def tables(found: Findings) -> Iterator[tuple[Row, Iterator[Row]]]:
    """Header and rows of each table of a run, for a terminal or a page."""
    yield ("", "mean", "drift per ps"), _means(found)
    yield (
        ("pair", "g(r) peak", "minimum", "neighbours within the minimum", "halves apart"),
        _pairs(found),
    )
    yield ("diffusion", "Å²/ps", "cm²/s", "MSD grows as t to the", "and later"), _diffusion(found)


def _print_run(found: Findings, console: Console) -> None:
    console.print(Text(title(found), style="bold"), soft_wrap=True)
    for header, rows in tables(found):
        _print(console, header, rows)
    if found.centre_of_mass:
        moved = found.centre_of_mass
        console.print(
            f"The centre of mass moved by {moved.distance:.3g} Å, {moved.per_ps:.2g} Å/ps.",
            highlight=False,
        )
    for line in found.remarks:
        console.print(Text(f"· {line}"), soft_wrap=True)
    console.print()


def _means(found: Findings) -> Iterator[Row]:
    def row(what: str, unit: str, each: Drifting) -> Row:
        return f"{what} ({unit})", shown(each.mean), shown(each.drift)

    for name, each in found.temperature.items():
        if name == ALL and len(found.formula) == 1:
            continue
        yield row(f"temperature, {name}", "K", each)
    for name, each in found.energy.items():
        yield row(f"{name} energy per atom", "eV", each)


def _pairs(found: Findings) -> Iterator[Row]:
    for name, pair in found.pairs.items():
        numbers = [f"{what} {shown(n)}" for what, n in pair.neighbours.items()] or ["no minimum"]
        apart = NONE if pair.noise is None else f"{pair.noise:.1%}"
        peak, minimum = (
            NONE if r is None else f"{r:.2f} Å" for r in (pair.first_peak, pair.first_minimum)
        )
        yield name, peak, minimum, numbers[0], apart
        for number in numbers[1:]:
            yield "", "", "", number, ""


def _diffusion(found: Findings) -> Iterator[Row]:
    for name, each in found.diffusion.items():
        yield name, *map(shown, (each.coefficient, each.cm2_per_s, each.slope, each.later))


def _print_comparison(
    run: Findings, against: Findings, found: Comparison, console: Console
) -> None:
    console.print(Text(f"{run.name} against {against.name}", style="bold"), soft_wrap=True)
    _print(
        console,
        ("", run.name, against.name, "difference", "in errors", "ratio"),
        (
            (
                name,
                shown(each.run),
                shown(each.against),
                shown(each.difference),
                NONE if each.sigma is None else f"{each.sigma:+.1f}",
                "" if each.ratio is None else shown(each.ratio),
            )
            for name, each in found.figures.items()
        ),
    )
    for what, alike in (("g(r) apart", found.deviation), ("spectra overlap", found.overlap)):
        _print(
            console,
            (what, "the two", f"halves of {run.name}", f"halves of {against.name}"),
            (
                (
                    name,
                    *(
                        NONE if value is None else f"{value:.1%}"
                        for value in (each.value, each.noise_run, each.noise_against)
                    ),
                )
                for name, each in alike.items()
            ),
        )
    said = list(found.missing)
    if found.window:
        said.append(
            f"Diffusion of both from lags of {found.window[0]:.4g} to {found.window[1]:.4g} ps."
        )
    if found.deviation:
        said.append(
            "g(r) apart: the integral of the difference over that of g(r); two runs like these"
            " would differ by about 0.7 times what their halves do, were they the same."
        )
    for line in said:
        console.print(Text(f"· {line}"), soft_wrap=True)


def _print(console: Console, header: Row, rows: Iterator[Row]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for k, name in enumerate(header):
        table.add_column(Text(name), justify="right" if k else "left")
    body = list(rows)
    for row in body[:MAX_ROWS]:
        table.add_row(*(Text(cell) for cell in row))
    if not body:
        return
    console.print(table)
    if len(body) > MAX_ROWS:
        console.print(f"the first {MAX_ROWS} of {len(body)}; --out has all")
