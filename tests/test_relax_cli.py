"""forcenet-md relax: what it reads and writes, how it goes on after a stop, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read, write
from relaxing import crystals

from forcenet_md import writing
from forcenet_md.cli.main import build_app
from forcenet_md.data.frames import write_frames
from forcenet_md.errors import DataError, EvaluationError
from forcenet_md.inference.ase_evaluator import AseEvaluator
from forcenet_md.relaxation.course import Settings
from forcenet_md.relaxation.part_file import PartFile
from forcenet_md.relaxation.run import RelaxRun

EMT = ("--model", "ase:emt")
# Saves after every round and is killed in the middle of one of the saves.
KILLED = """
import os, signal
from forcenet_md.cli.main import main
from forcenet_md.relaxation import part_file
from forcenet_md.relaxation.course import Course

part_file.SAVE_EVERY, part_file.SHARE = 0.0, float("inf")
state, calls = Course.state, 0

def killed(self):
    global calls
    calls += 1
    if calls == {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return state(self)

Course.state = killed
main()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With six structures, the first two atoms of each second one held."""
    structures = crystals(6)
    for atoms in structures[::2]:
        atoms.set_constraint(FixAtoms([0, 1]))
    write_frames(tmp_path / "in.extxyz", structures)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def relax(*arguments: object, code: int = 0) -> None:
    """In this process: a start of Python for each would take longer than the rest."""
    with pytest.raises(SystemExit) as end:
        build_app()(["relax", *map(str, arguments)])
    assert end.value.code == code


def frames(path: str) -> list[Atoms]:
    found = read(path, ":")
    assert isinstance(found, list)
    return found


def test_the_output_has_the_order_the_forces_and_the_endings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relax("in.extxyz", *EMT, "-o", "out.extxyz", "--batch-atoms", 24)
    said = capsys.readouterr().err
    found = frames("out.extxyz")
    assert [atoms.info["name"] for atoms in found] == [f"crystal {k}" for k in range(6)]
    assert "6 of 6 structures converged to 0.01 eV/Å." in said
    assert not list(folder.glob("*.part*"))
    for before, after in zip(frames("in.extxyz"), found, strict=True):
        assert after.info["converged"]
        assert "reason" not in after.info
        lengths = np.linalg.norm(after.get_forces(), axis=1)  # constraints applied
        assert lengths.max() == pytest.approx(after.info["fmax"], abs=1e-7)
        assert lengths.max() < 0.01
        assert np.isfinite(after.get_potential_energy())
        held = [c.index.tolist() for c in before.constraints]
        assert [c.index.tolist() for c in after.constraints] == held
        for index in held:
            np.testing.assert_array_equal(after.positions[index], before.positions[index])


def test_the_output_can_be_relaxed_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what is not at its minimum goes on, with the atoms held that were held."""
    relax("in.extxyz", *EMT, "-o", "some.extxyz", "--steps", 4)
    assert (
        "The others: 6 have not after all steps; the column `reason` says which."
        in capsys.readouterr().err
    )
    assert {atoms.info["reason"] for atoms in frames("some.extxyz")} == {"steps"}
    relax("some.extxyz", *EMT, "-o", "out.extxyz")
    relax("out.extxyz", *EMT, "-o", "again.extxyz")
    names = ("in.extxyz", "out.extxyz", "again.extxyz")
    for first, found, again in zip(*map(frames, names), strict=True):
        assert "reason" not in found.info
        assert again.info["steps"] == 0
        np.testing.assert_array_equal(again.positions, found.positions)
        for constraint in first.constraints:
            index = constraint.index
            np.testing.assert_array_equal(found.positions[index], first.positions[index])


def test_files_and_folders_of_any_format(folder: Path) -> None:
    (folder / "many").mkdir()
    write("many/a.traj", frames("in.extxyz")[:2])
    write("many/b.xyz.gz", frames("in.extxyz")[2:3], format="extxyz")
    relax("many", "in.extxyz", *EMT, "-o", "deep/out.extxyz", "--steps", 0)
    names = [atoms.info["name"] for atoms in frames("deep/out.extxyz")]
    assert names == [f"crystal {k}" for k in (0, 1, 2, *range(6))]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_a_killed_run_goes_on(
    folder: Path, optimizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["in.extxyz", *EMT, "--batch-atoms", "40", "--optimizer", optimizer]
    relax(*command, "-o", "whole.extxyz")
    calls = {"lbfgs": 90, "fire": 200}[optimizer]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(calls=calls), "relax", *command, "-o", "out.extxyz"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "out.extxyz").exists()
    capsys.readouterr()
    relax(*command, "-o", "out.extxyz")
    said = capsys.readouterr().err
    done = int(said.partition("going on after ")[2].split()[0])
    assert 0 < done < 6
    for one, other in zip(frames("out.extxyz"), frames("whole.extxyz"), strict=True):
        assert one.info["name"] == other.info["name"]
        assert one.info["steps"] == other.info["steps"]
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-6)
    assert not list(folder.glob("*.part*"))


