"""Labels are the teacher's, in the order of the atoms; what is wrong is said in a sentence."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from labelled_files import label_all, write_dump
from models import write_model

from forcenet_md import ForceNetCalculator
from forcenet_md.cli.main import build_app
from forcenet_md.data.frames import (
    check_labels,
    check_output,
    check_structure,
    forces_of,
    read_frames,
    shortest_distance,
    with_labels,
    write_frames,
)
from forcenet_md.data.store import StoreWriter
from forcenet_md.data.teachers import AseTeacher, open_teacher
from forcenet_md.errors import DataError

MAIN = "from forcenet_md.cli.main import main; main()"


def crystal(seed: int) -> Atoms:
    """A small rattled Cu–Au crystal."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True) * (2, 2, 2)
    atoms.set_chemical_symbols(rng.choice(["Cu", "Au"], len(atoms)).tolist())
    atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
    atoms.info.update(temperature=float(300 * (seed % 2 + 1)), trajectory=seed)
    return atoms


@pytest.mark.parametrize(("name", "calculator"), [("emt", EMT), ("lj", LennardJones)])
def test_ase_labels_are_those_of_the_calculator(name: str, calculator: Any) -> None:
    atoms = crystal(0)
    with open_teacher(name) as teacher:
        out = teacher.label(atoms)
    atoms.calc = calculator()
    np.testing.assert_array_equal(forces_of(out), atoms.get_forces())
    assert out.get_potential_energy() == atoms.get_potential_energy()


def test_a_model_file_teaches(tmp_path: Path) -> None:
    write_model(tmp_path / "m.pt")
    atoms = crystal(0)
    with open_teacher(tmp_path / "m.pt") as teacher:
        labelled = teacher.label(atoms)
    atoms.calc = ForceNetCalculator(tmp_path / "m.pt", dtype="float64")
    np.testing.assert_array_equal(forces_of(labelled), atoms.get_forces())
    assert "energy" not in {k for k, v in labelled.calc.results.items() if v is not None}


def test_lammps_snippet_in_a_worker_equals_ase(tmp_path: Path) -> None:
    """The same Lennard-Jones by a LAMMPS snippet in other units and by ASE, by atom id."""
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (3, 3, 3)
    atoms.positions += np.random.default_rng(0).normal(0.0, 0.3, atoms.positions.shape)
    atoms.positions[3] += atoms.cell[0] - 2 * atoms.cell[2]
    kcal = 23.060548  # per mole, in one eV
    snippet = tmp_path / "lj.in"
    snippet.write_text(
        f"# argon\nunits real\npair_style lj/cut 7.0\npair_modify shift yes\n"
        f"pair_coeff * * {0.01 * kcal} 3.4\n",
        encoding="utf-8",
    )
    (out,) = label_all([atoms], snippet, ["Ar"])
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.01, rc=7.0)
    np.testing.assert_allclose(forces_of(out), atoms.get_forces(), atol=1e-7)
    assert out.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), rel=1e-6)


def test_labels_follow_atom_ids_when_lammps_sorts() -> None:
    """The same structure with its atoms in another order has the same forces in that order."""
    atoms = crystal(1)
    order = np.random.default_rng(1).permutation(len(atoms))
    with open_teacher("zhou2004", ["Cu", "Au"]) as teacher:
        straight = forces_of(teacher.label(atoms))
        shuffled = forces_of(teacher.label(atoms[order]))
    np.testing.assert_allclose(shuffled, straight[order], atol=1e-10)


@pytest.mark.slow
def test_labelling_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no teacher 'nonsense'"):
        label_all([crystal(0)], "nonsense")
    bad = tmp_path / "bad.in"
    bad.write_text("pair_style no/such/style\n", encoding="utf-8")
    with pytest.raises(DataError, match="no/such/style"):
        label_all([crystal(0)], bad, ["Cu", "Au"])
    with pytest.raises(DataError, match="no atom type for Au"):
        label_all([crystal(0)], "zhou2004", ["Cu"])


@pytest.mark.parametrize(
    ("snippet", "sentence"),
    [
        (b"", "defines no pair style"),
        (b"pair_style none\n", "defines no pair style"),
        (b"units foo\npair_style zero 3.0\n", "'units foo', which has no eV and Å: use one of"),
        (b"units\n", "'units ', which has no eV"),
        (b"\x80\xff\x00", "is no text: give a file with LAMMPS commands"),
    ],
)
def test_snippets_that_are_refused(tmp_path: Path, snippet: bytes, sentence: str) -> None:
    path = tmp_path / "teacher.in"
    path.write_bytes(snippet)
    with (
        pytest.raises(DataError, match=sentence),
        open_teacher(path, ["Cu", "Au"]) as teacher,
    ):
        teacher.label(crystal(0))
    with (
        pytest.raises(DataError, match="'Kupfer' is no element"),
        open_teacher(__file__, ["Kupfer"]),
    ):
        pass


