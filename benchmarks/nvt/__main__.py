"""Long dynamics at constant volume and temperature: does a model stay within physics?

    python -m benchmarks.nvt START --model M --teacher T --temperature K --out F

from the root of the repository. LAMMPS moves START (times --repeat) on `forcenet-md serve` as
`forcenet-md prepare` sets it up (Langevin, 0.1 ps). Then: whether it came to its end, the mean
temperature of each element, g(r) of every pair beside that of the teacher's own dynamics (of START
or of --reference-start, for --reference-ps: shorter and smaller where the teacher is slow), and
the teacher's forces on frames of the path. --bonds counts neighbours: whether molecules or
polyhedra stay what they are shows in neither temperatures nor g(r). Without --teacher only the
model's own figures.

The same command goes on after a stop, with nothing lost but the last segment (2 ps of the model,
1 ps of the teacher) and to the same trajectory; larger --ps or --reference-ps make the runs longer.
A run that stopped by a fault is tried again from its last whole segment. --results gets NAME.md,
NAME.json and two pictures.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.hardware import hardware
from benchmarks.nvt import figures
from benchmarks.nvt.figures import Bond, Run, as_run, deviations, halves, pair_densities
from benchmarks.nvt.files import read_start
from benchmarks.nvt.model_run import DUMP_EVERY, ModelRun, run_model
from benchmarks.nvt.report import file_name, page
from benchmarks.nvt.teacher import SEGMENT, SPACING, path_errors, run_teacher
from benchmarks.segments import Schedule, exit_code, schedule
from forcenet_md.artifact.export import read_card
from forcenet_md.data.frames import shortest_distance
from forcenet_md.engines.prepared import DAMP, timestep
from forcenet_md.force_error import times_worse
from forcenet_md.inference.load import model_path
from forcenet_md.simulation.observables import element_temperatures
from forcenet_md.simulation.plots import (
    TemperatureCurves,
    plot_pair_distributions,
    plot_temperatures,
)
from forcenet_md.writing import write_text


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    return exit_code(given.out, lambda: compare(given)["stopped"])


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Everything; the figures as they are written to --results."""
    model = str(model_path(given.model).absolute())
    start = read_start(given.start, tuple(given.repeat))
    step = given.timestep / 1000.0 if given.timestep else timestep(start)
    plan = schedule(given.temperature, given.ps, given.segment_ps, step, DUMP_EVERY)
    made = run_model(given.out / "model", start, model, plan)
    run = as_run(made.frames, plan.spacing)
    reference = _reference(given, step) if given.teacher else None
    path = None
    if given.teacher:
        where = given.out / f"path-{len(run.settled)}-{given.labelled}"
        elements = _elements(given, start.get_chemical_symbols())
        path = path_errors(where, run.settled, model, given.teacher, elements, given.labelled)
    result = figures_of(given, model, plan, made, run, reference, path)
    _write(given, result, run, reference)
    return result


def figures_of(
    given: argparse.Namespace,
    model: str,
    plan: Schedule,
    made: ModelRun,
    run: Run,
    reference: Run | None,
    path: dict[str, float] | None,
) -> dict[str, Any]:
    card = read_card(Path(model))
    test = card.test_errors
    compared = None
    if reference is not None:
        theirs = pair_densities(reference.settled)
        compared = {
            **_described(reference, given.bonds),
            "g": deviations(pair_densities(run.settled), theirs),
        }
    return {
        "name": given.name or card.name,
        "model_sha256": card.sha256,
        "teacher": given.teacher,
        "temperature": given.temperature,
        "timestep_fs": 1000.0 * plan.timestep,
        "damping_ps": DAMP,
        "asked_ps": plan.ps,
        "stopped": made.stopped,
        **_described(run, given.bonds),
        "path": path,
        "test": test if "force_mae" in test else None,
        "ratio": times_worse(path, test) if path and test.get("force_mae") else None,
        "reference": compared,
        "r_max": figures.R_MAX,
        "hardware": hardware(),
    }


