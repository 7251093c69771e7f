"""The paper's studies (Hu et al. 2021, arXiv:2103.01436) in small, on data of your own.

    python -m benchmarks.paper table7 --data oc20.extxyz --out FOLDER --table results.md

from the root of the repository. A study of benchmarks/paper/studies.yaml is a list of runs. Runs
that are done are not repeated, one that was stopped goes on from its checkpoint, and the table is
written from what is there; without a study it is only written. A study stops when its runs have
used their processor hours (--budget, or what studies.yaml says).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.paper.carry_out import Data, carry_out, open_source, result, spent
from benchmarks.paper.expand import STUDIES, Study, load_studies
from benchmarks.paper.report import write_report
from forcenet_md.errors import DataError, ForceNetError
from forcenet_md.training.stop import on_interrupt


def main(arguments: list[str] | None = None) -> int:
    """0: all is done; 1: a fault, said in a sentence; 130: the budget is used, or Ctrl-C."""
    given = _parser().parse_args(arguments)
    try:
        studies = load_studies(given.studies)
        unknown = sorted(set(given.study) - set(studies))
        if unknown:
            raise DataError(f"there is no study {unknown[0]}: give some of {', '.join(studies)}.")
        given.out.mkdir(parents=True, exist_ok=True)
        data = open_source(given.data, given.out, given.system, given.time)
        done = True
        for name in given.study:
            budget = given.budget or studies[name].hours * 3600
            done = done and work_through(studies[name], data, given.out, budget)
        if given.table:
            write_report(given.table, given.studies, data, given.out)
            print(f"wrote {given.table}")
    except ForceNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if done else 130


def work_through(study: Study, data: Data, out: Path, budget: float) -> bool:
    """The runs that are missing, one after the other; False when stopped before the last.

    budget: processor seconds of all runs of the study, earlier calls' included
    """
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True

    used = sum(spent(run, data, out) for run in study.runs)
    with on_interrupt(interrupt):
        for k, run in enumerate(study.runs):
            if result(run, data, out) is not None:
                continue
            stop = _limit(budget - used, lambda: interrupted)
            before = spent(run, data, out)
            if stop() or not carry_out(run, data, out, stop):
                print(f"{study.name}: stopped before the end of run {k + 1}; call again to go on")
                return False
            own = spent(run, data, out) - before
            used += own
            print(
                f"{study.name}: run {k + 1} of {len(study.runs)} ({run.split}, fold {run.fold},"
                f" seed {run.seed}) took {own:.0f} s; {used / 60:.0f} of {budget / 60:.0f} minutes"
                " used",
                flush=True,
            )
    return True


def _limit(seconds: float, interrupted: Callable[[], bool]) -> Callable[[], bool]:
    """True once this process has used so much processor time more, or was interrupted."""
    end = time.process_time() + seconds
    return lambda: interrupted() or time.process_time() >= end


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.paper", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("study", nargs="*", help="of studies.yaml; in the order given")
    parser.add_argument("--data", type=Path, required=True, help="labelled frames")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--budget", type=_seconds, help="processor time of a study, as 2h or 90m")
    parser.add_argument("--table", type=Path, help="the Markdown file to write, plots beside it")
    parser.add_argument("--system", default="sid", help="column of the frames: their system")
    parser.add_argument("--time", default="frame", help="column: their time in its trajectory")
    parser.add_argument("--studies", type=Path, default=STUDIES, help="another file of studies")
    return parser


def _seconds(text: str) -> float:
    unit = {"h": 3600.0, "m": 60.0, "s": 1.0}.get(text[-1:])
    try:
        seconds = float(text[:-1]) * unit if unit else 0.0
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time: write it as 2h, 90m or 600s")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
