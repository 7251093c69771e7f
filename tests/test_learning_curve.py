"""benchmarks/learning_curve: which runs it makes, which it finds, and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from models import write_model
from training_runs import crystal, label

from benchmarks import learning_curve
from benchmarks.learning_curve import Point, main, nested, series
from forcenet_md.artifact.update import update_card
from forcenet_md.data.frames import read_frames, write_frames

MUON, ADAM = ("muon", 3e-3), ("adam", 2e-3)


def test_series_share_the_point_where_they_cross() -> None:
    curves = series(100, [25, 50, 200], [10, 20, 40], [MUON, ADAM])
    assert [(p.frames, p.steps) for p in curves["frames"][0]] == [(25, 20), (50, 20), (100, 20)]
    for line, how in zip(curves["steps"], (MUON, ADAM), strict=True):
        assert line == [Point(100, steps, *how) for steps in (10, 20, 40)]
    points = {p for lines in curves.values() for line in lines for p in line}
    assert len(points) == 3 + 3 + 3 - 1
    assert len({p.name for p in points}) == len(points)


def test_smaller_sets_are_whole_trajectories_of_the_larger_ones() -> None:
    frames = [crystal(k // 3, repeat=1) for k in range(18)]  # six trajectories of three
    chosen = [{id(atoms) for atoms in nested(frames, size)} for size in (2, 7, 18)]
    assert [len(one) for one in chosen] == [3, 9, 18]
    assert chosen[0] < chosen[1] < chosen[2]
    for atoms in frames:
        same = [id(other) in chosen[1] for other in frames if other.info == atoms.info]
        assert len(set(same)) == 1


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words for a curve of six frames in three trajectories, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    frames = label([crystal(k // 2, repeat=1) for k in range(6)])
    write_frames(tmp_path / "train.extxyz", frames)
    write_frames(tmp_path / "test.extxyz", frames[:1])
    tree = {
        "data": {"train": "train.extxyz", "test": "test.extxyz", "validation_fraction": 0.0},
        "model": {"hidden": 16, "cutoff": 4.0, "n_radial": 4, "n_hidden_edge": 1},
        "training": {"steps": 1, "batch": 1, "optimizer": "muon", "learning_rate": 3e-3},
        "card": {"name": "tiny", "description": "EMT", "licence": "CC0-1.0", "citation": "none"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    words = "config.yaml --folder . --work work --out curve.md --frames 3 --steps 2 4"
    return words.split()


def test_what_is_there_is_not_made_again(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int, str]] = []

    def run(command: list[str], **_: Any) -> None:
        given = dict(word.split("=", 1) for word in command if "=" in word)
        path = Path(given["data.train"])
        made.append((path.name, int(given["training.steps"]), given["training.optimizer"]))
        write_model(Path(given["output"]))
        error = {"force_mae": 0.1 / made[-1][1], "relative": 0.2 / made[-1][1]}
        update_card(given["output"], {"test_errors": error})

    monkeypatch.setattr(learning_curve.subprocess, "run", run)
    main(asked)
    assert made == [
        ("3.extxyz", 4, "muon"),
        ("train.extxyz", 4, "muon"),
        ("train.extxyz", 2, "muon"),
    ]
    assert len(read_frames(tmp_path / "work" / "3.extxyz")) == 4
    first = (tmp_path / "curve.md").read_text()
    main(asked)
    assert (tmp_path / "curve.md").read_text() == first
    assert len(made) == 3
    main([*asked, "--against", "adam", "0.002", "--also", "work/6-frames-2-muon-0.003.pt"])
    assert made[3:] == [("train.extxyz", 2, "adam"), ("train.extxyz", 4, "adam")]
    rows = [line for line in (tmp_path / "curve.md").read_text().splitlines() if line[:2] == "| "]
    assert rows[1] == "| muon, 0.003 | 3 | 4 | 25.0 | 5.00 % |"
    assert [row.split(" | ")[:3] for row in rows[1:]] == [
        ["| muon, 0.003", "3", "4"], ["| muon, 0.003", "6", "4"], ["| muon, 0.003", "6", "2"],
        ["| adam, 0.002", "6", "2"], ["| adam, 0.002", "6", "4"],
        ["| `6-frames-2-muon-0.003.pt`", "", ""],
    ]  # fmt: skip
    assert "</svg>" in (tmp_path / "curve.svg").read_text()


def test_one_number_of_steps_is_too_few(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*asked, "--steps", "5"])
    assert "--steps needs two numbers" in capsys.readouterr().err


@pytest.mark.slow
def test_a_curve_of_a_few_steps(asked: list[str], tmp_path: Path) -> None:
    main(asked)
    rows = (tmp_path / "curve.md").read_text().splitlines()
    errors = [row.split(" | ")[3:] for row in rows if row.startswith("| muon")]
    assert len(errors) == 3
    assert all(0.0 < float(mae) < 10_000.0 and share.endswith("% |") for mae, share in errors)
    models = sorted((tmp_path / "work").glob("*.pt"))
    when = [path.stat().st_mtime_ns for path in models]
    assert len(when) == 3
    main(asked)
    assert [path.stat().st_mtime_ns for path in models] == when
