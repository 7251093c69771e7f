"""examples/04-slabs: what is made around the frames of relaxations, and how it is labelled."""

from __future__ import annotations

import importlib
import lzma
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "04-slabs"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    found = {}
    for name in ("split", "displace", "combine"):  # too common to stay in sys.modules
        found[name] = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
    return found


def labelled(atoms: Atoms, scale: float = 1.0) -> Atoms:
    """With forces scale · EMT's."""
    bare = atoms.copy()
    bare.calc = EMT()
    forces = scale * bare.get_forces()
    bare.calc = SinglePointCalculator(bare, forces=forces)
    return bare


def test_folders_as_oc20_publishes_them(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    """Frames in no order, held atoms by a constraint, names in a text file beside them."""
    frames = relaxation("not written", 10, 1)
    folder = tmp_path / "s2ef"
    folder.mkdir()
    order = np.random.default_rng(4).permutation(10)
    for atoms in frames:
        atoms.set_constraint(FixAtoms(atoms.arrays.pop("fixed").nonzero()[0]))
    columns = ["symbols", "positions", "move_mask", "tags", "forces"]
    write(folder / "0.extxyz", [frames[k] for k in order], columns=columns, write_info=False)
    (folder / "0.extxyz.xz").write_bytes(lzma.compress((folder / "0.extxyz").read_bytes()))
    (folder / "0.extxyz").unlink()
    lines = [f"random7,frame{k},-1.5\n" for k in order]
    (folder / "0.txt").write_text("".join(lines), encoding="utf-8")
    scripts["split"].main(folder, tmp_path)
    train, test = (read(tmp_path / f"{name}.extxyz", ":") for name in ("train", "test"))
    assert [a.info["frame"] for a in train] == [0, 1, 3, 4, 5, 6, 7, 8]
    assert [(a.info["frame"], a.info["part"]) for a in test] == [(2, "middle"), (9, "end")]
    assert np.abs(train[0].positions - frames[0].positions).max() < 1e-6
    assert {a.info["sid"] for a in train} == {"random7"}
    assert train[0].arrays["fixed"].sum() == 8


def test_frames_of_no_relaxation_are_refused(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    frames = relaxation("a", 3, 1)
    del frames[1].info["sid"]
    write(tmp_path / "frames.extxyz", frames)
    with pytest.raises(SystemExit, match="no column sid: name the relaxation each is of"):
        scripts["split"].main(tmp_path / "frames.extxyz", tmp_path)


def test_scattered_frames_are_refused(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    """As of OC20's published parts: few frames of each of many relaxations, no end among them."""
    frames = [*relaxation("whole", 20, 1), *relaxation("a", 6, 2), *relaxation("b", 1, 3)]
    write(tmp_path / "frames.extxyz", frames)
    with pytest.raises(SystemExit, match=r"^2 of 3 relaxations in .* take whole trajectories"):
        scripts["split"].main(tmp_path / "frames.extxyz", tmp_path / "work")
    assert not (tmp_path / "work").exists()
    write(tmp_path / "frames.extxyz", [*frames, *relaxation("c", 7, 4), *relaxation("d", 8, 5)])
    scripts["split"].main(tmp_path / "frames.extxyz", tmp_path / "work")
    ends = read(tmp_path / "work" / "test.extxyz", ":")
    assert {a.info["sid"] for a in ends if a.info["part"] == "end"} == {"whole", "c", "d"}


def relaxation(sid: str, n_frames: int, seed: int) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0, periodic=True)
    add_adsorbate(slab, "O", 1.3, "fcc")
    slab.arrays["fixed"] = (slab.get_tags() > 1).astype(int)
    slab.info = {"sid": sid}
    frames = []
    for _ in range(n_frames):
        slab.positions += 0.02 * rng.normal(size=(len(slab), 3)) * (slab.get_tags() < 2)[:, None]
        frames.append(labelled(slab))
    return frames


@pytest.mark.slow
def test_from_relaxations_to_labels_around_them(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    frames = [*relaxation("a", 20, 1), *relaxation("b", 10, 2)]
    write(tmp_path / "frames.extxyz", frames)
    scripts["split"].main(tmp_path / "frames.extxyz", tmp_path)
    train, test = (read(tmp_path / f"{name}.extxyz", ":") for name in ("train", "test"))
    assert [a.info["part"] for a in test] == ["middle"] * 2 + ["end"] * 3 + ["middle", "end"]
    assert len(train) + len(test) == 30

    moved_file = tmp_path / "moved.extxyz"
    scripts["displace"].main(tmp_path / "train.extxyz", moved_file, 4, 1)
    moved = read(moved_file, ":")
    assert len(moved) == 4 * len(train)
    for atoms in moved:
        origin = train[atoms.info["origin"]]
        step = np.linalg.norm(atoms.positions - origin.positions, axis=1)
        held = origin.arrays["fixed"] == 1
        assert step[held].max() < 1e-6
        assert 0.005 < step[~held].mean() < 0.4

    # A teacher that is wrong by a factor everywhere but right in its changes gives the truth.
    offset = np.random.default_rng(3).normal(size=(13, 3))
    told = []
    for atoms in [*train, *moved]:
        new = labelled(atoms)
        new.info = {key: atoms.info[key] for key in ("origin",) if key in atoms.info}
        new.calc = SinglePointCalculator(new, forces=new.get_forces() + offset)
        told.append(new)
    write(tmp_path / "told.extxyz", told)
    scripts["combine"].main(
        tmp_path / "train.extxyz", tmp_path / "told.extxyz", tmp_path / "around.extxyz"
    )
    around = read(tmp_path / "around.extxyz", ":")
    assert len(around) > 0.9 * len(moved)
    for atoms in around:
        truth = labelled(atoms).get_forces()
        assert np.abs(atoms.get_forces() - truth).max() < 1e-5
        assert atoms.info["sid"] in ("a", "b")
