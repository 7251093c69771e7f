"""How a round is judged, and what is handed out after several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from browser import assert_whole, needed
from models import write_model

from forcenet_md.artifact import archive
from forcenet_md.artifact.export import read_card
from forcenet_md.data.frames import with_labels, write_frames
from forcenet_md.distill.clock import Clock
from forcenet_md.distill.exploring import warnings
from forcenet_md.distill.files import Files
from forcenet_md.distill.finish import Result, finish
from forcenet_md.distill.plan import PATHS, Plan, Run, VisitPlan, make_plan
from forcenet_md.distill.rounds import best_member, judge
from forcenet_md.distill.settings import Settings
from forcenet_md.distill.work import Work

SMOOTH = {"element": "Cu", "verdict": "smooth", "roughness": 0.03, "change": 0.1, "step": 0.01}
ROUGH = {**SMOOTH, "verdict": "rough", "roughness": 0.8}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return explored(tmp_path)


def explored(folder: Path) -> Work:
    """A distillation that has explored: two frames of each of the teacher's trajectories."""
    asked = Settings(
        structure=Path("cu.cif"),
        structure_sha256="0",
        teacher="emt",
        low=300.0,
        high=900.0,
        budget=3600.0,
        timestep=2.0,
    )
    files = Files(folder)
    (folder / "explore").mkdir()
    write_frames(files.start, [bulk("Cu", cubic=True)])
    for run in plan_of(asked).runs:
        write_frames(files.trajectory(run), [frame("md"), frame("md")])
    write_frames(files.off_path, [frame("off")])
    write_frames(files.watched, [])
    clock = Clock(folder / "clock.json", asked.budget)
    clock.spent = {"exploring": 60.0}
    return Work(asked, files, clock, 0, lambda _: None)


def plan_of(asked: Settings) -> Plan:
    return make_plan(asked, 0.05)


def frame(why: str, error: float = 0.0) -> Atoms:
    """Labelled with 1 eV/Å for every component; the model is off by `error`."""
    atoms = bulk("Cu", cubic=True)
    atoms.info.update(why=why, trajectory="t")
    out = with_labels(atoms, 0.0, np.ones((4, 3)))
    out.arrays["model_forces"] = np.ones((4, 3)) - error
    return out


def trained(work: Work, number: int, errors: tuple[float, float]) -> None:
    """Models with these test errors, and the paths they were sent on."""
    this = work.files.round(number)
    this.folder.mkdir()
    for member, error in enumerate(errors):
        path = this.model(member)
        write_model(path, seed=member)
        model = archive.read(path)
        figures = {"force_mae": error, "mean_abs_force": 1.0, "relative": error}
        card = model.card.model_copy(update={"test_errors": figures})
        archive.write(path, model.members, card)
    run = Run(number=0, temperature=300.0, scale=1.0, shear=0.0, seed=1)
    best = best_member(this, 2)
    chosen = VisitPlan(best=best, steps=500, nearest=0.8, runs=(run,) * PATHS)
    this.visit_plan.write_text(chosen.model_dump_json())


def visited(work: Work, number: int, frames: list[Atoms], whole: int = PATHS) -> dict[str, Any]:
    """The figures of a round whose first path had these frames, labelled already."""
    this = work.files.round(number)
    for k in range(PATHS):
        found = {"whole": k < whole, "spread": [0.1] * len(frames), "near": [0.9] * len(frames)}
        this.path_figures(k).write_text(json.dumps(found))
        write_frames(this.path(k), frames if k == 0 else [])
    if frames:
        write_frames(this.labelled, frames)
    return judge(work, this)


def test_the_even_frames_alone_make_the_error_along_the_path(work: Work) -> None:
    trained(work, 0, (0.05, 0.04))
    figures = visited(work, 0, [frame("even", 0.05), frame("even", 0.07), frame("doubtful", 9.0)])
    assert figures["best"] == 1
    assert figures["path"]["force_mae"] == pytest.approx(0.06)
    assert figures["ratio"] == pytest.approx(1.5)
    assert figures["whole_paths"] == 6
    wild = frame("even", 0.0)
    wild.calc.results["forces"] *= 2.0  # off by as much as it is too small
    trained(work, 1, (0.5, 0.6))
    assert visited(work, 1, [wild])["ratio"] == pytest.approx(2.0)  # and not 1, of the mean force
    assert work.files.round(0).result() == json.loads(json.dumps(figures))


def test_an_even_frame_that_the_teacher_cannot_label_is_no_success(work: Work) -> None:
    trained(work, 0, (0.05, 0.04))
    this = work.files.round(0)
    write_frames(this.labelled, [frame("even", 0.01)])
    for k in range(PATHS):
        found = {"whole": True, "spread": [0.1], "near": [0.9]}
        this.path_figures(k).write_text(json.dumps(found))
        write_frames(this.path(k), [frame("even", 0.01)])
    figures = judge(work, this)
    assert figures["not_labelled"] == 5
    assert figures["whole_paths"] == 0


def test_a_model_without_any_dynamics_is_handed_out_as_that(work: Work) -> None:
    trained(work, 0, (0.05, 0.04))
    figures = visited(work, 0, [], whole=0)
    assert figures["ratio"] is None
    result = finish(work, plan_of(work.settings), [SMOOTH])
    assert not result.good
    assert "left physics at once" in result.verdict
    assert "left physics at once" in read_card(result.model).notes
    assert "left physics at once" in result.report.read_text()


@pytest.fixture(scope="module")
def four_rounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, Result]:
    work = explored(tmp_path_factory.mktemp("distilled"))
    for number, (error, whole) in enumerate([(0.03, 5), (0.08, 6), (0.05, 6), (0.06, 6)]):
        trained(work, number, (0.04, 0.05))
        visited(work, number, [frame("even", error)], whole)
    return work, finish(work, plan_of(work.settings), [SMOOTH, ROUGH])


def test_the_model_with_whole_paths_and_the_smallest_error_on_them_is_handed_out(
    four_rounds: tuple[Work, Result],
) -> None:
    work, result = four_rounds
    assert result.good
    card = read_card(result.model)
    assert card.test_errors["path"]["force_mae"] == pytest.approx(0.05)
    assert card.test_errors["path"]["ratio"] == pytest.approx(1.25)
    assert card.test_errors["force_mae"] == 0.04
    assert card.sha256 == read_card(work.files.round(2).model(0)).sha256
    assert [read_card(path).sha256 for path in result.others] == [
        read_card(work.files.round(2).model(1)).sha256
    ]
    assert "emt is rough" in card.notes
    page = result.report.read_text()
    assert "m.pt is of round 2" in page
    assert page.count("<td>6 of 6, 1.0 ps</td>") == 3


@pytest.mark.slow
@needed
def test_a_browser_shows_the_report(four_rounds: tuple[Work, Result], tmp_path: Path) -> None:
    assert_whole(four_rounds[1].report, tmp_path, 4, "m.pt is of round 2")


def test_a_rough_teacher_is_warned_of() -> None:
    assert warnings("emt", [SMOOTH]) == []
    worse = {**ROUGH, "change": 0.2}
    gold = {**ROUGH, "element": "Au"}
    (warning,) = warnings("emt", [SMOOTH, ROUGH, worse, gold])
    assert "emt is rough: the force changes on Cu by 0.2 eV/Å in 0.01 Å" in warning
    assert "on Au by 0.1 eV/Å" in warning
    assert "by 0.1 eV/Å in 0.01 Å (roughness 0.80), on Au" not in warning
