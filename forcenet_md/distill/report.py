"""The report of a distillation: one HTML page with its pictures inside."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
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
from forcenet_md.distill.files import Round, is_empty, read_some
from forcenet_md.distill.plan import Plan, VisitPlan
from forcenet_md.distill.rounds import LIMIT
from forcenet_md.distill.visit import EVEN
from forcenet_md.distill.work import Work
from forcenet_md.evaluation.plots import plot_parity
from forcenet_md.evaluation.report import STYLE, write_text

Drawn = list[tuple[Path, str]]  # (file, caption)


def write_report(
    work: Work,
    plan: Plan,
    lines: Sequence[dict[str, Any]],
    rounds: Sequence[dict[str, Any]],
    best: Round,
    verdict: str,
    card: Card,
) -> Path:
    """Write report.html; nothing in it is fetched or run.

    lines: of the screening; rounds: figures of each; best: the round of the model that is handed
    out. Returns the page.
    """
    folder = work.files.folder / "report"
    folder.mkdir(exist_ok=True)
    drawn = _draw(folder, work, plan, rounds, best)
    page = "\n".join(_page(work, plan, lines, rounds, best, verdict, card, drawn))
    write_text(work.files.report, page)
    return work.files.report


def _draw(
    folder: Path, work: Work, plan: Plan, rounds: Sequence[dict[str, Any]], best: Round
) -> Drawn:
    drawn: Drawn = [
        (folder / "rounds.png", "Errors on the test frames and along the model's own paths."),
        (folder / "learning.png", "Error on the frames watched while training, over all rounds."),
    ]
    plots.plot_rounds(drawn[0][0], rounds, LIMIT)
    members = range(work.settings.members)
    trainings = [[work.files.round(r["round"]).training(k) for r in rounds] for k in members]
    plots.plot_learning(drawn[1][0], [plots.learning_curve(runs) for runs in trainings])
    chosen = VisitPlan.read(best.visit_plan)
    paths = [json.loads(best.path_figures(k).read_text("utf-8")) for k in range(len(chosen.runs))]
    if work.settings.members > 1 and any(found["spread"] for found in paths):
        drawn.append(
            (folder / "spread.png", f"The committee along the paths of round {best.number}.")
        )
        names = [f"{run.temperature:.0f} K" for run in chosen.runs]
        spacing = plan.spacing * plan.timestep / 1000.0
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


def _page(
    work: Work,
    plan: Plan,
    lines: Sequence[dict[str, Any]],
    rounds: Sequence[dict[str, Any]],
    best: Round,
    verdict: str,
    card: Card,
    drawn: Drawn,
) -> Iterator[str]:
    settings = work.settings
    name = escape(f"{settings.structure.name}, learned from {settings.teacher}")
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield f"<title>{name}</title><style>{STYLE}</style></head><body><h1>{name}</h1>"
    yield f"<p>{escape(verdict)}</p>"
    yield f"<p>m.pt is of round {best.number}. {escape(card.training_data.description)}.</p>"
    yield "<h2>Rounds</h2>"
    yield from _table(
        ("round", "test error", "of |F|", "along paths", "of |F|", "ratio", "whole paths",
         "labels", "largest force", "nearest pair", "budget used"),
        [_of_round(r) for r in rounds],
    )  # fmt: skip
    yield (
        "<p>Errors are mean absolute errors of force components in eV/Å, of the member with the"
        f" smallest on the test; the ratio is between the two, and at most {LIMIT} is wanted."
        " Test frames are whole trajectories of the teacher that no training saw. Paths are fresh"
        " dynamics of the model; their largest true force (eV/Å) and nearest pair (Å) show where"
        " it left physics.</p>"
    )
    for path, caption in drawn:
        data = base64.b64encode(path.read_bytes()).decode()
        yield f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        yield f"<figcaption>{escape(caption)}</figcaption></figure>"
    yield "<h2>The teacher</h2>"
    yield f"<p>{plan.seconds_per_call:.3g} s for a structure on one thread.</p>"
    yield from _table(
        ("element", "roughness", "largest change of its force", "verdict"),
        [_of_line(line) for line in lines],
    )
    yield "<p>Smooth potentials have a roughness of up to 0.1, a jump has 0.4 to 1.</p>"
    yield "<h2>Its trajectories</h2>"
    yield from _table(
        ("", "K", "cell lengths", "shear", "frames", "for"),
        [
            [
                run.name,
                f"{run.temperature:.0f}",
                f"× {run.scale:.3f}",
                f"{run.shear:g}",
                str(_count(work.files.trajectory(run))),
                "test" if run.held_out else "training",
            ]
            for run in plan.runs
        ],
    )
    yield f"<p>Each has {plan.steps} steps of {plan.timestep:g} fs. Beside them"
    yield f" {_count(work.files.off_path)} structures are rattled or have short pairs.</p>"
    yield "<h2>Time</h2>"
    spent = work.clock.spent
    yield from _table(
        ("stage", "time", "share"),
        [
            [stage, words(seconds), f"{100 * seconds / sum(spent.values()):.0f} %"]
            for stage, seconds in spent.items()
        ],
    )
    yield f"<p>{words(sum(spent.values()))} of {words(settings.budget)} were used.</p>"
    yield f"<p>forcenet-md {escape(forcenet_md.__version__)}</p></body></html>"


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


def _count(path: Path) -> int:
    return 0 if is_empty(path) else len(read_some(path))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield '<div class="scroll"><table><tr>'
    yield "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</table></div>"
