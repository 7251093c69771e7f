"""docs/validation.md, of all results that are there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.truth.studies import STUDIES
from forcenet_md.force_error import times_worse
from forcenet_md.writing import write_text

G_GOAL, D_GOAL, RATIO_GOAL = 0.02, 0.14, 1.5
PICTURES = ("pair-distributions", "displacements", "spectra")

Result = dict[str, Any]

HEAD = """# Long runs beside the truth

Is a trajectory on a served model that of the model's teacher? The same start, the same density, the
same thermostat (Langevin, 0.1 ps on every atom), through LAMMPS: once on `forcenet-md serve`, and
twice on the teacher itself with other random numbers. What those two are apart is the noise of
runs of this length; what the model is apart beyond it is the model's. Everything here is made by

    python -m benchmarks.truth STUDY --out FOLDER

which goes on after a stop, and writes this page. Errors are standard errors, by blocking.
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
    formula = "".join(f"{e}{n}" for e, n in r["report"]["run"]["formula"].items())
    hours = ", ".join(f"{of} {value:.2g}" for of, value in r["hours"].items())
    yield from ["", f"## {r['model']}, {r['title']}", ""]
    yield (
        f"{formula}, {r['steps']} steps of {r['timestep_fs']:g} fs ({r['ps']:g} ps), averages from"
        f" {r['settle_ps']:g} ps on. Model {r['model_sha256'][:12]}…, float32, one thread; teacher"
        f" {r['teacher']}. Hours of one core: {hours}. {r['hardware']}."
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
    beyond = [value for _, value in _beyond(r)]
    if beyond:
        met = "met" if max(beyond) <= G_GOAL else "**not met**"
        yield (
            f"- **g(r)**: at most {max(beyond):.1%} beyond the noise, of {len(beyond)} pairs"
            f" (2 % wanted: {met})."
        )
    ratios = [(e, one["ratio"]) for e, one in _coefficients(r["report"]) if one["ratio"]]
    if ratios and _is_liquid(r):
        most = max(ratios, key=lambda pair: abs(pair[1]["value"] - 1.0))
        met = "met" if abs(most[1]["value"] - 1.0) <= D_GOAL else "**not met**"
        yield (
            f"- **Diffusion**: farthest off for {most[0]}, {_number(most[1], 2)} times the"
            f" teacher's (14 % wanted: {met})."
        )
    for of, heat in r["heat"].items():
        if heat:
            yield (
                f"- **Heat** of {of}: {_number(_times(heat['ev'], 1e3), 4)} meV per atom and ps,"
                f" {_number(heat['kelvin'], 2)} K/ps shared with the potential energy."
            )
    if r["path"] and r["test"].get("force_mae"):
        ratio = times_worse(r["path"], r["test"])
        yield (
            f"- **Error along the path**: {r['path']['force_mae']:.4f} eV/Å,"
            f" {r['path']['relative']:.1%} of mean |F| ({r['path']['n_frames']} frames),"
            f" {ratio:.2f} times the test error on the card."
        )


def _is_liquid(r: Result) -> bool:
    """All elements diffuse in the teacher's run."""
    found = r["report"]["against"]["diffusion"].values()
    return bool(found) and all(one["slope"]["value"] > 0.8 for one in found)


def _temperatures(r: Result) -> Iterator[str]:
    yield "| temperature, K | model | teacher | difference |"
    yield "|---|---|---|---|"
    for name, one in r["report"]["comparison"]["figures"].items():
        if name.startswith("temperature of "):
            cells = [_number(one[key], 1) for key in ("run", "against", "difference")]
            yield f"| {name.split()[2]} | {' | '.join(cells)} |"


def _coefficients(report: Result) -> list[tuple[str, Result]]:
    figures = report["comparison"]["figures"].items()
    return [(name.split()[2], one) for name, one in figures if name.startswith("diffusion of ")]


def _diffusion(r: Result) -> Iterator[str]:
    if not _is_liquid(r):
        yield "Nothing diffuses in the time of the run, in the model's run as in the teacher's."
        return
    noise = dict(_coefficients(r["noise"])) if r["noise"] else {}
    yield "| diffusion, Å²/ps | model | teacher | model / teacher | teacher / teacher |"
    yield "|---|---|---|---|---|"
    for element, one in _coefficients(r["report"]):
        cells = [_number(one[key], 3) for key in ("run", "against")]
        ratios = [_number(each["ratio"], 2) for each in (one, noise.get(element)) if each]
        yield f"| {element} | {' | '.join([*cells, *ratios])} |"


def _beyond(r: Result) -> list[tuple[str, float]]:
    if not r["noise"]:
        return []
    mine, noise = (each["comparison"]["deviation"] for each in (r["report"], r["noise"]))
    return [(pair, mine[pair]["value"] - noise[pair]["value"]) for pair in mine]


def _pairs(r: Result) -> Iterator[str]:
    mine = r["report"]["comparison"]["deviation"]
    if not r["noise"]:
        yield "g(r), ∫|Δg|/∫g: " + ", ".join(f"{p} {v['value']:.1%}" for p, v in mine.items()) + "."
        return
    noise = r["noise"]["comparison"]["deviation"]
    yield "| g(r), ∫abs(Δg)/∫g | model and teacher | two runs of the teacher | beyond |"
    yield "|---|---|---|---|"
    for pair, more in _beyond(r):
        yield f"| {pair} | {mine[pair]['value']:.2%} | {noise[pair]['value']:.2%} | {more:+.2%} |"


def _times(estimate: Result, factor: float) -> Result:
    return {key: None if value is None else factor * value for key, value in estimate.items()}


def _number(estimate: Result, digits: int) -> str:
    error = f" ± {estimate['error']:.{digits}f}" if estimate["error"] is not None else ""
    return f"{estimate['value']:.{digits}f}{error}"
