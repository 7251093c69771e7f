"""IS2RS: the metrics as they are defined, and relaxations of a model beside its teacher's."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read
from ase.optimize import LBFGS
from relaxing import crystals

from forcenet_md.cli.main import build_app
from forcenet_md.data.compiling import compile_store
from forcenet_md.data.frames import write_frames
from forcenet_md.errors import DataError
from forcenet_md.evaluation.is2rs import DISTANCES, FORCES, share_below
from forcenet_md.evaluation.trajectories import read_ends
from forcenet_md.inference.ase_evaluator import AseEvaluator

OC20 = "FORCENET_MD_OC20"  # a file of relaxations with `sid`, `frame` and `fixed`


def trajectory(name: str, atoms: Atoms) -> Iterator[Atoms]:
    """EMT's own relaxation with the first two atoms held, a frame a step."""
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.calc = EMT()
    for frame, _ in enumerate(LBFGS(atoms, logfile=None).irun(fmax=0.005, steps=100)):
        kept = atoms.copy()
        kept.set_constraint()
        kept.info = {"sid": name, "frame": frame}
        kept.set_array("fixed", np.array([1, 1] + [0] * (len(atoms) - 2)))
        forces = atoms.get_forces(apply_constraint=False)
        kept.calc = SinglePointCalculator(kept, forces=forces)
        yield kept


@pytest.fixture(scope="module")
def relaxations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three systems, their frames in no order, and one of which there is one frame alone."""
    frames = [
        frame for k, atoms in enumerate(crystals(3)) for frame in trajectory(f"system{k}", atoms)
    ]
    (single,) = crystals(1)
    single.info = {"sid": "single", "frame": 3}
    single.calc = SinglePointCalculator(single, forces=np.ones((len(single), 3)))
    frames.append(single)
    order = np.random.default_rng(0).permutation(len(frames))
    path = tmp_path_factory.mktemp("is2rs") / "relaxations.extxyz"
    write_frames(path, [frames[k] for k in order])
    return path


def evaluate(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        build_app()(["evaluate", *map(str, arguments), "--task", "is2rs"])
    assert end.value.code == code


def test_the_metrics_are_counts_over_thresholds() -> None:
    """As the Open Catalyst Project's evaluator counts them, and by hand."""
    assert len(DISTANCES) == 490
    assert (DISTANCES[0], DISTANCES[-1]) == (0.01, pytest.approx(0.499))
    assert len(FORCES) == 390
    assert (FORCES[0], FORCES[-1]) == (0.01, pytest.approx(0.399))
    values = np.random.default_rng(0).uniform(0.0, 0.6, 50)
    success = sum(int((values < threshold).sum()) for threshold in DISTANCES)
    assert share_below(values, DISTANCES) == pytest.approx(success / (50 * 490))
    assert share_below([0.0, 0.0], DISTANCES) == 1.0
    assert share_below([0.5, 7.0, np.nan, np.inf], DISTANCES) == 0.0
    assert share_below([0.2545], DISTANCES) == pytest.approx(245 / 490)
    assert share_below([0.04, 0.05, 0.06], [0.05]) == pytest.approx(1 / 3)


def test_the_ends_are_found_by_name_and_frame(relaxations: Path) -> None:
    ends, n_single = read_ends([relaxations], "sid")
    assert n_single == 1
    assert sorted(each.name for each in ends) == [f"system{k}" for k in range(3)]
    starts = {f"system{k}": atoms for k, atoms in enumerate(crystals(3))}
    for each in ends:
        np.testing.assert_allclose(each.first.positions, starts[each.name].positions, atol=1e-7)
        assert each.largest_force(each.last) < 0.005
        assert each.free.tolist() == [False] * 2 + [True] * (len(each.free) - 2)
        assert each.distance(each.last) == 0.0
        moved = each.first.positions - each.last.positions  # less than half a cell here
        assert each.distance(each.first) == pytest.approx(
            np.linalg.norm(moved[2:], axis=1).mean(), abs=1e-7
        )