def test_a_process_that_crashes_is_said(tmp_path: Path) -> None:
    snippet = tmp_path / "crash.in"
    snippet.write_text("pair_style zero 3.0\npair_coeff * *\nquit 1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"process of teacher '.*crash.in' ended with code"):
        label_all([crystal(0)], snippet, ["Cu", "Au"])


def test_nothing_imports_torch_before_it_has_a_network() -> None:
    """Seconds and memory of every labelling process, and of a server of an ASE calculator."""
    code = (
        "import sys; from ase.build import bulk; from serving import LJ, AseEvaluator;"
        "import forcenet_md.server.run, forcenet_md.data.label_run;"
        "from forcenet_md.data.label_worker import label_one;"
        "from forcenet_md.data.teachers import AseTeacher;"
        "assert label_one(AseTeacher('emt'), bulk('Cu', cubic=True))[0] == 'done';"
        "AseEvaluator(LJ).warm_up();"
        "print([m for m in ('torch', 'torch_geometric', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_structures_that_nothing_can_label_are_refused() -> None:
    twice, lost, image = crystal(0), crystal(0), crystal(0)
    twice.positions[7] = twice.positions[3]
    lost.positions[4, 1] = np.nan
    image.positions[31] = image.positions[0] + image.cell[2] + [0.0, 0.0, 0.05]
    for bad, sentence in (
        (twice, "atoms 4 and 8 lie on one point"),
        (image, r"atoms 1 and 32 are nearer than 0\.1 Å"),
        (lost, "the position of atom 5 is not finite"),
        (Atoms(), "it has no atoms"),
    ):
        with pytest.raises(DataError, match=sentence):
            check_structure(bad)
    check_structure(crystal(0))


@pytest.mark.parametrize("teacher", ["emt", pytest.param("zhou2004", marks=pytest.mark.slow)])
def test_a_frame_that_cannot_be_labelled_is_named(teacher: str) -> None:
    bad = crystal(0)
    bad.positions[7] = bad.positions[3]
    frames = [crystal(1), bad, crystal(2)]
    with pytest.raises(DataError, match=r"^frame 1: atoms 4 and 8 lie on one point"):
        label_all(frames, teacher, ["Cu", "Au"])


def test_labels_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="energy is not finite"):
        check_labels(with_labels(crystal(0), np.inf, np.zeros((32, 3))))


def test_frames_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.extxyz"
    write_frames(path, [crystal(0)])
    before = path.read_bytes()
    (tmp_path / "out.new.extxyz").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"out\.extxyz cannot be written \(No space left"):
        write_frames(path, [crystal(1)])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["out.extxyz"]
    write_frames(tmp_path / "small.extxyz.gz", [crystal(0)])
    assert len(read_frames(tmp_path / "small.extxyz.gz")) == 1


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.cif", "garbage\n", "frame 0 of .*x.cif cannot be read .*: the file is damaged"),
        ("POSCAR", "a\nb\nc\n", "frame 0 of .*POSCAR cannot be read .*: the file is damaged"),
        ("x.nonsense", "asdf\n", "cannot tell the format of .*x.nonsense"),
    ],
)
def test_unreadable_structures(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=sentence):
        read_frames(tmp_path / name)


