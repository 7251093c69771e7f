"""The paper's studies in small: statistics, folds, expansion, table, and going on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from math import inf, isnan, log, sqrt
from pathlib import Path

import numpy as np
import pytest
import yaml
from training_runs import crystal, frames_of, label

from benchmarks.paper import expand
from benchmarks.paper.__main__ import main
from benchmarks.paper.carry_out import open_source
from benchmarks.paper.expand import load_studies
from benchmarks.paper.folds import by_system, by_time, thinned, trajectories
from benchmarks.paper.report import rows, write_report
from benchmarks.paper.statistics import change, mean
from forcenet_md.data.frames import write_frames
from forcenet_md.data.store import Frames
from forcenet_md.errors import DataError
from forcenet_md.training.config_file import load_config

ROOT = Path(__file__).resolve().parents[1]

TINY = {
    "common": {
        "base": "tiny",
        "settings": {
            "model.hidden": 8,
            "model.cutoff": 4.0,
            "training.steps": 25,
            "training.learning_rate": 2e-3,
            "training.checkpoint_seconds": 0.01,
        },
        "first_frames": 10,
        "train_frames": 4,
        "evaluation": {"frames": 2, "turns": 2, "turned_frames": 1},
        "splits": {"system": {"folds": 2, "seeds": [1, 2]}, "time": {"folds": 1, "seeds": [1]}},
    },
    "studies": {
        "weights": {
            "title": "Weights",
            "hours": 1,
            "metrics": ["mae", "instability"],
            "variants": {
                "plain": {"paper": {"mae": 0.036}},
                "relu": {"settings": {"model.activation": "relu"}, "paper": {"mae": 0.0373}},
            },
        },
        "sizes": {
            "title": "Sizes",
            "hours": 1,
            "variants": {"four": {}, "two": {"train_frames": 2}},
        },
    },
}


def write_relaxations(path: Path) -> Path:
    """Four systems of Cu and Au, one that alone has Pt; ten frames each, not in order of time."""
    frames = []
    for k, name in enumerate("abcde"):
        for time_ in (3, 1, 0, 2, 4, 9, 8, 7, 6, 5):
            atoms = crystal(10 * k + time_, repeat=1)
            if name == "e":
                atoms.symbols[0] = "Pt"
            atoms.info.update(sid=name, frame=time_)
            frames.append(atoms)
    write_frames(path, label(frames))
    return path


@pytest.fixture(scope="module")
def relaxations(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    folder = tmp_path_factory.mktemp("relaxations")
    return frames_of(write_relaxations(folder / "r.extxyz"), folder)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "studies.yaml"
    path.write_text(yaml.safe_dump(TINY, sort_keys=False), encoding="utf-8")
    return path


def test_error_of_a_mean_by_hand() -> None:
    # Systems 1.5 and 3.5; runs of the one fold 2 and 3.
    found = mean({("a", 0, 1): 1.0, ("a", 0, 2): 2.0, ("b", 0, 1): 3.0, ("b", 0, 2): 4.0})
    assert found.value == 2.5
    assert found.error == pytest.approx(sqrt(1.0 + 0.25))
    assert found.freedom == pytest.approx(1.25**2 / (1.0 + 0.0625))


def test_one_system_has_no_error() -> None:
    found = mean({("a", 0, 1): 1.0})
    assert (found.value, found.error) == (1.0, inf)
    assert change({("a", 0, 1): 1.0}, {("a", 0, 1): 9.0}).verdict == "not resolved"


def table(shares: list[float]) -> dict[tuple[str, int, int], float]:
    """Systems that differ by a factor of ten, each times a share."""
    return {(str(k), 0, 1): 10.0 ** (k % 2) * share for k, share in enumerate(shares)}


def test_a_paired_change_is_resolved_where_systems_agree() -> None:
    ones, smaller = table([1.0] * 6), table([0.91, 0.9, 0.89, 0.9, 0.91, 0.89])
    found = change(smaller, ones)
    assert found.value == pytest.approx(0.9 - 1.0, abs=1e-4)
    assert found.error == pytest.approx(0.9 * 0.0099 / sqrt(6), rel=0.02)
    assert found.limit == pytest.approx(2.571, abs=1e-3)  # Student's t for five degrees of freedom
    assert found.verdict == "lower"
    assert change(ones, smaller).verdict == "higher"


def test_a_change_that_systems_do_not_share_is_not_resolved() -> None:
    ones, mixed = table([1.0] * 6), table([0.6, 1.3, 0.9, 1.1, 0.7, 1.2])
    for a, b in ((ones, mixed), (mixed, ones)):
        assert change(a, b).verdict == "not resolved"


def test_a_figure_of_zero_resolves_nothing() -> None:
    a = {(name, 0, 1): 2.0 for name in "abcd"}
    found = change(a, {**a, ("b", 0, 1): 0.0})
    assert found.verdict == "not resolved"
    assert isnan(found.value)


def test_seeds_that_disagree_leave_a_change_unresolved() -> None:
    """All systems agree within a training, the two trainings do not with each other."""
    ones = {(str(k), 0, seed): 1.0 for k in range(6) for seed in (1, 2)}
    other = {(system, 0, seed): (0.8, 1.1)[seed - 1] for system, _, seed in ones}
    found = change(other, ones)
    assert found.error == pytest.approx(sqrt(0.88) * log(1.1 / 0.8) / 2.0)
    assert found.verdict == "not resolved"


def test_more_comparisons_ask_for_more() -> None:
    ones, smaller = table([1.0] * 6), table([0.9, 0.97, 0.93, 0.99, 0.91, 0.99])
    assert change(smaller, ones).verdict == "lower"
    assert change(smaller, ones, n_comparisons=20).verdict == "not resolved"


@pytest.mark.slow
def test_the_studies_of_the_paper(tmp_path: Path) -> None:
    studies = load_studies()
    assert {name: len(study.variants) for name, study in studies.items()} == {
        "table1": 4,
        "table7": 3,
        "table5": 12,
        "table4": 5,
    }
    runs = {run for study in studies.values() for run in study.runs}
    first = studies["table1"].variants[1].runs  # table 1 alone has rotations, in its first row
    assert all(studies[name].variants[0].runs == first for name in ("table7", "table5", "table4"))
    assert len(runs) == len(first) * (4 + 2 + 11 + 4)
    assert len({run.name("data") for run in runs}) == len(runs)
    assert all(run.name("data") != run.name("other data") for run in first)
    for settings in {run.settings: run for run in runs}.values():
        config = settings.config(tmp_path / "train.h5", tmp_path)
        assert not config.data.remove_net_force


def test_a_run_is_another_when_the_packaged_configuration_is(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run, *_) = next(iter(load_studies(tiny).values())).runs
    before = run.name("data")
    changed = lambda base, given: load_config(base, ["training.clip=3", *given])  # noqa: E731
    monkeypatch.setattr(expand, "load_config", changed)
    expand._all_settings.cache_clear()
    after = run.name("data")
    expand._all_settings.cache_clear()
    assert after != before


def test_comparable_runs_come_together(tiny: Path) -> None:
    study = load_studies(tiny)["weights"]
    assert [run.cell for run in study.runs] == [
        *[("system", 0, 1)] * 2,
        *[("time", 0, 1)] * 2,
        *[("system", 1, 1)] * 2,
        *[("system", 0, 2)] * 2,
        *[("system", 1, 2)] * 2,
    ]


def test_a_variant_against_none_is_named(tiny: Path) -> None:
    tree = yaml.safe_load(tiny.read_text())
    tree["studies"]["sizes"]["variants"]["two"]["against"] = "three"
    tiny.write_text(yaml.safe_dump(tree))
    with pytest.raises(DataError, match="sizes: 'two' is compared with 'three'"):
        load_studies(tiny)


def test_held_out_systems_have_no_element_of_their_own(relaxations: Frames) -> None:
    systems = trajectories(relaxations, "sid", "frame")
    assert relaxations.column("frame")[systems["a"]].tolist() == list(range(10))
    folds = [by_system(relaxations, systems, fold, 2) for fold in range(2)]
    assert [list(fold.test) for fold in folds] == [["a", "c"], ["b", "d"]]
    for fold in folds:
        held = np.concatenate(list(fold.test.values()))
        assert sorted([*fold.train, *held]) == list(range(50))
    with pytest.raises(DataError, match="5 folds cannot be made"):
        by_system(relaxations, systems, 0, 5)


def test_held_out_time_has_a_margin(relaxations: Frames) -> None:
    systems = trajectories(relaxations, "sid", "frame")
    fold = by_time(systems, 0)
    moments = relaxations.column("frame")
    trained = moments[systems["b"][np.isin(systems["b"], fold.train)]]
    assert moments[fold.test["a"]].tolist() == [2, 3]
    assert moments[fold.test["b"]].tolist() == [4, 5]
    assert trained.tolist() == [0, 1, 2, 7, 8, 9]
    assert moments[by_time(systems, 2).test["b"]].tolist() == [2, 3]
    short = {**systems, "a": systems["a"][:9]}
    assert "a" not in by_time(short, 0).test
    assert np.isin(short["a"], by_time(short, 0).train).all()
    with pytest.raises(DataError, match="no system has 10 frames"):
        by_time({"a": short["a"]}, 0)
    assert not np.isin(np.concatenate(list(fold.test.values())), fold.train).any()
    few = thinned(fold, systems, 3, 1)
    kept = moments[systems["b"][np.isin(systems["b"], few.train)]]
    assert (kept.tolist(), len(few.train), len(few.test["b"])) == ([0, 2, 8], 15, 1)


def test_the_table_is_over_whole_sets_of_runs(tiny: Path) -> None:
    study = load_studies(tiny)["weights"]
    plain, relu = study.variants
    sizes = {"a": 0.02, "b": 0.1}
    found = {run: _found(sizes, 1.0) for run in plain.runs}
    assert rows(study, found, "system", "mae") == []
    found |= {run: _found(sizes, 1.2) for run in relu.runs[:2]}  # one fold, both seeds
    found |= {plain.runs[2]: _found(sizes, 9.0)}  # has no counterpart
    first, second = rows(study, found, "system", "mae")
    assert (first.value, first.change) == (pytest.approx(60.0), None)
    assert second.value == pytest.approx(72.0)
    assert second.change is not None
    assert second.change.value == pytest.approx(0.2)
    assert second.paper_change == pytest.approx(0.0373 / 0.036 - 1.0)


def test_a_study_of_one_split_has_a_table(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = yaml.safe_load(tiny.read_text())
    del tree["common"]["splits"]["system"]
    tiny.write_text(yaml.safe_dump(tree, sort_keys=False))
    data = open_source(write_relaxations(tmp_path / "r.extxyz"), tmp_path / "out", "sid", "frame")
    for number, run in enumerate(load_studies(tiny)["sizes"].runs):
        figures = _found({"a": 0.02, "b": 0.1}, 1.0 + number)
        folder = tmp_path / "out" / "runs" / run.name(data.sha256)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(figures))
    write_report(tmp_path / "t.md", tiny, data, tmp_path / "out")
    page = (tmp_path / "t.md").read_text()
    assert "held-out stretches of time: 1 fold(s), 1 seeds, 5 systems" in page
    assert "held-out systems" not in page
    assert "No row is resolved to be better than the median, by the same rule" in page

    sizes = {f"s{k}": 0.02 + 0.01 * k for k in range(9)}
    variants = load_studies(tiny)["sizes"].variants
    for share, variant in zip((0.5, 1.2), variants, strict=True):
        for run in variant.runs:
            figures = _found(sizes, share)
            figures["systems"]["s3"]["mae"] *= 1.1  # type: ignore[index]
            folder = tmp_path / "out" / "runs" / run.name(data.sha256)
            (folder / "result.json").write_text(json.dumps(figures))
    write_report(tmp_path / "t.md", tiny, data, tmp_path / "out")
    assert (
        f"Better than the median, by the same rule: {variants[0].name}.\n"
        in (tmp_path / "t.md").read_text()
    )


def _found(sizes: dict[str, float], share: float) -> dict[str, object]:
    figures = {name: {"mae": share * size, "median": size} for name, size in sizes.items()}
    return {"systems": figures, "processor_seconds": 60.0}


def test_a_budget_that_is_used_stops(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_relaxations(tmp_path / "r.extxyz"), tmp_path / "out"
    common = ["--data", str(data), "--out", str(out), "--studies", str(tiny)]
    assert main(["weights", *common, "--budget", "0.000001s"]) == 130
    assert "stopped before the end of run 1" in capsys.readouterr().out
    assert list(out.glob("runs/*/result.json")) == []
    assert main([*common, "--table", str(tmp_path / "t.md")]) == 1
    assert "run a study first" in capsys.readouterr().err
    assert main(["weight", *common]) == 1
    assert "there is no study weight: give some of weights, sizes" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["weights", *common, "--budget", "2 days"])
    assert "write it as 2h" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_table(tiny: Path, tmp_path: Path) -> None:
    tree = yaml.safe_load(tiny.read_text())
    tree["common"]["splits"]["system"]["seeds"] = [1]
    tiny.write_text(yaml.safe_dump(tree, sort_keys=False))
    data = write_relaxations(tmp_path / "r.extxyz")

    def arguments(folder: str) -> list[str]:
        out, table = tmp_path / folder, tmp_path / folder / "paper.md"
        words = ["weights", "--data", data, "--out", out, "--table", table, "--studies", tiny]
        return [str(word) for word in words]

    def results(folder: str) -> dict[str, tuple[int, str]]:
        paths = (tmp_path / folder).glob("runs/*/result.json")
        return {p.parent.name: (p.stat().st_mtime_ns, p.read_text()) for p in paths}

    assert main(arguments("whole")) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.paper", *arguments("killed")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        _wait_for_a_checkpoint_after_a_result(tmp_path / "killed" / "runs", process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = results("killed")
    assert 0 < len(before) < 6
    assert main(arguments("killed")) == 0
    after = results("killed")
    assert {name: after[name] for name in before} == before
    assert {n: json.loads(text)["systems"] for n, (_, text) in results("whole").items()} == {
        n: json.loads(text)["systems"] for n, (_, text) in after.items()
    }
    texts = [(tmp_path / folder / "paper.md").read_text() for folder in ("whole", "killed")]
    tables = [[row.split("|")[:-2] for row in text.splitlines() if "|" in row] for text in texts]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 2 * (2 * (2 + 2) + 1)  # splits, metrics, heads, variants, medians
    assert (tmp_path / "killed" / "paper-weights.svg").is_file()
    assert main(arguments("killed")) == 0
    assert results("killed") == after


def _wait_for_a_checkpoint_after_a_result(runs: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120.0
    while time.monotonic() < end and process.poll() is None:
        done = {path.parent for path in runs.glob("*/result.json")}
        if done and {path.parent for path in runs.glob("*/checkpoint.pt")} - done:
            return
        time.sleep(0.01)
    raise AssertionError("the study had no run to be killed in")
