"""The studies as Markdown, with plots: ours beside the paper's figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from matplotlib.figure import Figure

from benchmarks.hardware import hardware
from benchmarks.paper.carry_out import Data, fold_of, result, spent
from benchmarks.paper.expand import Run, Study, Variant, load_studies
from benchmarks.paper.statistics import Change, Key, change, mean
from forcenet_md.errors import DataError
from forcenet_md.figures import save_figure
from forcenet_md.writing import write_text

METRICS = {
    "mae": "force MAE of free atoms, meV/Å",
    "instability": "rotation instability, meV/Å",
}
SPLITS = {"system": "held-out systems", "time": "held-out stretches of time"}
VERDICTS = {"lower": "lower", "higher": "**higher**", "not resolved": "not resolved"}
Results = dict[Run, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """value ± error: ours in meV/Å; change: against `variant.against`; seeds: of the runs."""

    variant: Variant
    value: float
    error: float
    change: Change | None
    paper: float | None
    paper_change: float | None
    minutes: float
    seeds: int


def write_report(path: Path, studies: Path, data: Data, out: Path) -> None:
    """Every study of the file that has runs to compare. Raises DataError when none has, or when it
    cannot be written."""
    sections = []
    for study in load_studies(studies).values():
        found = {run: got for run in study.runs if (got := result(run, data, out)) is not None}
        hours = sum(spent(run, data, out) for run in study.runs) / 3600
        sections += _section(study, found, hours, path)
    if not sections:
        raise DataError("no set of runs that can be compared is whole yet: run a study first.")
    write_text(path, "\n".join([*_head(data, studies), *sections]) + "\n")


def rows(study: Study, found: Results, split: str, metric: str) -> list[Row]:
    """A row a variant, over the runs whose set of variants is whole; none without such a set."""
    sets = [
        {run.cell for run in variant.runs if run in found and run.split == split}
        for variant in study.variants
    ]
    whole = set.intersection(*sets)
    if not whole:
        return []
    tables = {
        variant.name: _table([run for run in variant.runs if run.cell in whole], found, metric)
        for variant in study.variants
    }
    paper = {variant.name: variant.paper.get(metric) for variant in study.variants}
    compared = sum(variant.against is not None for variant in study.variants)
    out = []
    for variant in study.variants:
        ours, theirs = mean(tables[variant.name]), paper[variant.name]
        against, base = None, None
        if variant.against is not None:
            against = change(tables[variant.name], tables[variant.against], compared)
            base = paper[variant.against]
        runs = [run for run in variant.runs if run.cell in whole]
        out.append(
            Row(
                variant,
                1000.0 * ours.value,
                1000.0 * ours.error,
                against,
                None if theirs is None else 1000.0 * theirs,
                theirs / base - 1.0 if theirs is not None and base is not None else None,
                fmean(found[run]["processor_seconds"] for run in runs) / 60.0,
                len({run.seed for run in runs}),
            )
        )
    return out


def _table(runs: Sequence[Run], found: Results, metric: str) -> dict[Key, float]:
    return {
        (system, run.fold, run.seed): figures[metric]
        for run in runs
        for system, figures in found[run]["systems"].items()
    }


def _head(data: Data, studies: Path) -> list[str]:
    tree = yaml.safe_load(studies.read_text(encoding="utf-8"))
    settings = sorted(tree["common"]["settings"].items())
    runs = dict.fromkeys(run for study in load_studies(studies).values() for run in study.runs)
    lines = [
        "# The paper's studies in small",
        "",
        f"{data.path.name}: {len(data.frames)} frames of {len(data.systems)} systems (sha256"
        f" {data.sha256[:12]}…). {hardware()}; one thread.",
        "Made by `python -m benchmarks.paper STUDY --data FILE --out FOLDER --table THIS`.",
        "",
        f"Every run is the packaged configuration `{tree['common']['base']}` with",
        "",
        *(f"    {key}={json.dumps(value)}" for key, value in settings),
        "",
        "and what its row says. Of each relaxation the first"
        f" {tree['common']['first_frames']} frames are used.",
        "",
    ]
    for split, what in SPLITS.items():
        own = [run for run in runs if run.split == split]
        if not own:
            continue
        folds = [fold_of(run, data) for run in {run.fold: run for run in own}.values()]
        sizes = [len(rows) for fold in folds for rows in fold.test.values()]
        lines.append(
            f"- {what}: {len(folds)} fold(s), {len({run.seed for run in own})} seeds,"
            f" {len(sizes)} systems tested on {fmean(sizes):.0f} frames each"
        )
    return [*lines, "", tree.get("about", "").strip()]


def _section(study: Study, found: Results, hours: float, path: Path) -> list[str]:
    lines, panels = [], []
    for split in study.splits:
        for metric in study.metrics:
            table = rows(study, found, split, metric)
            if table:
                lines += ["", f"### {SPLITS[split]}: {METRICS[metric]}", ""]
                if table[0].seeds == 1:
                    lines += ["One seed: the spread of trainings is not in the errors.", ""]
                lines += _markdown(table)
                panels.append((f"{SPLITS[split]}\n{metric}", table))
                if metric == "mae":
                    lines += [_median(study, found, split), "", _skill(study, found, split)]
    if not panels:
        return []
    picture = path.with_name(f"{path.stem}-{study.name}.svg")
    _plot(picture, panels)
    head = (
        f"{len(found)} of {len(study.runs)} runs are done; {hours:.2f} of {study.hours:g} processor"
        " hours are used (runs that are shared with other studies counted)."
    )
    picture_line = f"![{study.title}]({picture.name})"
    return ["", f"## {study.title}", "", head, *lines, "", picture_line]


def _markdown(table: Sequence[Row]) -> list[str]:
    head = "| | ours | against | change | | paper | its change | minutes a run |"
    lines = [head, "|" + "---|" * 8]
    for row in table:
        c = row.change
        share = ""
        if c is not None and isfinite(c.value):
            share = f"{_pm(100 * c.value, 100 * c.error, 1, sign=True)} %"
        cells = [
            row.variant.name,
            _pm(row.value, row.error, 1),
            row.variant.against or "",
            share,
            VERDICTS[c.verdict] if c else "",
            "" if row.paper is None else f"{row.paper:.1f}",
            "" if row.paper_change is None or c is None else f"{100 * row.paper_change:+.1f} %",
            f"{row.minutes:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _median(study: Study, found: Results, split: str) -> str:
    runs = [run for run in study.variants[0].runs if run in found and run.split == split]
    ours = mean(_table(runs, found, "median"))
    return f"| median | {_pm(1000 * ours.value, 1000 * ours.error, 1)} | | | | 83.8 | | |"


def _skill(study: Study, found: Results, split: str) -> str:
    """Which rows are better than the median, by the rule of the changes."""
    better = []
    for variant in study.variants:
        runs = [run for run in variant.runs if run in found and run.split == split]
        ours, median = (_table(runs, found, metric) for metric in ("mae", "median"))
        if change(ours, median, len(study.variants)).verdict == "lower":
            better.append(variant.name)
    if better:
        return f"Better than the median, by the same rule: {'; '.join(better)}."
    return (
        "No row is resolved to be better than the median, by the same rule: the changes compare"
        " networks of which none is shown to predict what is held out."
    )


def _pm(value: float, error: float, digits: int, sign: bool = False) -> str:
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return f"{text} ± {error:.{digits}f}" if isfinite(error) else text


def _plot(path: Path, panels: Sequence[tuple[str, Sequence[Row]]]) -> None:
    """Changes against the reference, in per cent: ours with a standard error, the paper's."""
    n = max(len(table) for _, table in panels)
    figure = Figure(figsize=(2.0 + 2.8 * len(panels), 1.2 + 0.3 * n), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, table) in zip(axes, panels, strict=True):
        places = range(len(table))
        for y, row in zip(places, table, strict=True):
            if row.change is None or not isfinite(row.change.value):
                ax.plot(0.0, y, "k|", ms=10)
                continue
            error = 100 * row.change.error if isfinite(row.change.error) else 0.0
            face = "tab:blue" if row.change.verdict != "not resolved" else "none"
            ax.errorbar(100 * row.change.value, y, xerr=error, fmt="o", c="tab:blue", mfc=face)
            if row.paper_change is not None:
                ax.plot(100 * row.paper_change, y, "x", c="tab:orange")
        ax.axvline(0.0, c="0.7", lw=0.8, zorder=0)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("change, %")
        ax.set_yticks(list(places), [row.variant.name for row in table])
    axes[0].set_ylim(n - 0.5, -0.5)  # the first row at the top
    figure.suptitle("circles: ours (filled: resolved); crosses: the paper's", fontsize=8)
    save_figure(figure, path)
