"""The report of a distillation: one HTML page with its pictures inside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

import forcenet_md
from forcenet_md.artifact.card import Card
from forcenet_md.data.frames import forces_of
from forcenet_md.data.visiting import MODEL_FORCES
from forcenet_md.distill import plots
from forcenet_md.distill.clock import words
from forcenet_md.distill.files import Round, read_some
from forcenet_md.distill.plan import Plan, VisitPlan
from forcenet_md.distill.rounds import LIMIT
from forcenet_md.distill.visit import EVEN
from forcenet_md.distill.work import Work
from forcenet_md.evaluation.page import embed, page, table
from forcenet_md.evaluation.plots import plot_parity
from forcenet_md.writing import write_text

Drawn = list[tuple[Path, str]]  # (file, caption)


@dataclass(frozen=True)
class Story:
    """What is told.

    screening: lines of the teacher's; rounds: figures of each; best: the round of the model that
    is handed out; verdict: one sentence on it; card: the model's
    """

    work: Work
    plan: Plan
    screening: Sequence[dict[str, Any]]
    rounds: Sequence[dict[str, Any]]
    best: Round
    verdict: str
    card: Card


def write_report(story: Story) -> Path:
    """Write report.html, in which nothing is fetched or run; returns it. Raises DataError."""
    work = story.work
    folder = work.files.folder / "report"
    folder.mkdir(exist_ok=True)
    title = f"{work.settings.structure.name}, learned from {work.settings.teacher}"
    body = _body(story, _draw(folder, story))
    write_text(work.files.report, page(title, body, forcenet_md.__version__))
    return work.files.report


def _draw(folder: Path, story: Story) -> Drawn:
    files, best, rounds = story.work.files, story.best, story.rounds
    members = range(story.work.settings.members)
    drawn: Drawn = [
        (folder / "rounds.png", "Errors on the test frames and along the model's own paths."),
        (folder / "learning.png", "Error on the frames watched while training, over all rounds."),
    ]
    plots.plot_rounds(drawn[0][0], rounds, LIMIT)
    trainings = [[files.round(r["round"]).training(k) for r in rounds] for k in members]
    plots.plot_learning(drawn[1][0], [plots.learning_curve(runs) for runs in trainings])
    chosen = VisitPlan.read(best.visit_plan)
    paths = [json.loads(best.path_figures(k).read_text("utf-8")) for k in range(len(chosen.runs))]
    if len(members) > 1 and any(found["spread"] for found in paths):
        drawn.append(
            (folder / "spread.png", f"The committee along the paths of round {best.number}.")
        )
        names = [f"{run.temperature:.0f} K" for run in chosen.runs]
        spacing = story.plan.spacing * story.plan.timestep / 1000.0
        plots.plot_spread(drawn[-1][0], paths, names, spacing)
    even = [atoms for atoms in read_some(best.labelled) if atoms.info["why"] == EVEN]
    if even:
        drawn.append(
            (folder / "parity.png", "The model's force components over the teacher's, on even"
             f" frames of its paths in round {best.number}.")
        )  # fmt: skip
        labels = np.concatenate([forces_of(atoms) for atoms in even])
        plot_parity(drawn[-1][0], labels, np.concatenate([a.arrays[MODEL_FORCES] for a in even]))
    return drawn


def _body(story: Story, drawn: Drawn) -> Iterator[str]:
    yield f"<p>{escape(story.verdict)}</p>"
    described = escape(story.card.training_data.description)
    yield f"<p>m.pt is of round {story.best.number}. {described}.</p>"
    yield from _rounds(story.rounds)
    for path, caption in drawn:
        yield from embed(path, caption)
    yield from _teacher(story)
    yield from _time(story.work)


def _rounds(rounds: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "<h2>Rounds</h2>"
    yield from table(
        ("round", "test error", "of |F|", "along paths", "of |F|", "ratio", "whole paths",
         "labels", "largest force", "nearest pair", "budget used"),
        [_of_round(r) for r in rounds],
    )  # fmt: skip
    yield (
        "<p>Errors are mean absolute errors of force components in eV/Å, of the member with the"
        " smallest on the test, and their share of the mean |F| of the same frames; the ratio is"
        f" between the errors or between the shares, whichever is more, and at most {LIMIT} is"
        " wanted. Test frames are whole trajectories of the teacher that no training saw. Paths"
        " are fresh dynamics of the model; their largest true force (eV/Å) and nearest pair (Å)"
        " show where it left physics.</p>"
    )


def _teacher(story: Story) -> Iterator[str]:
    files, plan = story.work.files, story.plan
    yield "<h2>The teacher</h2>"
    yield f"<p>{plan.seconds_per_call:.3g} s for a structure on one thread.</p>"
    yield from table(
        ("element", "roughness", "largest change of its force", "verdict"),
        [_of_line(line) for line in story.screening],
    )
    yield "<p>Smooth potentials have a roughness of up to 0.1, a jump has 0.4 to 1.</p>"
    yield "<h2>Its trajectories</h2>"
    yield from table(
        ("", "K", "cell lengths", "shear", "frames", "for"),
        [
            [
                run.name,
                f"{run.temperature:.0f}",
                f"× {run.scale:.3f}",
                f"{run.shear:g}",
                str(len(read_some(files.trajectory(run)))),
                "test" if run.held_out else "training",
            ]
            for run in plan.runs
        ],
    )
    yield f"<p>Each has {plan.steps} steps of {plan.timestep:g} fs. Of those for training"
    yield f" {len(read_some(files.watched))} frames were watched and not learned. Beside them"
    yield f" {len(read_some(files.off_path))} structures are rattled or have short pairs.</p>"


def _time(work: Work) -> Iterator[str]:
    yield "<h2>Time</h2>"
    spent = work.clock.spent
    used = sum(spent.values())
    yield from table(
        ("stage", "time", "share"),
        [
            [stage, words(seconds), f"{100 * seconds / used:.0f} %"]
            for stage, seconds in spent.items()
        ],
    )
    yield f"<p>{words(used)} of {words(work.settings.budget)} were used.</p>"


def _of_round(figures: dict[str, Any]) -> list[str]:
    test, path = figures["test"], figures["path"]
    along = ["–"] * 3
    seen = ["–"] * 2
    if path:
        along = [_error(path), f"{100 * path['relative']:.1f} %", f"{figures['ratio']:.2f}"]
        seen = [f"{path['largest_force']:.1f}", f"{path['smallest_distance']:.2f}"]
    return [
        str(figures["round"]),
        _error(test),
        f"{100 * test['relative']:.1f} %",
        *along,
        f"{figures['whole_paths']} of {figures['paths']}, {figures['path_ps']:.1f} ps",
        str(figures["labelled"]),
        *seen,
        words(figures["used"]),
    ]


def _error(figures: dict[str, Any]) -> str:
    return f"{figures['force_mae']:.4f}"


def _of_line(line: dict[str, Any]) -> list[str]:
    change = "–" if line["change"] is None else f"{line['change']:.3g} eV/Å in {line['step']:g} Å"
    rough = "–" if line["roughness"] is None else f"{line['roughness']:.3f}"
    return [str(line["element"]), rough, change, str(line["verdict"])]