def test_an_interrupt_keeps_what_there_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask, rounds = AseEvaluator.evaluate, []

    def interrupted(self: AseEvaluator, requests: list[object]) -> object:
        rounds.append(len(requests))
        if len(rounds) == 15:
            os.kill(os.getpid(), signal.SIGINT)
        return ask(self, requests)  # type: ignore[arg-type]

    monkeypatch.setattr(AseEvaluator, "evaluate", interrupted)
    command = ("in.extxyz", *EMT, "-o", "out.extxyz", "--batch-atoms", 40)
    relax(*command, code=130)
    assert "structures: the same command goes on." in capsys.readouterr().err
    assert len(rounds) == 15
    relax(*command)
    evaluated = sum(rounds)
    # as many as without the stop: what had been done was not done again, but for one round
    steps = sum(atoms.info["steps"] + 1 for atoms in frames("out.extxyz"))
    assert evaluated == steps


def test_another_run_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = AseEvaluator.evaluate

    def interrupted(self: AseEvaluator, requests: list[object]) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return ask(self, requests)  # type: ignore[arg-type]

    command = ["relax", "in.extxyz", "-o", "out.extxyz"]
    with monkeypatch.context() as patch:
        patch.setattr(AseEvaluator, "evaluate", interrupted)
        relax(*command[1:], *EMT, code=130)
    with pytest.raises(DataError, match="another run, with other optimizer, fmax: give another"):
        build_app()([*command, *EMT, "--fmax", "0.1", "--optimizer", "fire"])
    with pytest.raises(DataError, match="with other model"):
        build_app()([*command, "--model", "ase:lj,sigma=2.3"])
    write_frames("in.extxyz", crystals(3))
    with pytest.raises(DataError, match="with other structures"):
        build_app()([*command, *EMT])
    (folder / "out.extxyz.part").unlink()
    relax(*command[1:], *EMT)
    assert len(frames("out.extxyz")) == 3
    with pytest.raises(DataError, match=r"out.extxyz is there already: remove it"):
        build_app()([*command, *EMT])


def test_outputs_that_differ_by_their_ending_are_of_two_runs(folder: Path) -> None:
    named = ("out.xyz", "out.extxyz")
    with ExitStack() as stack:
        for fmax, name in enumerate(named, 1):
            run = RelaxRun([Path("in.extxyz")], Path(name), {}, Settings(fmax=fmax))
            stack.enter_context(run)
        assert {path.name for path in folder.glob("*.part")} == {f"{name}.part" for name in named}


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        PartFile(tmp_path / "out.part", {"fmax": 0.1}),
        pytest.raises(DataError, match="being written by another run"),
    ):
        PartFile(tmp_path / "out.part", {"fmax": 0.1})


def test_a_run_that_has_not_begun_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(AseEvaluator, "evaluate", stopped)
    relax("in.extxyz", *EMT, "-o", "out.extxyz", code=130)
    assert [path.name for path in folder.iterdir()] == ["in.extxyz"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing.xyz"], "there is no file or folder nothing.xyz"),
        (["in.extxyz", "-o", "in.extxyz"], "would replace what is read"),
        (["in.extxyz", "-o", "out.cif"], "out.cif would be extended XYZ"),
        (["empty.xyz"], "empty.xyz holds no structure"),
        (["in.extxyz", "-o", "in.extxyz/a.xyz"], "in.extxyz is a file"),
        (["in.extxyz", "-o", "other.xyz"], r"other\.xyz\.part is no file of a relaxation"),
    ],
)
def test_faults_get_a_sentence(folder: Path, arguments: list[str], sentence: str) -> None:
    (folder / "empty.xyz").touch()
    (folder / "other.xyz.part").write_text("the labels of something else, " * 50)
    if "-o" not in arguments:
        arguments += ["-o", "out.extxyz"]
    with pytest.raises(DataError, match=sentence):
        build_app()(["relax", *arguments, *EMT])


