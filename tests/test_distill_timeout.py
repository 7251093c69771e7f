"""A teacher that hangs costs a distillation one trajectory or one label."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk

from forcenet_md.data.frames import write_frames
from forcenet_md.distill.clock import Clock
from forcenet_md.distill.explore_job import main as explore_some
from forcenet_md.distill.exploring import seconds_per_call
from forcenet_md.distill.files import Files, read_some
from forcenet_md.distill.plan import Plan, Run
from forcenet_md.distill.settings import Settings
from forcenet_md.distill.work import Work
from forcenet_md.errors import DataError


def hanging(timeout: float | None) -> Settings:
    return Settings(
        structure=Path("cu.extxyz"), structure_sha256="0", teacher="own_teachers:Hanging",
        low=300.0, high=300.0, budget=3600.0, timestep=4.0, timeout=timeout,
    )  # fmt: skip


def three_runs(seconds_per_call: float = 0.01) -> Plan:
    runs = tuple(Run(number=k, temperature=300.0, scale=1.0, shear=0.0, seed=k) for k in range(3))
    return Plan(
        seconds_per_call=seconds_per_call, runs=runs, steps=4, spacing=1, timestep=4.0,
        n_off_path=0, per_path=8,
    )  # fmt: skip


def test_a_label_has_a_hundred_times_the_usual_if_nothing_is_said() -> None:
    assert three_runs(60.0).timeout(hanging(None)) == 6000.0
    assert three_runs(0.01).timeout(hanging(None)) == 600.0
    assert three_runs(60.0).timeout(hanging(5.0)) == 5.0


@pytest.mark.slow
def test_a_teacher_that_hangs_while_it_is_timed_is_told() -> None:
    with pytest.raises(DataError, match=r"cannot label .* longer than --timeout 1 s"):
        seconds_per_call(hanging(1.0), bulk("Cu", cubic=True))


@pytest.mark.slow
def test_a_teacher_that_hangs_costs_one_trajectory_and_one_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, files = hanging(2.0), Files(tmp_path)
    start = bulk("Cu", cubic=True)
    asked.write(tmp_path)
    three_runs().write(tmp_path)
    (tmp_path / "explore").mkdir()
    write_frames(files.start, [start])
    explore_some(tmp_path, [0, 1, 2])
    lengths = [len(read_some(files.trajectory(run))) for run in three_runs().runs]
    assert (lengths[0], lengths[2]) == (4, 4)
    assert lengths[1] < 4
    assert "md-1 ended early: it took longer than --timeout 2 s" in capsys.readouterr().out

    work = Work(asked, files, Clock(tmp_path / "clock.json", 3600.0), 0, lambda _: None)
    out = tmp_path / "a-labelled.extxyz"
    work.label("labels", [start] * 8, tmp_path / "a.extxyz", out)
    assert len(read_some(out)) == 7
    (failed,) = read_some(tmp_path / "a-labelled-failed.extxyz")
    assert "longer than --timeout 2 s" in failed.info["label_failed"]
