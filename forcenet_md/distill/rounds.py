"""One round: train a committee, let its best member run, ask the teacher.

A round is over when its figures.json is there; every stage before that leaves files that are found
again, so a distillation goes on wherever it was stopped.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from ase import Atoms

from forcenet_md.artifact.archive import read
from forcenet_md.data.frames import read_frames, write_frames
from forcenet_md.data.provenance import describe_teacher
from forcenet_md.data.visiting import path_errors
from forcenet_md.distill.clock import words
from forcenet_md.distill.files import Round, has_no_frames, read_some
from forcenet_md.distill.jobs import Job
from forcenet_md.distill.plan import PATHS, Plan, VisitPlan, path_steps, plan_runs
from forcenet_md.distill.visit import EVEN, nearest_pair
from forcenet_md.distill.work import Work
from forcenet_md.engines.ase_calculator import ForceNetCalculator
from forcenet_md.force_error import times_worse
from forcenet_md.writing import plain_name, write_text

LIMIT = 1.5  # of the test error: the error along a fresh path that ends the rounds
TIMED = 5  # steps of a model
# A later round begins where the weights were left, so with a smaller rate.
LATER_RATES = ("training.learning_rate=1e-3", "training.final_learning_rate=2e-5")


def train(work: Work, plan: Plan, this: Round, seconds: float) -> None:
    """Models of all members. seconds: of all trainings together, as the clock has it."""
    settings = work.settings
    turns = -(-settings.members // settings.workers)
    left = [member for member in range(settings.members) if not this.model(member).is_file()]
    jobs = [
        Job(
            f"member {member}",
            "forcenet_md",
            tuple(_training(work, plan, this, member, seconds / turns)),
            this.folder / f"member-{member}.log",
        )
        for member in left
    ]
    if left:
        work.say(f"round {this.number}: training {settings.members} networks, {words(seconds)}")
    work.run(f"round {this.number}: networks trained", jobs, [this.model(k) for k in left])


def _training(work: Work, plan: Plan, this: Round, member: int, seconds: float) -> list[str]:
    settings, files = work.settings, work.files
    learned = [str(path) for path in files.training_files(this.number)]
    watched = [] if has_no_frames(files.watched) else [str(files.watched)]
    command = [
        "train",
        settings.base,
        f"folder={json.dumps(str(this.training(member)))}",
        f"output={json.dumps(str(this.model(member)))}",
        f"seed={settings.seed + 100 * this.number + member}",
        f"data.train={json.dumps(learned)}",
        f"data.validation={json.dumps(watched)}",
        "data.validation_fraction=0",  # nor any other frame, where there are too few to watch
        f"data.test={json.dumps(str(files.test))}",
        # Watched to be shown. Few frames of dynamics would choose weights from before what is new
        # was learned; the rate ends near zero, so the last weights are those to keep.
        "export=last",
        "data.validation_frames=60",
        f"training.seconds={seconds:.0f}",
        "training.validations=12",
        f"training.threads={max(1, settings.workers // settings.members)}",
        "training.checkpoint_seconds=20",
        f"card.name={json.dumps(plain_name(settings.structure.stem, 'model'))}",
        f"card.description={json.dumps(_description(work, plan, this))}",
    ]
    if this.number:
        before = files.round(this.number - 1).model(member)
        command += [f"training.initial={json.dumps(str(before))}", *LATER_RATES]
    elif settings.floor:
        command.append("model.floor=zbl")
    command += settings.overrides
    return command + (["--resume"] if (this.training(member) / "checkpoint.pt").is_file() else [])


def _description(work: Work, plan: Plan, this: Round) -> str:
    settings, (start,) = work.settings, read_frames(work.files.start)
    teacher = describe_teacher(settings.teacher, settings.elements)
    options = f", {teacher['teacher_options']}" if "teacher_options" in teacher else ""
    visited = ", and what earlier rounds visited" if this.number else ""
    version = f" ({teacher['teacher_version']}{options})" if "teacher_version" in teacher else ""
    return (
        f"{start.get_chemical_formula()} from {settings.structure.name}, labelled by"
        f" {teacher['teacher']}{version}: its dynamics at {settings.low:g} to {settings.high:g} K,"
        f" {plan.n_off_path} rattled and pressed structures{visited}"
    )


def best_member(this: Round, members: int) -> int:
    """That with the smallest test error."""
    return int(np.argmin([errors_of(this, k)["force_mae"] for k in range(members)]))


def errors_of(this: Round, member: int) -> dict[str, Any]:
    """Of a member on the test frames, from its card."""
    return dict(read(this.model(member)).card.test_errors)


def run_paths(work: Work, plan: Plan, this: Round) -> None:
    """Fresh paths of the best member, over the range of temperatures and strains."""
    settings, files = work.settings, work.files
    if not this.visit_plan.is_file():
        best = best_member(this, settings.members)
        (start,) = read_frames(files.start)
        dynamics = [*read_frames(files.taught), *read_some(files.watched)]
        chosen = VisitPlan(
            best=best,
            steps=path_steps(settings, plan, _seconds_per_step(this, best, start)),
            nearest=min(nearest_pair(atoms) for atoms in dynamics),
            runs=plan_runs(
                settings.low, settings.high, PATHS, settings.seed + 1000 + this.number, hot=False
            ),
        )
        write_text(this.visit_plan, chosen.model_dump_json(indent=1))
    work.share(
        f"round {this.number}: paths of the model",
        "forcenet_md.distill.visit_job",
        (str(files.folder), str(this.number)),
        {str(k): this.path(k) for k in range(PATHS)},
    )


def _seconds_per_step(this: Round, best: int, start: Atoms) -> float:
    atoms = start.copy()
    atoms.calc = ForceNetCalculator(str(this.model(best)), threads=1, guard="off")
    atoms.get_forces()
    begun = time.monotonic()
    for k in range(TIMED):
        atoms.rattle(0.001, seed=k)
        atoms.get_forces()
    return (time.monotonic() - begun) / TIMED


def judge(work: Work, this: Round) -> dict[str, Any]:
    """Label what was visited, and hold the error along the paths against the test error."""
    chosen = VisitPlan.read(this.visit_plan)
    visited = [frame for k in range(PATHS) for frame in read_some(this.path(k))]
    if visited:
        work.label(f"round {this.number}: labels", visited, this.visited, this.labelled)
    else:
        write_frames(this.labelled, [])
    labelled = read_some(this.labelled)
    even = [frame for frame in labelled if frame.info["why"] == EVEN]
    n_even = sum(frame.info["why"] == EVEN for frame in visited)
    paths = [json.loads(this.path_figures(k).read_text("utf-8")) for k in range(PATHS)]
    test = errors_of(this, chosen.best)
    path = path_errors(even) if even else None
    figures = {
        "round": this.number,
        "best": chosen.best,
        "path_ps": chosen.steps * work.settings.timestep / 1000.0,
        "test": {name: test[name] for name in ("force_mae", "mean_abs_force", "relative")},
        "members": [errors_of(this, k)["force_mae"] for k in range(work.settings.members)],
        "path": path,
        "ratio": times_worse(path, test) if path else None,
        "paths": PATHS,
        # A frame the teacher cannot label is as far from physics as one that was not reached.
        "whole_paths": sum(found["whole"] for found in paths) if len(even) == n_even else 0,
        "labelled": len(labelled),
        "not_labelled": len(visited) - len(labelled),
        "largest_spread": max((max(p["spread"]) for p in paths if p["spread"]), default=None),
        "used": work.clock.used,
    }
    write_text(this.figures, json.dumps(figures, indent=1))
    work.say(f"round {this.number}: {sentence(figures)}")
    return figures


def good(figures: dict[str, Any]) -> bool:
    """All paths held out and the error along them is at most LIMIT times the test error."""
    whole = figures["whole_paths"] == figures["paths"]
    return bool(whole and figures["ratio"] is not None and figures["ratio"] <= LIMIT)


def ends(figures: dict[str, Any], wanted: float) -> bool:
    """Is nothing left to be done? wanted: test error, of the mean force."""
    return good(figures) and figures["test"]["relative"] <= wanted


def sentence(figures: dict[str, Any]) -> str:
    """Test error, path error, ratio and whole paths in words."""
    test, path = figures["test"], figures["path"]
    along = (
        f"along its own paths {path['force_mae']:.4f} of {path['mean_abs_force']:.3f} eV/Å"
        f" ({100 * path['relative']:.1f} %, {figures['ratio']:.2f} times the test's)"
        if path
        else "no path of its own that the teacher could label"
    )
    return (
        f"test error {test['force_mae']:.4f} of {test['mean_abs_force']:.3f} eV/Å"
        f" ({100 * test['relative']:.1f} %), {along}, {figures['whole_paths']} of"
        f" {figures['paths']} paths whole"
    )
