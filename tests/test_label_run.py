"""Labelling with faults: what fails costs its frame, what was done is never lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from labelled_files import label_all
from serving import COMMAND

from forcenet_md.calculators.register import known
from forcenet_md.data.frames import forces_of, read_frames, write_frames
from forcenet_md.data.label_run import LabelRun
from forcenet_md.data.labelling import label_frames
from forcenet_md.data.part_file import PartFile
from forcenet_md.data.screening import choose_lines, screen
from forcenet_md.errors import DataError, ModelFileError
from forcenet_md.inference.ase_evaluator import AseEvaluator


def crystal(seed: int, **info: object) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
    atoms.info.update(info)
    return atoms


def label(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "label", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*_paths(), str(Path(__file__).parent)])},
    )


def _paths() -> list[str]:
    return [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []


def test_labels_that_are_there_are_not_replaced(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.extxyz", [crystal(1)])
    out = tmp_path / "out.extxyz"
    out.write_text("labels of a week", encoding="utf-8")
    with pytest.raises(DataError, match=r"out\.extxyz is there already: remove it to label again"):
        LabelRun([crystal(1)], tmp_path / "a.extxyz", "emt", ["Cu"], out)
    with pytest.raises(DataError, match="there is no teacher 'nope'"):
        LabelRun([crystal(1)], tmp_path / "a.extxyz", "nope", ["Cu"], out)
    assert out.read_text(encoding="utf-8") == "labels of a week"


def test_every_fault_costs_one_frame() -> None:
    faults = ["", "raise", "kill", "", "exit", "memory", "nan", "loop", "sleep", "", "shape"]
    frames = [crystal(k, fault=fault) for k, fault in enumerate(faults)]
    outcomes = {
        outcome.number: outcome
        for outcome in label_frames(frames, "own_teachers:faulty", workers=2, timeout=3.0)
    }
    reasons = [outcomes[k].reason for k in range(len(frames))]
    for reason, words in zip(
        reasons,
        ["", "KeyError: 'missing'", "SIGKILL.*my last words", "", "SystemExit", "out of memory",
         "not finite", "did not converge", "longer than --timeout 3 s", "",
         r"forces of shape \(\d+,\)"],
        strict=True,
    ):  # fmt: skip
        assert re.search(words, reason)
        assert bool(reason) == bool(words)
    for k in (0, 3, 9):
        out = outcomes[k].atoms
        assert out is not None
        frames[k].calc = EMT()
        np.testing.assert_array_equal(forces_of(out), frames[k].get_forces())


@pytest.mark.slow
def test_order_options_and_provenance() -> None:
    frames = [crystal(k, scf_converged=False) for k in range(5)]
    out = label_all(frames, "lj,sigma=2.2,rc=5,smooth=true", workers=3)
    for given, labelled in zip(frames, out, strict=True):
        given.calc = LennardJones(sigma=2.2, rc=5, smooth=True)
        np.testing.assert_array_equal(forces_of(labelled), given.get_forces())
    info = out[0].info
    assert info["teacher"] == "lj"
    assert "sigma=2.2" in info["teacher_options"]
    assert "epsilon=1.0" in info["teacher_options"]  # defaults too
    assert info["teacher_version"].startswith("ase ")
    assert info["labelled_by"].startswith("forcenet-md ")
    assert "scf_converged" not in info  # that was of the labels before


def test_held_atoms_keep_their_true_forces() -> None:
    atoms = crystal(0)
    free = atoms.copy()
    free.calc = EMT()
    atoms.set_constraint(FixAtoms([0, 1]))
    (out,) = label_all([atoms], "emt")
    np.testing.assert_array_equal(forces_of(out), free.get_forces())


@pytest.mark.slow
def test_a_model_teaches_without_an_energy_in_processes_with_one_thread() -> None:
    import torch

    torch.mm(torch.ones(200, 200), torch.ones(200, 200))  # threads that a fork would lose
    atoms = crystal(1)
    atoms.set_chemical_symbols(["Cu", "Au", "Ag", "Pd"])
    (out,) = label_all([atoms], "alloy")
    assert "energy" not in out.calc.results
    assert np.abs(forces_of(out)).max() > 0.1
    assert len(out.info["teacher_sha256"]) == 64
    label_all([crystal(0)], "own_teachers:threads")


def test_an_installed_package_brings_its_own_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the entry-point group; what an installer writes is enough."""
    site = tmp_path / "site"
    described = site / "lattice_teachers-1.2.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lattice-teachers\nVersion: 1.2\n", encoding="utf-8"
    )
    (described / "entry_points.txt").write_text(
        "[forcenet_md.teachers]\nsoft = lattice_teachers:soft\n", encoding="utf-8"
    )
    (site / "lattice_teachers.py").write_text(
        "from ase.calculators.lj import LennardJones\n"
        "def soft(sigma=1.0, smooth=False):\n"
        "    return LennardJones(sigma=sigma, smooth=smooth)\n",
        encoding="utf-8",
    )
    with pytest.raises(DataError, match="there is no teacher 'soft"):
        label_all([crystal(0)], "soft,sigma=2.2,smooth=true")
    monkeypatch.syspath_prepend(site)
    assert known() == ["emt", "lj", "tblite", "chgnet", "mace", "soft"]
    atoms = crystal(0)
    (out,) = label_all([atoms], "soft,sigma=2.2,smooth=true")
    atoms.calc = LennardJones(sigma=2.2, smooth=True)
    np.testing.assert_array_equal(forces_of(out), atoms.get_forces())
    assert out.info["teacher"] == "soft"
    assert out.info["teacher_options"] == "sigma=2.2, smooth=True"
    assert out.info["teacher_version"] == "lattice-teachers 1.2"
    with pytest.raises(ModelFileError, match=r"'soft' is not registered"):
        AseEvaluator("ase:soft")


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        ("no_such_module:make", "cannot be imported"),
        ("os:getcwd", "returned no ASE calculator but str"),
        ("own_teachers:jumping,force=3", "cannot be made: .*force"),
        ("lj,sigma=wide", "the value of sigma is 'wide'"),
        ("none.pt", r"no model file none\.pt"),
    ],
)
def test_a_teacher_that_cannot_be_had_is_said(teacher: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        label_all([crystal(0)], teacher)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    from forcenet_md.calculators import register

    def missing(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(register, "version", missing)
    with pytest.raises(DataError, match=r"needs the package chgnet.*pip install chgnet"):
        label_all([crystal(0)], "chgnet")


def test_a_torn_part_file_is_gone_on_with(tmp_path: Path) -> None:
    path, header = tmp_path / "a.part", {"teacher": "emt"}
    frames = label_all([crystal(k) for k in range(3)], "emt")
    with PartFile(path, header, resume=False) as part:
        for number in (2, 0):
            part.add(number, frames[number])
        with pytest.raises(DataError, match="another run"), PartFile(path, header, resume=True):
            pass
    whole = path.read_bytes()
    for cut in range(len(whole) - 700, len(whole)):  # in the midst of the second record
        path.write_bytes(whole[:cut])
        with PartFile(path, header, resume=True) as part:
            assert part.done == {2}
    with PartFile(path, header, resume=True) as part:
        part.add(0, frames[0])
        part.add(1, frames[1])
        part.finish(tmp_path / "a.extxyz", tmp_path / "a-failed.extxyz")
    write_frames(tmp_path / "b.extxyz", frames)
    assert (tmp_path / "a.extxyz").read_bytes() == (tmp_path / "b.extxyz").read_bytes()
    assert not path.exists()
    path.write_bytes(whole)
    with pytest.raises(DataError, match="with other teacher"):
        PartFile(path, {"teacher": "lj"}, resume=True)
    with pytest.raises(DataError, match="go on with it by --resume"):
        PartFile(path, header, resume=False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_goes_on_bit_for_bit(tmp_path: Path, number: int) -> None:
    frames = [crystal(k, fault="raise" if k == 3 else "") for k in range(12)]
    write_frames(tmp_path / "in.extxyz", frames)
    given = ["in.extxyz", "-t", "own_teachers:slow", "--no-screen"]
    whole = label(tmp_path, *given, "-o", "whole.extxyz")
    assert whole.communicate(timeout=100)[1] == "wrote 12 labelled frames to whole.extxyz\n"
    (tmp_path / "asked").unlink()
    command = label(tmp_path, *given, "-o", "out.extxyz", "--workers", "2")
    asked = tmp_path / "asked"
    for _ in range(1000):
        if asked.exists() and len(asked.read_text()) >= 5:
            break
        time.sleep(0.05)
    command.send_signal(number)
    command.communicate(timeout=60)
    assert not (tmp_path / "out.extxyz").exists()
    done = len(asked.read_text())
    again = label(tmp_path, *given, "-o", "out.extxyz", "--resume")
    said = again.communicate(timeout=100)[1]
    assert said.startswith("going on after ")
    kept = int(said.split()[3])
    assert 1 <= kept <= done < 12
    assert len(asked.read_text()) <= done + 12 - kept + 2  # only what was left (2 were under way)
    assert (tmp_path / "out.extxyz").read_bytes() == (tmp_path / "whole.extxyz").read_bytes()
    assert not (tmp_path / "out.extxyz.part").exists()


@pytest.mark.slow
def test_failures_are_kept_aside_with_their_reason(tmp_path: Path) -> None:
    bad = crystal(1)
    bad.positions[1] = bad.positions[0]
    write_frames(tmp_path / "in.extxyz", [crystal(0), bad, crystal(2)])
    process = label(tmp_path, "in.extxyz", "-t", "emt", "--no-screen")
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    assert "1 of 3 frames could not be labelled" in said
    (aside,) = read_frames(tmp_path / "in-labelled-failed.extxyz")
    assert "atoms 1 and 2 lie on one point" in aside.info["label_failed"]
    first, second = read_frames(tmp_path / "in-labelled.extxyz", labelled=True)
    assert first.info["teacher"] == "emt"
    np.testing.assert_allclose(second.positions, crystal(2).positions, atol=1e-7)
    write_frames(tmp_path / "bad.extxyz", [bad])
    process = label(tmp_path, "bad.extxyz", "-t", "emt", "--no-screen")
    assert "nothing could be labelled" in process.communicate(timeout=100)[1]
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("teacher", "rough"),
    [
        ("emt", False),
        pytest.param("zhou2004", False, marks=pytest.mark.slow),
        ("lj,sigma=2.2,epsilon=0.4,rc=5,smooth=true", False),
        pytest.param("own_teachers:jumping,jump=5", True, marks=pytest.mark.slow),
        ("own_teachers:jumping,jump=0.5", True),
    ],
)
def test_screening_finds_jumps_and_nothing_else(teacher: str, rough: bool) -> None:
    lines = choose_lines([crystal(0), crystal(1)], per_element=1)
    steps = list(screen(lines, teacher, ["Cu"]))
    assert len(steps) >= 61
    assert [line.verdict for line in lines] == ["rough" if rough else "smooth"]
    assert (lines[0].roughness > 0.2) == rough
    if rough:
        jump = float(teacher.rpartition("=")[2])
        assert lines[0].change == pytest.approx(jump, rel=0.1)
        x = lines[0].atoms.positions[0, 0] + 0.6 * lines[0].place
        assert abs(x / 0.3 - round(x / 0.3)) < 0.05  # there it is


@pytest.mark.slow
def test_screening_is_said_and_printed(tmp_path: Path) -> None:
    write_frames(tmp_path / "in.extxyz", [crystal(0)])
    process = label(tmp_path, "in.extxyz", "-t", "own_teachers:jumping")
    said = process.communicate(timeout=100)[1]
    assert "own_teachers:jumping is rough: the force on Cu (atom 1 of frame 0) changes by" in said
    assert (tmp_path / "in-labelled.extxyz").exists()
    process = label(tmp_path, "in.extxyz", "-t", "emt", "--screen-only", "-o", "no.extxyz")
    assert "smooth" in process.communicate(timeout=100)[0]
    assert not (tmp_path / "no.extxyz").exists()
