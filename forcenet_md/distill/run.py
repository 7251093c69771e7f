"""A distillation from its first line to its last.

    explore   the teacher is timed, screened, and explores; its frames are labelled
    rounds    a committee is trained; its best member runs; the teacher labels where it went;
              until its error there is at most 1.5 times the test error, or the budget is used
    finish    the best model, its card, a report

What a stage leaves is found again by the next call with the same settings.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ase import Atoms

from forcenet_md.data.provenance import describe_teacher
from forcenet_md.distill.clock import Clock
from forcenet_md.distill.explore import read_start, supercell
from forcenet_md.distill.exploring import explored, planned, screened
from forcenet_md.distill.files import Files
from forcenet_md.distill.finish import Result, finish
from forcenet_md.distill.plan import FIRST, LABELLING, LATER, VISITING
from forcenet_md.distill.rounds import ends, judge, run_paths, train
from forcenet_md.distill.settings import Settings
from forcenet_md.distill.work import Work
from forcenet_md.errors import DataError
from forcenet_md.locking import locked
from forcenet_md.writing import write_text

MANY = 10**6  # more atoms than any cell is repeated to
PATIENCE = 30.0  # s, for the programs of a distillation that was killed to end
SHORTEST = 0.75  # of a later round: with less time left no other one begins


def distill(
    settings: Settings,
    folder: Path,
    tell: Callable[[str], None] = lambda _: None,
) -> Result:
    """Explore, train and visit in rounds until the model is as good where it goes as on the test.

    folder: of all files; what is there of the same distillation is gone on with
    tell: one line for the user
    Raises DataError for a structure, teacher, folder or budget that does not fit, and with the
    last words of a program that failed.
    """
    describe_teacher(settings.teacher, settings.elements)  # unknown: said before anything is made
    atoms = supercell(read_start(settings.structure), settings.atoms)
    if len(atoms) == 1:
        raise DataError(
            f"{settings.structure} has one atom, on which no force acts: give {_more(atoms)}."
        )
    settings.check(folder)
    with locked(folder, "distillation", PATIENCE) as lock:
        files = Files(folder)
        work = Work(settings, files, Clock(folder / "clock.json", settings.budget), lock, tell)
        try:
            with work.clock.stage("exploring"):
                plan = planned(work, atoms)
        finally:
            if not settings.written(folder):  # refused: nothing is begun
                work.clock.forget()
        settings.write(folder)
        with work.clock.stage("screening"):
            screening = screened(work, plan, atoms)
        with work.clock.stage("exploring"):
            explored(work, plan)
        while (seconds := next_training(work)) is not None:
            this = files.round(len(files.rounds()))
            with work.clock.stage("training"):
                train(work, plan, this, seconds)
            with work.clock.stage("running the models"):
                run_paths(work, plan, this)
            with work.clock.stage("labelling"):
                judge(work, this)
        return finish(work, plan, screening)


def _more(atom: Atoms) -> str:
    """What gives a single atom others to feel: images, where they are near, or a structure."""
    return "more --atoms" if len(supercell(atom, MANY)) > 1 else "a structure with more atoms"


def next_training(work: Work) -> float | None:
    """Seconds of the training of the next round; None when there is to be none."""
    done = work.files.rounds()
    this = work.files.round(len(done))
    if this.training_plan.is_file():  # it was stopped in the midst
        return float(this.training_plan.read_text("utf-8"))
    if done and ends(done[-1].result() or {}, work.settings.error):
        return None
    budget, left = work.settings.budget, work.clock.left
    beside = (VISITING + LABELLING) * budget
    if not done:
        seconds = min(FIRST * budget, max(left - beside, 0.5 * FIRST * budget))
    elif left < SHORTEST * (LATER * budget + beside):
        return None
    elif left < 2.0 * (LATER * budget + beside):  # the last one takes what is left
        seconds = left - beside
    else:
        seconds = LATER * budget
    write_text(this.training_plan, f"{seconds:.1f}")
    return seconds
