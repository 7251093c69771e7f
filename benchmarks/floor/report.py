"""What was found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from statistics import fmean, median, stdev
from typing import Any

from scipy.stats import binomtest

from benchmarks.floor.dynamics import HOTTEST, LARGEST, NEAREST
from benchmarks.floor.plan import FLOORS, TEACHER, TRAINED_AT, Plan
from benchmarks.hardware import hardware

LEVEL = 0.05  # of the sign test


def page(plan: Plan, results: Sequence[dict[str, Any]]) -> str:
    """What was found, as Markdown."""
    return "\n".join(_lines(plan, results)) + "\n"


def _lines(plan: Plan, results: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from ["# The pair floor and the stability of dynamics", ""]
    yield (
        f"{len(results)} seeds. In each, {plan.frames} frames of 32 atoms of Cu–Au at"
        f" {TRAINED_AT} K labelled by {TEACHER} trained two networks ({plan.hidden} wide,"
        f" {plan.cutoff:g} Å, {plan.steps} steps of 2 frames), one with `model.floor=zbl`; both"
        f" then ran up to {plan.ps:g} ps of Langevin dynamics (0.1 ps) from one structure"
        f" with the same velocities. {hardware()}. Made by `python -m benchmarks.floor`."
    )
    yield from ["", f"A run ends when a pair is nearer than {NEAREST} Å, a force larger than"]
    yield f"{LARGEST:g} eV/Å or the temperature above {HOTTEST:g} times the thermostat's. In the"
    yield f"teacher's own dynamics: {_of_teacher(results)}."
    columns = ("K", "floor", "whole runs", "lasted, ps", "median", "nearest pair, Å", "error, eV/Å")
    yield from ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for temperature in plan.temperatures:
        for floor in FLOORS:
            yield _row([r["runs"][f"{floor} {temperature}"] for r in results], temperature, floor)
    yield ""
    for temperature in plan.temperatures:
        yield f"{temperature} K: {survival(results, temperature)}."
    yield from ["", "This error is of the structures that a run visits before it ends, every tenth"]
    yield "of a ps; those of a run that lasts are others. What the floor costs is seen on test"
    yield "frames, eV/Å (means over the seeds; the difference with its standard error):"
    yield from ["", "| frames of the teacher at | none | zbl | difference |", "|---|---|---|---|"]
    for temperature in (TRAINED_AT, *plan.temperatures):
        yield _test_row(results, temperature)


def survival(results: Sequence[dict[str, Any]], temperature: int) -> str:
    """Which of two networks that share a seed lasts longer, by an exact sign test."""
    pairs = [[r["runs"][f"{floor} {temperature}"]["ps"] for floor in FLOORS] for r in results]
    longer = sum(zbl > none for none, zbl in pairs)
    shorter = sum(zbl < none for none, zbl in pairs)
    alike = len(pairs) - longer - shorter
    p = binomtest(longer, longer + shorter).pvalue if longer + shorter else 1.0
    verdict = "not resolved" if p > LEVEL else "longer" if longer > shorter else "shorter"
    counted = f"{longer} of {len(pairs)} lasted longer with the floor, {shorter} shorter"
    counted += f", {alike} alike" if alike else ""
    return f"{counted}: {verdict} (sign test, p = {p:.2g})"


def _row(runs: Sequence[dict[str, Any]], temperature: int, floor: str) -> str:
    lasted = sorted(run["ps"] for run in runs)
    near = [run["nearest"] for run in runs if run["nearest"] is not None]
    errors = [run["error"] for run in runs if run["error"] is not None]
    return (
        f"| {temperature} | {floor} | {sum(not run['why'] for run in runs)} of {len(runs)} |"
        f" {', '.join(f'{ps:.2f}' for ps in lasted)} | {median(lasted):.2f} |"
        f" {f'{min(near):.2f}' if near else '–'} | {f'{fmean(errors):.2f}' if errors else '–'} |"
    )


def _of_teacher(results: Sequence[dict[str, Any]]) -> str:
    parts = []
    for temperature in results[0]["teacher"]:
        near, large = zip(*(r["teacher"][temperature] for r in results), strict=True)
        parts.append(f"{min(near):.2f} Å and {max(large):.1f} eV/Å at {temperature} K")
    return ", ".join(parts)


def _test_row(results: Sequence[dict[str, Any]], temperature: int) -> str:
    none, zbl = (
        [r[floor]["by_temperature"][str(temperature)]["force_mae"] for r in results]
        for floor in FLOORS
    )
    off = [b - a for a, b in zip(none, zbl, strict=True)]
    error = f" ± {stdev(off) / sqrt(len(off)):.4f}" if len(off) > 1 else ""
    return f"| {temperature} K | {fmean(none):.4f} | {fmean(zbl):.4f} | {fmean(off):+.4f}{error} |"
