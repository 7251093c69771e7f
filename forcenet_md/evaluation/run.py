"""Evaluating a model on labelled frames: one pass, batch by batch, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forcenet_md.errors import DataError, EvaluationError, ForceNetError
from forcenet_md.evaluation.cases import Case, Cases, evenly
from forcenet_md.evaluation.result import Model
from forcenet_md.evaluation.rotation import Instability, instability
from forcenet_md.evaluation.totals import Outcome, Settings, Totals
from forcenet_md.inference.interface import Evaluator, Request
from forcenet_md.system import Forces


def evaluate(
    evaluator: Evaluator,
    cases: Cases,
    model: Model,
    settings: Settings,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Errors of a model's forces, as it is served.

    progress(frames done, frames in all) after every batch. stopped: asked after every batch; when
    it is true the figures are over the frames so far, and `complete` is False.
    Raises DataError for no frames or an unknown column, EvaluationError when the model has no
    forces for any frame or was stopped before the first.
    """
    if settings.limit is not None and settings.limit < 1:
        raise DataError(f"a limit of {settings.limit} frames leaves none: give 1 or more.")
    rows = evenly(len(cases), settings.limit)
    if not len(rows):
        raise DataError("there are no frames to evaluate: give a file with labelled structures.")
    totals = Totals(cases, settings, evaluator.capabilities.conservative)
    done = 0
    complete = True
    for batch in cases.batches(rows, settings.batch_atoms):
        totals.add(batch, predict(evaluator, batch))
        done += len(batch)
        progress(done, len(rows))
        if done < len(rows) and stopped():
            complete = False
            break
    if not totals.n_frames:
        raise EvaluationError(f"the model has no forces for any frame: {totals.refused.first[0]}")
    rotation = _rotation(evaluator, cases, totals, settings, stopped) if complete else None
    complete = complete and (rotation is not None or not settings.rotations)
    return totals.outcome(model, len(rows), complete, rotation)


def predict(evaluator: Evaluator, cases: Sequence[Case]) -> list[Forces | ForceNetError]:
    """What the served model answers: with held atoms the net force stays, as on every route."""
    return evaluator.evaluate(
        [
            Request(evaluator.new_session(), case.system, keep_net_force=bool(case.fixed.any()))
            for case in cases
        ]
    )


def _rotation(
    evaluator: Evaluator,
    cases: Cases,
    totals: Totals,
    settings: Settings,
    stopped: Callable[[], bool],
) -> Instability | None:
    """Over some of the frames that had forces; None when it was not asked for or was stopped."""
    if settings.rotations == 0:
        return None
    rows = totals.evaluated
    chosen = [cases[rows[i]] for i in evenly(len(rows), settings.rotation_frames)]

    def ask(batch: Sequence[Case]) -> list[Forces | ForceNetError]:
        if stopped():
            raise _Stopped
        return predict(evaluator, batch)

    try:
        return instability(ask, chosen, settings.rotations, settings.axis)
    except _Stopped:
        return None


class _Stopped(Exception):
    """Ctrl-C while structures were turned."""
