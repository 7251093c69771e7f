"""docs/validation.md, of all results that are there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.truth.studies import STUDIES
from forcenet_md.force_error import times_worse
from forcenet_md.simulation.statistics import Estimate
from forcenet_md.writing import write_text

G_GOAL, D_GOAL = 0.02, 0.14
MODEL = "model"
PICTURES = ("pair-distributions", "displacements", "spectra")

Result = dict[str, Any]

HEAD = """# Long runs beside the truth

Is a trajectory on a served model that of the model's teacher? The same start, the same density, the
same thermostat (Langevin, 0.1 ps on every atom): once through LAMMPS on `forcenet-md serve`, and
several times by the teacher itself with other random numbers. How far each of these is from the
mean of the others is the noise of a run of this length. From it follows, by the number and length
of the runs, how far a run of a perfect model would be from the mean of all the teacher's: what the
model's run is more than that is the model's; of two runs of the teacher it is one figure, and has
no error. Everything here is made by

    python -m benchmarks.truth STUDY --out FOLDER

which goes on after a stop, and writes this page. Errors are standard errors, by blocking, and of
a mean of three or more runs by how far these are apart. Hours are of LAMMPS's and ASE's own loops,
on a core that other work may share.
A strong thermostat slows diffusion: it is the same one in all the runs that are compared, and
coefficients are not those of an experiment.

The goals, set before: g(r) within 2 % (∫|Δg|/∫g) beyond the teacher's own noise; diffusion within
14 %; the small system a million steps without a stop.
"""


def write_page(results: Path, page: Path) -> None:
    found = [results / f"truth-{name}.json" for name in STUDIES]
    read = [json.loads(path.read_text("utf-8")) for path in found if path.is_file()]
    # the pictures as seen from the page
    where = os.path.relpath(results, page.parent)
    lines = [line for r in read for line in _study(r, where, results)]
    write_text(page, HEAD + "\n".join(lines) + "\n")


def _study(r: Result, where: str, results: Path) -> Iterator[str]:
    formula = "".join(f"{e}{n}" for e, n in r["formula"].items())
    hours = ", ".join(f"{of} {value:.2g}" for of, value in r["hours"].items())
    yield from ["", f"## {r['model']}, {r['title']}", ""]
    yield (
        f"{formula}, {r['steps']} steps of {r['timestep_fs']:g} fs ({r['ps']:g} ps), averages from"
        f" {r['settle_ps']:g} ps on. Model {r['model_sha256'][:12]}…, float32, one thread; teacher"
        f" {r['teacher']}, {len(r['hours']) - 1} runs of {r['teacher_ps']:g} ps. Hours:"
        f" {hours}; together {sum(r['hours'].values()):.2g}. {r['hardware']}."
    )
    yield ""
    whole = f"all of {r['ps']:g} ps" if r["stopped"] is None else f"until {r['stopped']}"
    yield f"- **Ran** {whole}."
    yield from _verdict(r)
    yield from ["", *_temperatures(r), "", *_diffusion(r), "", *_pairs(r)]
    for picture in PICTURES:
        name = f"truth-{r['study']}-{picture}.png"
        if (results / name).is_file():
            yield from ["", f"![{picture}]({where}/{name})"]


def _verdict(r: Result) -> Iterator[str]:
    beyond = [(one["model"] - one["expected"], pair) for pair, one in r["pairs"].items()]
    most, pair = max(beyond)
    met = "met" if most <= G_GOAL else "**not met**"
    yield f"- **g(r)**: at most {most:+.1%} beyond the noise, for {pair} (2 % wanted: {met})."
    yield from _diffusion_verdict(r)
    if r["heat"][MODEL]:
        found = [_heat(one) for of, one in r["heat"].items() if of != MODEL and one]
        teachers = f"; of the teacher's runs {'; '.join(found)}" if found else ""
        yield (
            "- **Heat** per atom and ps, shared by kinetic and potential energy:"
            f" {_heat(r['heat'][MODEL])}{teachers}."
        )
    if r["path"] and r["test"].get("force_mae"):
        ratio = times_worse(r["path"], r["test"])
        yield (
            f"- **Error along the path**: {r['path']['force_mae']:.4f} eV/Å,"
            f" {r['path']['relative']:.1%} of mean |F| ({r['path']['n_frames']} frames),"
            f" {ratio:.2f} times the test error on the card."
        )


def _heat(heat: Result) -> str:
    ev, kelvin = _read(heat["ev"]), _read(heat["kelvin"])
    return f"{_number(ev.times(1e3), 4)} meV ({_number(kelvin, 2)} K)"


def _diffusion_verdict(r: Result) -> Iterator[str]:
    moving = {of: _movers(r, of) for of in r["diffusion"][MODEL]}
    n = len(_teachers(r["diffusion"]))
    sure = [of for of, runs in moving.items() if len(runs) == n]
    if missing := [of for of in sure if r["diffusion"][MODEL][of]["coefficient"] is None]:
        yield f"- **Diffusion**: none of {', '.join(missing)} by the model (**not met**)."
    if ratios := {of: _ratio(r, of) for of in sure if of not in missing}:
        element = max(ratios, key=lambda of: abs(ratios[of].value - 1.0))
        met = "met" if abs(ratios[element].value - 1.0) <= D_GOAL else "**not met**"
        yield (
            f"- **Diffusion**: farthest off for {element}, {_number(ratios[element], 2)} times the"
            f" teacher's (14 % wanted: {met})."
        )
    for of, runs in moving.items():
        if 0 < len(runs) < n:
            yield (
                f"- **Diffusion** of {of}: seen in {len(runs)} of the teacher's {n} runs, which are"
                " too short to tell (14 % wanted: **not judged**)."
            )
    if rest := [of for of, runs in moving.items() if not runs]:
        diffuses = [of for of in rest if r["diffusion"][MODEL][of]["coefficient"] is not None]
        met = "met" if r["teacher_ps"] >= r["ps"] else "judged: these are shorter"
        but = f", but by the model: {', '.join(diffuses)} (**not {met}**)" if diffuses else ""
        yield f"- **No diffusion** in any of the teacher's runs: {', '.join(rest)}{but}."


def _movers(r: Result, element: str) -> list[Result]:
    """The teacher's runs in which an element diffuses."""
    runs = _teachers(r["diffusion"])
    return [each for each in runs if each.get(element, {}).get("coefficient") is not None]