def label(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "label", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_bad_output_is_said_before_labelling(tmp_path: Path) -> None:
    given = tmp_path / "in.extxyz"
    write_frames(given, [crystal(0)])
    before = given.read_bytes()
    # a teacher that would be refused, had the labelling begun
    _, said = label(tmp_path, given.name, "-t", "nonsense", "-o", "in.extxyz").communicate()
    assert said == (
        "forcenet-md: error: --out in.extxyz would replace what is read: give another path.\n"
    )
    assert given.read_bytes() == before
    with pytest.raises(DataError, match=r"in\.extxyz is a file: give another folder"):
        check_output(given / "out.extxyz")
    with pytest.raises(DataError, match="is no ordinary file"):
        check_output(tmp_path)
    check_output(tmp_path / "new" / "folder" / "out.extxyz")
    assert os.listdir(tmp_path / "new" / "folder") == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_its_processes(tmp_path: Path, number: int) -> None:
    """A terminal sends Ctrl-C to every process, `kill` sends its signal to one."""
    write_frames(tmp_path / "in.extxyz", [crystal(seed) for seed in range(4)])
    (tmp_path / "endless.in").write_text(
        "pair_style lj/cut 5.0\npair_coeff * * 0.001 2.0\nfix 1 all nve\nrun 0\n"
        "shell touch begun\nrun 2000000000\n",
        encoding="utf-8",
    )
    process = label(
        tmp_path,
        "in.extxyz",
        "-t",
        "endless.in",
        "-o",
        "out.extxyz",
        "--workers",
        "2",
        "--no-screen",
    )
    try:
        for _ in range(600):
            if (tmp_path / "begun").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number
    assert said == "stopped before the first label\n"
    assert sorted(os.listdir(tmp_path)) == ["begun", "endless.in", "in.extxyz"]  # nothing was done


def test_label_command(tmp_path: Path) -> None:
    atoms = crystal(2)
    write_frames(tmp_path / "in.extxyz", [atoms])
    with pytest.raises(SystemExit) as end:
        build_app()(
            ["label", f"{tmp_path}/in.extxyz", "-t", "zhou2004", "-o", f"{tmp_path}/out.extxyz"]
        )
    assert end.value.code == 0
    (out,) = read_frames(tmp_path / "out.extxyz", labelled=True)
    with open_teacher("zhou2004", ["Au", "Cu"]) as teacher:
        expected = forces_of(teacher.label(atoms))
    np.testing.assert_allclose(forces_of(out), expected, atol=1e-6)
    assert out.info["temperature"] == atoms.info["temperature"]


def test_what_can_be_compiled_can_be_labelled(tmp_path: Path) -> None:
    """A dump that has types in place of elements and no forces, and a store."""
    cells = [crystal(seed) for seed in range(2)]
    cubes = [Atoms(a.symbols, a.positions, cell=a.cell, pbc=True) for a in cells]
    labelled = [with_labels(a, 0.0, np.zeros((len(a), 3))) for a in cubes]
    write_dump(tmp_path / "a.dump", labelled, elements=False)
    dump = (tmp_path / "a.dump").read_text(encoding="utf-8").replace("fx fy fz", "vx vy vz")
    (tmp_path / "a.dump").write_text(dump, encoding="utf-8")
    with StoreWriter(tmp_path / "b.h5") as writer:
        for atoms in labelled:
            writer.append(atoms)
    options = ["-t", "emt", "--no-screen", "--elements", "Au,Cu"]
    for given in (tmp_path / "a.dump", tmp_path / "b.h5"):
        out = tmp_path / f"{given.stem}-labelled.extxyz"
        with pytest.raises(SystemExit) as end:
            build_app()(["label", str(given), *options])
        assert end.value.code == 0
        for atoms, found in zip(cells, read_frames(out, labelled=True), strict=True):
            assert found.symbols.get_chemical_formula() == atoms.symbols.get_chemical_formula()
            expected = forces_of(AseTeacher("emt").label(atoms))
            np.testing.assert_allclose(forces_of(found), expected, atol=1e-6)


def test_labels_of_a_folder_go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside they would be read with it the next time."""
    (tmp_path / "in").mkdir()
    write_frames(tmp_path / "in" / "a.extxyz", [crystal(0)])
    monkeypatch.chdir(tmp_path / "in")
    for arguments, sentence in (
        (["."], "is a folder: say with --out"),
        ([".", "-o", "b.extxyz"], "b.extxyz lies in the folder that is read"),
        (["../nothing"], "there is no file or folder"),
    ):
        with pytest.raises(DataError, match=sentence):
            build_app()(["label", *arguments, "-t", "emt"])
    assert os.listdir(tmp_path / "in") == ["a.extxyz"]


def test_frames_without_labels_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "bare.extxyz", [crystal(0)])
    with pytest.raises(DataError, match=r"frame 0 of .*bare.extxyz: it has no forces"):
        read_frames(tmp_path / "bare.extxyz", labelled=True)
    broken = with_labels(crystal(0), 0.0, np.full((32, 3), np.nan))
    with pytest.raises(DataError, match="not finite"):
        forces_of(broken)


def test_the_shortest_distance_is_also_that_of_an_atom_and_its_image() -> None:
    assert shortest_distance(bulk("Cu", a=3.6)) == pytest.approx(3.6 / np.sqrt(2.0))
    pair = Atoms("Cu2", [[0.0, 0.0, 0.0], [0.0, 0.0, 7.0]])
    assert shortest_distance(pair) == np.inf
    assert shortest_distance(pair, within=8.0) == pytest.approx(7.0)
