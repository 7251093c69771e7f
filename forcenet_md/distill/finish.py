"""The end of a distillation: its best model with a card, the rest of the committee, a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forcenet_md.artifact import archive
from forcenet_md.artifact.card import Card
from forcenet_md.distill.exploring import warnings
from forcenet_md.distill.plan import Plan
from forcenet_md.distill.report import Story, write_report
from forcenet_md.distill.rounds import LIMIT, good
from forcenet_md.distill.work import Work


@dataclass(frozen=True)
class Result:
    """model, report: files; others: of the committee; good: the criterion holds; verdict: one
    sentence on it"""

    model: Path
    others: list[Path]
    report: Path
    good: bool
    verdict: str


def finish(work: Work, plan: Plan, screening: Sequence[dict[str, Any]]) -> Result:
    """Write the files a user takes along. screening: lines of the teacher's"""
    rounds = [(this, this.result() or {}) for this in work.files.rounds()]
    this, figures = min(rounds, key=lambda one: _rank(one[1]))
    verdict = judgement(figures, work.settings.error)
    rough = warnings(work.settings.teacher, screening)
    card = write_model(this.model(figures["best"]), work.files.model, figures, [verdict, *rough])
    members = [k for k in range(work.settings.members) if k != figures["best"]]
    others = [work.files.other_model(place) for place in range(2, 2 + len(members))]
    for k, path in zip(members, others, strict=True):
        write_model(this.model(k), path, None, rough)
    story = Story(work, plan, screening, [f for _, f in rounds], this, verdict, card)
    return Result(work.files.model, others, write_report(story), good(figures), verdict)


def _rank(figures: dict[str, Any]) -> tuple[int, float]:
    """Smaller is better: first that paths are whole, then the error along them."""
    path = figures["path"]
    return figures["paths"] - figures["whole_paths"], path["force_mae"] if path else float("inf")


def judgement(figures: dict[str, Any], wanted: float) -> str:
    """Does the criterion hold, and is the test error as small as wanted?"""
    n, whole = figures["paths"], figures["whole_paths"]
    if figures["ratio"] is None:
        return (
            "It fell short: the model's dynamics left physics at once on all of its paths; the same"
            " command with a larger --budget goes on."
        )
    along = (
        f"along {n} fresh paths of {figures['path_ps']:.1f} ps the teacher's error is"
        f" {figures['ratio']:.2f} times that on the test frames"
    )
    if good(figures):
        relative = figures["test"]["relative"]
        short = (
            f", where {100 * wanted:g} % is wanted; the same command with a larger --budget goes on"
        )
        # With 0 a user says: use all of the budget.
        missed = relative > wanted > 0
        return (
            f"The criterion holds: {along}, and all paths are whole. The test error is"
            f" {100 * relative:.1f} % of the mean force{short if missed else ''}."
        )
    return (
        f"It fell short: {along} (at most {LIMIT} is wanted), and {whole} of {n} paths are whole;"
        " the same command with a larger --budget goes on."
    )


def write_model(
    found: Path, out: Path, figures: dict[str, Any] | None, sentences: Sequence[str]
) -> Card:
    """A copy of a trained model whose card says more: errors along paths, sentences of notes."""
    model = archive.read(found)
    errors = dict(model.card.test_errors)
    if figures is not None:
        path = {name: round(value, 6) for name, value in (figures["path"] or {}).items()}
        errors["path"] = {
            "definition": "as the test errors, on frames at even intervals along dynamics of this"
            " model; ratio: to the test error, in eV/Angstrom or of mean |F|, whichever is more",
            "ratio": None if figures["ratio"] is None else round(figures["ratio"], 3),
            "paths": figures["paths"],
            "whole_paths": figures["whole_paths"],
            "path_ps": round(figures["path_ps"], 3),
            **path,
        }
    notes = " ".join([model.card.notes, *sentences]).strip()
    card = model.card.model_copy(update={"test_errors": errors, "notes": notes})
    return archive.write(out, model.members, card)
