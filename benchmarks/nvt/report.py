"""What was found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forcenet_md.distill.rounds import LIMIT

TOLERANCE, ENOUGH_ATOMS = 0.02, 500  # of temperatures, and from how many atoms on it is asked for

PICTURES = ("pairs", "temperatures")

Result = dict[str, Any]


def page(result: Result) -> str:
    return "\n".join(_lines(result)) + "\n"


def _lines(r: Result) -> Iterator[str]:
    yield from [f"# {r['name']}: {r['ps']:g} ps at constant volume and temperature", ""]
    yield (
        f"{r['start']}, {r['temperature']:g} K, Langevin {r['damping_ps']:g} ps, timestep"
        f" {r['timestep_fs']:g} fs: LAMMPS on `forcenet-md serve`, float32, one thread."
        f" Model {r['model_sha256'][:12]}…. {r['hardware']}. Made by `python -m benchmarks.nvt`."
        f" Averages are from {r['averaged_from_ps']:g} ps on."
    )
    yield from ["", _whole(r), ""]
    yield from _temperatures(r)
    yield from ["", *_path(r), ""]
    yield from _pairs(r)
    yield from _bonds(r)
    for what in PICTURES:
        yield from ["", f"![{what}]({file_name(r['name'], f'-{what}.png')})"]


def file_name(name: str, ending: str) -> str:
    """Of the page, the figures and the pictures of a run."""
    return f"nvt-{name}{ending}"


def _whole(r: Result) -> str:
    how = f"It stopped {r['stopped']}" if r["stopped"] else f"It ran all of {r['asked_ps']:g} ps."
    near = f"The shortest distance of two atoms was {r['nearest']:.2f} Å"
    reference = r["reference"]
    return f"{how} {near}" + (
        f" ({reference['nearest']:.2f} Å in the teacher's own dynamics)." if reference else "."
    )


def _temperatures(r: Result) -> Iterator[str]:
    reference = r["reference"]
    yield "| | temperature, K | off by |" + (" teacher's, K |" if reference else "")
    yield "|---|---|---|" + ("---|" if reference else "")
    for element, mean_and_error in r["temperatures"].items():
        row = f"| {element} | {_kelvin(mean_and_error)} | {_off(r, element):+.2%} |"
        yield row + (f" {_kelvin(reference['temperatures'][element])} |" if reference else "")
    yield ""
    worst = max((abs(_off(r, e)), e) for e in r["temperatures"])
    if r["n_atoms"] < ENOUGH_ATOMS:
        yield (
            f"{r['n_atoms']} atoms are too few to hold an element's temperature to"
            f" {TOLERANCE:.0%}; the largest deviation is {worst[0]:.1%} ({worst[1]})."
        )
    else:
        held = "All are" if worst[0] <= TOLERANCE else f"{worst[1]} is not"
        yield f"{held} within {TOLERANCE:.0%} of the thermostat's."


def _path(r: Result) -> Iterator[str]:
    path, test, ratio = r["path"], r["test"], r["ratio"]
    if path is None:
        yield "No teacher was given: no error along the path, no g(r) to compare with."
        return
    yield (
        f"Error along the path: {path['force_mae']:.4f} eV/Å, {path['relative']:.1%} of mean |F|"
        f" ({path['n_frames']} frames labelled by {r['teacher']})."
    )
    if ratio is None:
        yield "The card has no test error to compare with."
        return
    wanted = f"at most {LIMIT} is wanted" if ratio <= LIMIT else f"more than the {LIMIT} wanted"
    yield (
        f"Test error on the card: {test['force_mae']:.4f} eV/Å, {test['relative']:.1%}. Ratio,"
        f" the larger of those in eV/Å and of shares: {ratio:.2f} ({wanted})."
    )


def _pairs(r: Result) -> Iterator[str]:
    reference = r["reference"]
    if reference:
        yield (
            f"g(r) up to {r['r_max']:g} Å beside that of {reference['ps']:g} ps of {r['teacher']}"
            f" ({reference['start']}, from {reference['averaged_from_ps']:g} ps on):"
            " ∫|Δg|/∫g. Noise is the same between the two halves of the teacher's run, and of the"
            " model's."
        )
        yield from ["", "| pair | model and teacher | noise of teacher | noise of model |"]
        yield "|---|---|---|---|"
        for pair, value in reference["g"].items():
            noise = reference["g_noise"].get(pair), r["g_noise"].get(pair)
            yield f"| {pair} | {value:.1%} | {_share(noise[0])} | {_share(noise[1])} |"
    else:
        yield f"g(r) up to {r['r_max']:g} Å: ∫|Δg|/∫g between the two halves of the run."
        yield from ["", "| pair | halves |", "|---|---|"]
        for pair, value in r["g_noise"].items():
            yield f"| {pair} | {_share(value)} |"


def _bonds(r: Result) -> Iterator[str]:
    theirs = r["reference"]["bonds"] if r["reference"] else {}
    for name, found in r["bonds"].items():
        reference = theirs.get(name, {"shares": {}})
        numbers = sorted({*found["shares"], *reference["shares"]}, key=int)
        yield from ["", f"Neighbours: {name}, all frames.", ""]
        yield "| | " + " | ".join(numbers) + " |"
        yield "|---|" + "---|" * len(numbers)
        rows = {"model": found, **({"teacher": reference} if theirs else {})}
        for who, figures in rows.items():
            shares = (figures["shares"].get(number, 0.0) for number in numbers)
            yield f"| {who} | " + " | ".join(f"{share:.2%}" for share in shares) + " |"
        yield ""
        for who, figures in rows.items():
            tenths = ", ".join(f"{share:.0%}" for share in figures["unusual"])
            yield f"Frames with an unusual one, {who}, by tenths of the run: {tenths}."


def _kelvin(mean_and_error: tuple[float, float | None]) -> str:
    mean, error = mean_and_error
    return f"{mean:.1f}" + (f" ± {error:.1f}" if error is not None else "")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _off(r: Result, element: str) -> float:
    return r["temperatures"][element][0] / r["temperature"] - 1.0