def _described(run: Run, bonds: Sequence[Bond]) -> dict[str, Any]:
    atoms = run.frames[0]
    return {
        "start": f"{atoms.get_chemical_formula('metal')}, {len(atoms)} atoms",
        "n_atoms": len(atoms),
        "ps": float(run.time[-1]),
        "averaged_from_ps": float(run.time[run.first]),
        "n_frames": len(run.settled),
        "temperatures": figures.temperatures(run),
        "nearest": min(map(shortest_distance, run.settled)),
        "g_noise": halves(run.settled),
        # From the beginning: a reaction does not wait for the averages.
        "bonds": {
            f"{b.neighbour} within {b.distance:g} Å of {b.centre}": b.figures(run.frames)
            for b in bonds
        },
    }


def _reference(given: argparse.Namespace, step: float) -> Run:
    start = read_start(given.reference_start or given.start)
    elements = _elements(given, start.get_chemical_symbols())
    plan = schedule(
        given.temperature, given.reference_ps, SEGMENT, step, round(SPACING / step), seed=7
    )
    frames = run_teacher(given.out / "teacher", start, given.teacher, elements, plan)
    spacing = plan.spacing
    return as_run(frames, spacing, begins=spacing)


def _elements(given: argparse.Namespace, symbols: list[str]) -> list[str]:
    """Of the atom types of a LAMMPS teacher."""
    return given.elements.split(",") if given.elements else sorted(set(symbols))


def _write(
    given: argparse.Namespace, result: dict[str, Any], run: Run, reference: Run | None
) -> None:
    given.results.mkdir(parents=True, exist_ok=True)
    name = result["name"]
    curves = {"model": pair_densities(run.settled)}
    runs = {f"{name}, served": _curves(run)}
    if reference is not None:
        curves[given.teacher] = pair_densities(reference.settled)
        runs[given.teacher] = _curves(reference)
    title = f"{name} at {given.temperature:g} K, {result['ps']:g} ps"
    plot_pair_distributions(given.results / file_name(name, "-pairs.png"), curves, title)
    temperatures = given.results / file_name(name, "-temperatures.png")
    plot_temperatures(temperatures, runs, given.temperature, title)
    write_text(given.results / file_name(name, ".json"), json.dumps(result, indent=1) + "\n")
    text = page(result)
    write_text(given.results / file_name(name, ".md"), text)
    print(text)


def _curves(run: Run) -> TemperatureCurves:
    return TemperatureCurves(run.time, element_temperatures(run.frames), float(run.time[run.first]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start", type=Path, help="structure at the density of the run")
    parser.add_argument("--repeat", type=int, nargs=3, default=(1, 1, 1), metavar="N",
                        help="the model moves START so many times in each direction")  # fmt: skip
    parser.add_argument("--model", required=True, help="a file, or the name of a shipped model")
    parser.add_argument("--name", help="of the results; the card's if not given")
    parser.add_argument("--teacher", help="as of `forcenet-md label`; none: no comparison")
    parser.add_argument("--elements", help="of a LAMMPS teacher, as of `forcenet-md label`")
    parser.add_argument("--temperature", type=float, required=True, help="K")
    parser.add_argument("--ps", type=float, default=100.0)
    parser.add_argument("--timestep", type=float, help="fs; that of `prepare` if not given")
    parser.add_argument("--segment-ps", type=float, default=2.0)
    parser.add_argument("--reference-start", type=Path, help="for the teacher; START if not given")
    parser.add_argument("--reference-ps", type=float, default=20.0)
    parser.add_argument("--bonds", nargs="*", type=Bond.parse, default=[], metavar="P-S:2.6",
                        help="count the second element's atoms so near the first's")  # fmt: skip
    parser.add_argument("--labelled", type=int, default=25, help="frames of the path")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server and LAMMPS end too
    sys.exit(main())