def test_a_store_has_the_same_ends(relaxations: Path, tmp_path: Path) -> None:
    compile_store([relaxations], tmp_path / "store.h5")
    for of_file, of_store in zip(
        *(read_ends([path], "sid")[0] for path in (relaxations, tmp_path / "store.h5")),
        strict=True,
    ):
        assert of_file.name == of_store.name
        np.testing.assert_array_equal(of_file.free, of_store.free)
        for one, other in ((of_file.first, of_store.first), (of_file.last, of_store.last)):
            np.testing.assert_array_equal(one.positions, other.positions)


def test_distances_are_to_the_nearest_image(relaxations: Path) -> None:
    each = read_ends([relaxations], "sid")[0][0]
    moved = each.first.copy()
    moved.positions[3] += each.first.cell[0] - 2 * each.first.cell[2]
    moved.positions[0] += 1.0  # held: does not count
    assert each.distance(moved) == pytest.approx(each.distance(each.first))


def test_a_file_each_without_names(relaxations: Path, tmp_path: Path) -> None:
    frames = [a for a in read(relaxations, ":") if a.info["sid"] == "system1"]
    frames.sort(key=lambda atoms: atoms.info["frame"])
    for atoms in frames:
        atoms.info = {}
    write_frames(tmp_path / "one.extxyz", frames)
    write_frames(tmp_path / "two.extxyz", frames[2:])
    ends, n_single = read_ends([tmp_path], "sid")
    assert [Path(each.name).name for each in ends] == ["one.extxyz", "two.extxyz"]
    np.testing.assert_array_equal(ends[1].first.positions, frames[2].positions)
    np.testing.assert_array_equal(ends[1].last.positions, frames[-1].positions)
    assert n_single == 0