def _temperatures(r: Result) -> Iterator[str]:
    yield "| temperature, K | model | teacher | difference |"
    yield "|---|---|---|---|"
    for name, value in r["temperatures"][MODEL].items():
        mine = _read(value)
        theirs = _together([_read(each[name]) for each in _teachers(r["temperatures"])])
        yield (
            f"| {name} | " + " | ".join(_number(x, 1) for x in (mine, theirs, mine - theirs)) + " |"
        )


def _diffusion(r: Result) -> Iterator[str]:
    by_run = r["diffusion"].values()
    moving = [of for of in r["diffusion"][MODEL]
              if any(each.get(of, {}).get("coefficient") for each in by_run)]  # fmt: skip
    if not moving:
        return
    low, high = r["diffusion_window"]
    yield f"Diffusion, Å²/ps, of lags from {low:.3g} to {high:.3g} ps:"
    yield from ["", "| | model | teacher | model / teacher |", "|---|---|---|---|"]
    for element in moving:
        mine, runs = r["diffusion"][MODEL][element]["coefficient"], _movers(r, element)
        theirs = ratio = "–"
        if len(runs) == len(_teachers(r["diffusion"])):
            theirs = _number(_reference(r, element), 4)
            ratio = _number(_ratio(r, element), 2) if mine is not None else "–"
        elif runs:
            seen = [_number(_read(each[element]["coefficient"]), 4) for each in runs]
            theirs = f"{'; '.join(seen)} ({len(runs)} of {len(_teachers(r['diffusion']))} runs)"
        own = _number(_read(mine), 4) if mine is not None else "–"
        yield f"| {element} | {own} | {theirs} | {ratio} |"


def _reference(r: Result, element: str) -> Estimate:
    return _together([_read(each[element]["coefficient"]) for each in _teachers(r["diffusion"])])


def _ratio(r: Result, element: str) -> Estimate:
    return _read(r["diffusion"][MODEL][element]["coefficient"]) / _reference(r, element)


def _pairs(r: Result) -> Iterator[str]:
    yield "| g(r): ∫abs(Δg)/∫g | model | a perfect model's | beyond | the teacher's runs |"
    yield "|---|---|---|---|---|"
    for pair, one in r["pairs"].items():
        low, high = min(one["noise"]), max(one["noise"])
        beyond = one["model"] - one["expected"]
        yield (
            f"| {pair} | {one['model']:.2%} | {one['expected']:.2%} | {beyond:+.2%} |"
            f" {low:.2%} to {high:.2%} |"
        )


def _teachers(by_run: Result) -> list[Result]:
    return [each for of, each in by_run.items() if of != MODEL]


def _together(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent runs, with its error: from how far they are apart, or, of two, from
    their own errors."""
    values = [each.value for each in estimates]
    if len(values) > 2:
        return Estimate(value=mean(values), error=stdev(values) / len(values) ** 0.5)
    own = [each.error for each in estimates if each.error is not None]
    error = sum(e**2 for e in own) ** 0.5 / len(own) if len(own) == len(values) else None
    return Estimate(value=mean(values), error=error)


def _read(estimate: Result) -> Estimate:
    return Estimate(**estimate)


def _number(estimate: Estimate, digits: int) -> str:
    error = "?" if estimate.error is None else f"{estimate.error:.{digits}f}"
    return f"{estimate.value:.{digits}f} ± {error}"
