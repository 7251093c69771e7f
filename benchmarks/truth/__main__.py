"""The truth test: a study run on the served model, and the same run by the model's teacher.

    python -m benchmarks.truth STUDY --out FOLDER [--ps 200]

from the root of the repository; STUDY is solid, molten, small, lips-600 or lips-900. The teacher
makes the start. From there LAMMPS moves the atoms on `forcenet-md serve`; and, as often as the
study says, the teacher does, with other random numbers (in LAMMPS, or in ASE where it is a
calculator of ASE): how far these are apart is its own noise. They are judged as `forcenet-md
analyse` does. The same command goes on after a stop, with nothing lost but the last segment, to the
same trajectory; a larger --ps makes the runs longer. --results gets truth-STUDY.json and pictures;
docs/validation.md is written of all studies that are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hardware import hardware
from benchmarks.nvt.teacher import path_errors
from benchmarks.segments import exit_code
from benchmarks.truth.dynamics import Made, run_model, run_teachers
from benchmarks.truth.heat import KELVIN, heat
from benchmarks.truth.page import MODEL, PICTURES, write_page
from benchmarks.truth.studies import STUDIES, Study
from forcenet_md.artifact.export import read_card
from forcenet_md.errors import DataError
from forcenet_md.inference.load import model_path
from forcenet_md.simulation.analysis import Settings
from forcenet_md.simulation.analysis_files import write_analysis
from forcenet_md.simulation.comparison import compare
from forcenet_md.simulation.findings import Report
from forcenet_md.simulation.judging import Run, judge
from forcenet_md.simulation.observables import PairDistribution, read_lammps_dump
from forcenet_md.simulation.trajectory import Reading, Trajectory
from forcenet_md.writing import write_text

LABELLED = 25  # frames of the model's path


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    return exit_code(given.out, lambda: _told(given))


def _told(given: argparse.Namespace) -> str | None:
    study = STUDIES[given.study]
    ps = study.ps if given.ps is None else given.ps
    if ps <= study.settle:
        raise DataError(
            f"--ps {ps:g}: the first {study.settle:g} ps of each run are left out of all averages; "
            "give more"
        )
    result = conduct(given.study, study, given.out, ps, given.results)
    write_text(given.results / f"truth-{given.study}.json", json.dumps(result, indent=1) + "\n")
    write_page(given.results, given.page)
    return result["stopped"]


def conduct(name: str, study: Study, out: Path, ps: float, results: Path) -> dict[str, Any]:
    """Run what is not there, and judge."""
    teachers = run_teachers(out, study, ps)
    made = run_model(out, study, ps)
    runs = {MODEL: made} | {f"teacher {k + 1}": each for k, each in enumerate(teachers)}
    judged = {of: analysed(of, each, study) for of, each in runs.items()}
    model, first, *more = judged.values()
    report = Report(run=model.findings, against=first.findings, comparison=compare(model, first))
    for path in write_analysis(out / "analysis", report, model, first):
        if path.stem in PICTURES and path.suffix == ".png":
            shutil.copyfile(path, results / f"truth-{name}-{path.name}")
    scale = noise_scale(ps - study.settle, teachers[0].plan.ps - study.settle, len(teachers))
    frames = [read_lammps_dump(path)[-1] for path in made.files]
    path = model_path(study.model).absolute()
    card = read_card(path)
    window = shortest_window(judged.values())
    return {
        "study": name,
        "title": study.title,
        "model": study.model,
        "model_sha256": card.sha256,
        "teacher": study.teacher,
        "temperature": study.temperature,
        "timestep_fs": 1000.0 * study.timestep,
        "settle_ps": study.settle,
        "ps": ps,
        "teacher_ps": teachers[0].plan.ps,
        "steps": made.plan.steps,
        "stopped": made.stopped,
        "formula": model.findings.formula,
        "temperatures": {of: _temperatures(each) for of, each in judged.items()},
        "diffusion_window": window,
        "diffusion": {of: _diffusion(each, window) for of, each in judged.items()},
        "pairs": pairs(model, [first, *more], scale),
        "heat": {of: heat_of(each, study) for of, each in runs.items()},
        "path": path_errors(
            out / f"path-{len(frames)}", frames, str(path), study.teacher, study.elements, LABELLED,
        ),
        "test": card.test_errors,
        "hours": {of: each.seconds / 3600.0 for of, each in runs.items()},
        "hardware": hardware(),
    }  # fmt: skip


def analysed(name: str, made: Made, study: Study) -> Run:
    how = Reading((), None, study.timestep, study.settle, 1)
    print(f"reading {name}", flush=True)
    return judge(Trajectory(made.files, how), name, Settings(), lambda _: None, lambda: False)


def pairs(model: Run, teachers: Sequence[Run], scale: float) -> dict[str, Any]:
    """How far g(r) is, by pair, from the mean of all the teacher's runs (model), each of these from
    the mean of the others (noise), and, by that, a perfect model's (expected)."""
    curves = [each.curves.g for each in (model, *teachers)]
    mine, *theirs = [each for each in curves if each is not None]
    away = mine.deviation(mean(theirs))
    noise = [
        each.deviation(mean([other for other in theirs if other is not each])) for each in theirs
    ]
    found = {}
    for pair in away:
        of = [each[pair] for each in noise]
        found[pair] = {"model": away[pair], "noise": of, "expected": scale * float(np.mean(of))}
    return found


def noise_scale(model: float, teacher: float, teachers: int) -> float:
    """What a perfect model's run is away from the mean of n teachers', in parts of what one of
    these is away from the mean of the others: variances go with one over the length (ps)."""
    mine = 1.0 / model + 1.0 / (teachers * teacher)
    return float(np.sqrt(mine * teacher / (1.0 + 1.0 / (teachers - 1))))


def mean(curves: Sequence[PairDistribution]) -> PairDistribution:
    first = curves[0]
    g = {pair: np.mean([each.g[pair] for each in curves], axis=0) for pair in first.g}
    return PairDistribution(first.r, g)


def _temperatures(run: Run) -> dict[str, Any]:
    return {of: each.mean.model_dump() for of, each in run.findings.temperature.items()}


def shortest_window(runs: Iterable[Run]) -> tuple[float, float] | None:
    """ps: the lags at which all runs are fitted, for coefficients at other lags are others."""
    windows = [run.window for run in runs]
    known = [window for window in windows if window is not None]
    return min(known, key=lambda window: window[1]) if len(known) == len(windows) else None


def _diffusion(run: Run, window: tuple[float, float] | None) -> dict[str, Any]:
    return {of: each.model_dump(mode="json") for of, each in run.diffusion(window).items()}


def heat_of(made: Made, study: Study) -> dict[str, Any] | None:
    found = heat(made, study)
    if found is None:
        return None
    return {"ev": found.model_dump(), "kelvin": found.times(KELVIN).model_dump()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--ps", type=float, help="that of the study if not given")
    root = Path(__file__).parents[2]
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=root / "docs" / "validation.md")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server and LAMMPS end too
    sys.exit(main())