def test_a_bad_structure_is_named_before_anything_is_relaxed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    structures = frames("in.extxyz")
    structures[1].set_array("fixed", np.zeros((len(structures[1]), 2), dtype=int))
    write_frames("bad.extxyz", structures)
    monkeypatch.setattr(AseEvaluator, "evaluate", lambda *_: pytest.fail("it is relaxed"))
    with pytest.raises(DataError, match=r"^frame 1 of bad\.extxyz: its column 'fixed' is"):
        build_app()(["relax", "in.extxyz", "bad.extxyz", *EMT, "-o", "out.extxyz"])
    assert sorted(path.name for path in folder.iterdir()) == ["bad.extxyz", "in.extxyz"]


def test_a_full_disk_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the part file can be written and the output cannot."""

    def full(*_: object) -> object:
        raise OSError(28, "No space left on device")

    command = ["relax", "in.extxyz", *EMT, "-o", "out.extxyz", "--steps", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(writing, "open_with_compression", full)
        with pytest.raises(DataError, match="No space left on device"):
            build_app()(command)
    with monkeypatch.context() as patch:
        patch.setattr(AseEvaluator, "evaluate", lambda *_: pytest.fail("it is done again"))
        relax(*command[1:])
    assert len(frames("out.extxyz")) == 6


def test_what_fails_is_told_and_only_a_whole_failure_is_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structures = frames("in.extxyz")[:3]
    structures[1].symbols[0] = "U"
    write_frames("in.extxyz", structures)
    relax("in.extxyz", "-m", "alloy", "-o", "out.extxyz", "--steps", 1)
    said = capsys.readouterr().err
    assert "The others: 2 have not after all steps, 1 could not be evaluated; " in said
    assert "first: structure 1 of the input, from 0: model alloy does not know U" in said
    assert "does not know U" in frames("out.extxyz")[1].info["reason"]
    write_frames("in.extxyz", structures[1:2])
    with pytest.raises(EvaluationError, match="no structure could be evaluated"):
        build_app()(["relax", "in.extxyz", "-m", "alloy", "-o", "none.extxyz"])


def test_a_constraint_that_the_output_has_no_word_for_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (atoms,) = crystals(1)
    atoms.set_constraint(FixBondLength(0, 1))
    write("bond.traj", atoms)
    relax("bond.traj", *EMT, "-o", "out.extxyz", "--steps", 5)
    assert "FixBondLengths holds while it is relaxed, but" in capsys.readouterr().err
    found = frames("out.extxyz")[0]
    length = atoms.get_distance(0, 1, mic=True)
    assert found.get_distance(0, 1, mic=True) == pytest.approx(length, abs=1e-6)
    assert np.abs(found.positions - atoms.positions).max() > 0.01


def test_atoms_that_are_too_near_are_told_where_the_forces_are_small(
    folder: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random network sees nothing in two atoms on almost one place."""
    structures = frames("in.extxyz")[:4]
    for k in (1, 3):
        structures[k].positions[2] = structures[k].positions[5] + [0.0, 0.3, 0.4]
    write_frames("in.extxyz", structures)
    command = ["in.extxyz", "-m", small_model, "-o", "out.extxyz", "--fmax", 100]
    relax(*command)
    said = capsys.readouterr().err
    assert "4 of 4 structures converged" in said
    assert "2 ended with atoms nearer than the model knows" in said
    assert "(structures 1, 3 of the input, from 0; column `contact`)" in said
    found = frames("out.extxyz")
    assert ["contact" in atoms.info for atoms in found] == [False, True, False, True]
    a, words, b = found[1].symbols[2], found[1].info["contact"], found[1].symbols[5]
    assert words.startswith(f"atom 3 ({a}) and atom 6 ({b}) are 0.5 Å apart, 0.")
    assert f": in the first {words}." in said