def test_the_teacher_itself_comes_back_to_its_minima(
    relaxations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, reached = tmp_path / "a" / "is2rs.json", tmp_path / "reached.extxyz"
    evaluate(
        relaxations, "-m", "ase:emt", "--teacher", "emt", "--out", out, "--json", "--relaxed",
        reached,
    )  # fmt: skip
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert found == json.loads(out.read_text())
    assert found["protocol"] == {
        "optimizer": "lbfgs",
        "fmax": 0.01,
        "steps": 200,
        "maxstep": 0.04,
        "memory": 50,
    }
    assert (found["n_systems"], found["n_single"], found["unrelaxed"]) == (3, 1, 0)
    assert found["endings"] == {"converged": 3}
    assert found["improved"] == 1.0
    assert found["mean_distance"] < 0.01 < 0.1 < found["mean_initial"]
    distances = [system["distance"] for system in found["systems"]]
    assert found["adwt"] == pytest.approx(share_below(distances, DISTANCES))
    assert found["adwt"] > 0.99 > 0.9 > found["adwt_initial"]
    assert found["afbt"]["teacher"] == "emt"
    assert (found["afbt"]["fbt"], found["afbt"]["n_unlabelled"]) == (1.0, 0)
    for system, atoms in zip(found["systems"], read(reached, ":"), strict=True):
        assert atoms.info["sid"] == system["name"]
        assert system["force"] == pytest.approx(system["fmax"], abs=1e-6)
    assert "ADwT: 100.00 %" in output.err
    assert "AFbT by emt: 100.00 %" in output.err
    assert "1 names had one frame alone" in output.err


@pytest.mark.slow
def test_another_model_ends_elsewhere(
    relaxations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And without a teacher it is said that there is no AFbT."""
    evaluate(relaxations, "-m", "alloy", "--json", "--steps", 30)
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert found["afbt"] is None
    assert "AFbT is not computed" in output.err
    assert found["mean_distance"] > 0.005
    assert found["adwt"] < 1.0
    assert max(system["steps"] for system in found["systems"]) <= 30


@pytest.mark.slow
def test_what_cannot_be_evaluated_is_within_no_threshold(
    relaxations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = read(relaxations, ":")
    for atoms in frames:
        if atoms.info["sid"] == "system2":
            atoms.numbers[5] = 92
    write_frames(tmp_path / "some.extxyz", frames)
    evaluate(tmp_path / "some.extxyz", "-m", "ase:emt", "--teacher", "emt", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["endings"] == {"converged": 2, "failed": 1}
    (failed,) = (system for system in found["systems"] if system["name"] == "system2")
    assert (failed["distance"], failed["force"]) == (None, None)
    assert "U" in failed["reason"] or "92" in failed["reason"]
    assert 0.66 < found["adwt"] <= 2 / 3
    assert found["improved"] == pytest.approx(2 / 3)
    assert found["afbt"]["fbt"] == pytest.approx(2 / 3)
    assert found["afbt"]["n_unlabelled"] == 1


def test_an_interrupt_gives_what_there_is_and_the_same_command_goes_on(
    relaxations: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ask, calls = AseEvaluator.evaluate, 0

    def interrupted(self: AseEvaluator, requests: list[object]) -> object:
        nonlocal calls
        calls += 1
        if calls == 75:
            os.kill(os.getpid(), signal.SIGINT)
        return ask(self, requests)  # type: ignore[arg-type]

    monkeypatch.setattr(AseEvaluator, "evaluate", interrupted)
    out = tmp_path / "is2rs.json"
    told = ("-m", "ase:emt", "--teacher", "emt", "--batch-atoms", 1, "--out", out)
    evaluate(relaxations, *told, code=130)
    said, found = capsys.readouterr(), json.loads(out.read_text())
    assert (found["complete"], found["n_asked"], found["afbt"]) == (False, 3, None)
    assert 0 < found["n_systems"] < 3
    assert f"INTERRUPTED: the figures are over the {found['n_systems']} of 3" in said.out
    assert "the same command goes on" in said.err
    with pytest.raises(DataError, match="of another run, with other fmax"):
        build_app()(
            ["evaluate", str(relaxations), *map(str, told), "--task", "is2rs", "--fmax", "0.1"]
        )
    evaluate(relaxations, *told)
    whole = json.loads(out.read_text())
    assert whole["complete"]
    assert whole["systems"][: found["n_systems"]] == [
        system | {"force": whole["systems"][k]["force"]}
        for k, system in enumerate(found["systems"])
    ]
    assert calls == sum(system["steps"] + 1 for system in whole["systems"])  # and none again
    assert [path.name for path in tmp_path.iterdir()] == ["is2rs.json"]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--task", "is2rs", "--rotations", "4"], "--rotations"),
        (["--task", "is2rs", "--report", "x"], "--report"),
        (["--teacher", "emt"], "--teacher"),
        (["--steps", "200"], "--steps"),
    ],
)
def test_options_of_the_other_task_are_refused(
    relaxations: Path, arguments: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        build_app()(["evaluate", str(relaxations), "-m", "ase:emt", *arguments])
    assert end.value.code == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--names", "colour"], "has other atoms than the relaxation"),
        (["--teacher", "nobody"], "there is no teacher 'nobody'"),
    ],
)
def test_faults_get_a_sentence(relaxations: Path, arguments: list[str], sentence: str) -> None:
    command = ["evaluate", str(relaxations), "-m", "ase:emt", "--task", "is2rs"]
    with pytest.raises(DataError, match=sentence):
        build_app()([*command, *arguments])


def test_a_bad_frame_is_named(tmp_path: Path) -> None:
    frames = crystals(3)
    frames[0].set_array("fixed", np.zeros((len(frames[0]), 2), dtype=int))
    write_frames(tmp_path / "bad.extxyz", [frames[0]] * 2)
    with pytest.raises(DataError, match=r"frame 0 of .*bad\.extxyz: its column 'fixed' is"):
        read_ends([tmp_path / "bad.extxyz"], "sid")


def test_single_frames_are_no_relaxations(tmp_path: Path) -> None:
    write_frames(tmp_path / "single.extxyz", crystals(1))
    with pytest.raises(DataError, match="no relaxation of two frames or more"):
        read_ends([tmp_path / "single.extxyz"], "sid")


@pytest.mark.slow
@pytest.mark.skipif(OC20 not in os.environ, reason=f"{OC20} names no relaxations of OC20")
def test_relaxations_of_oc20(tmp_path: Path) -> None:
    """The shipped model on relaxations like those it was trained on, as its example has them."""
    out = tmp_path / "is2rs.json"
    evaluate(os.environ[OC20], "-m", "slabs", "--limit", 4, "--steps", 20, "--out", out)
    found = json.loads(out.read_text())
    assert found["n_systems"] == 4
    assert found["unrelaxed"] == 0
    assert 0.0 < found["adwt_initial"] < 1.0
    assert all(system["n_free"] < system["n_atoms"] for system in found["systems"])
    assert "failed" not in found["endings"]
