"""Labels are the teacher's, in the order of the atoms; what is wrong is said in a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from forcenet_md.data.frames import forces_of, read_frames, split_by, with_labels, write_frames
from forcenet_md.data.teachers import label_frames, open_teacher
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
    (out,) = label_frames([atoms], snippet, ["Ar"])
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


def test_labelling_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no teacher 'nonsense'"):
        list(label_frames([crystal(0)], "nonsense"))
    bad = tmp_path / "bad.in"
    bad.write_text("pair_style no/such/style\n", encoding="utf-8")
    with pytest.raises(DataError, match="no/such/style"):
        list(label_frames([crystal(0)], bad, ["Cu", "Au"]))
    with pytest.raises(DataError, match="no atom type for Au"):
        list(label_frames([crystal(0)], "zhou2004", ["Cu"]))


def test_label_command(tmp_path: Path) -> None:
    atoms = crystal(2)
    write_frames(tmp_path / "in.extxyz", [atoms])
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            MAIN,
            "label",
            "in.extxyz",
            "-t",
            "zhou2004",
            "-o",
            "out.extxyz",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (out,) = read_frames(tmp_path / "out.extxyz", labelled=True)
    with open_teacher("zhou2004", ["Au", "Cu"]) as teacher:
        expected = forces_of(teacher.label(atoms))
    np.testing.assert_allclose(forces_of(out), expected, atol=1e-6)
    assert out.info["temperature"] == atoms.info["temperature"]


def test_frames_without_labels_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "bare.extxyz", [crystal(0)])
    with pytest.raises(DataError, match=r"frame 0 of .*bare.extxyz: it has no forces"):
        read_frames(tmp_path / "bare.extxyz", labelled=True)
    broken = with_labels(crystal(0), 0.0, np.full((32, 3), np.nan))
    with pytest.raises(DataError, match="not finite"):
        forces_of(broken)


def test_split_keeps_groups_together() -> None:
    frames = [crystal(seed) for seed in range(6)]
    rest, out = split_by(frames, "temperature", [600.0])
    assert {a.info["temperature"] for a in rest} == {300.0}
    assert {a.info["temperature"] for a in out} == {600.0}
    with pytest.raises(DataError, match="no column 'pressure'"):
        split_by(frames, "pressure", [1])
