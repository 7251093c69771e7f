"""Parts of a data set share no group, and the commands that make and show it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from labelled_files import labelled, write_dump
from typer.testing import CliRunner

from forcenet_md.cli.data import data
from forcenet_md.data.splits import PARTS, Split, split_by, split_by_values, write_parts
from forcenet_md.data.store import Frames, Store, StoreWriter
from forcenet_md.errors import DataError

N = 200
Run = Callable[..., str]


@pytest.fixture
def frames(tmp_path: Path) -> Frames:
    """Twenty trajectories of 1 to 19 frames, three temperatures."""
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "data.h5") as writer:
        for k in range(N):
            trajectory = f"t{int(20 * rng.random() ** 2)}"
            temperature = 300.0 * (1 + k % 3)
            writer.append(labelled(k, trajectory=trajectory, temperature=temperature, number=k))
    return Frames([Store(tmp_path / "data.h5")])


def values(frames: Frames, split: Split, by: str) -> list[set[object]]:
    return [set(frames.column(by)[split.rows[part]].tolist()) for part in PARTS]


def test_parts_share_no_group_and_hold_every_frame(frames: Frames) -> None:
    split = split_by(frames, "trajectory", (0.7, 0.15, 0.15), seed=3)
    train, validation, test = values(frames, split, "trajectory")
    assert not train & validation
    assert not train & test
    assert not validation & test
    rows = np.concatenate([split.rows[part] for part in PARTS])
    assert sorted(rows.tolist()) == list(range(N))
    assert 0.08 * N < len(split.rows["test"]) < 0.22 * N
    assert 0.08 * N < len(split.rows["validation"]) < 0.22 * N
    assert split.groups == {"train": len(train), "validation": len(validation), "test": len(test)}
    assert split.warnings == []


def test_the_seed_decides_and_not_the_order(frames: Frames) -> None:
    first = split_by(frames, "trajectory", seed=1)
    mixed = frames.subset(np.random.default_rng(5).permutation(N))
    again = split_by(mixed, "trajectory", seed=1)
    assert values(frames, first, "trajectory") == values(mixed, again, "trajectory")
    others = [values(frames, split_by(frames, "trajectory", seed=s), "trajectory") for s in (2, 3)]
    assert any(other != values(frames, first, "trajectory") for other in others)


def test_by_frame_only_by_name_and_with_a_warning(frames: Frames) -> None:
    split = split_by(frames, "frame")
    assert [len(split.rows[part]) for part in PARTS] == [160, 20, 20]
    assert "picked one by one" in split.warnings[0]
    assert "every frame has another value of 'number'" in split_by(frames, "number").warnings[0]


def test_what_cannot_be_split_is_said(frames: Frames, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'composition' has 1 different values"):
        split_by(frames, "composition")
    with pytest.raises(DataError, match="no column 'sid': there are composition"):
        split_by(frames, "sid")
    with pytest.raises(DataError, match="add up to 1"):
        split_by(frames, "trajectory", (0.8, 0.1, 0.2))
    assert len(split_by(frames, "temperature", (0.7, 0.3, 0.0)).rows["test"]) == 0
    with StoreWriter(tmp_path / "bare.h5") as writer:
        writer.append(labelled(0))
    both = Frames([*frames.stores, Store(tmp_path / "bare.h5")])
    with pytest.raises(DataError, match=r"1 frames have no 'trajectory' \(the first: frame 0 of"):
        split_by(both, "trajectory")


@pytest.mark.parametrize("fractions", [(0.01, 0.01, 0.98), (0.01, 0.5, 0.49), (0.01, 0.98, 0.01)])
def test_every_part_that_is_wanted_has_a_group(
    frames: Frames, fractions: tuple[float, float, float]
) -> None:
    assert min(split_by(frames, "temperature", fractions).groups.values()) == 1


def test_an_infinite_number_is_a_value(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "data.h5") as writer:
        for k, value in enumerate([1.0, np.inf, 1.0, "word"]):
            number = np.inf if k == 1 else float(k)
            writer.append(labelled(k, number=number, mixed=value))
    frames = Frames([Store(tmp_path / "data.h5")])
    for column in ("number", "mixed"):
        assert split_by_values(frames, column, ["inf"]).rows["test"].tolist() == [1]


def test_values_that_are_named_are_held_out(frames: Frames) -> None:
    split = split_by_values(frames, "temperature", ["900"], ["600"])
    assert values(frames, split, "temperature") == [{300.0}, {600.0}, {900.0}]
    with pytest.raises(DataError, match=r"no frame has the value '1' .*there are 300, 600, 900"):
        split_by_values(frames, "temperature", ["1"])
    with pytest.raises(DataError, match="'600' is named for two parts"):
        split_by_values(frames, "temperature", ["600"], ["600"])
    with pytest.raises(DataError, match="no frame is left to train on"):
        split_by_values(frames, "temperature", ["300", "600", "900"])


def test_parts_are_not_put_into_a_file(frames: Frames, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"parts is a file: give --out a folder"):
        write_parts(frames, split_by(frames, "trajectory").rows, out)
    assert out.read_text(encoding="utf-8") == "mine"


def test_parts_of_two_splits_never_lie_together(frames: Frames, tmp_path: Path) -> None:
    """Stopped between two parts, and with a part fewer than before."""
    frames, parts = frames.subset(np.arange(0, N, 5)), tmp_path / "parts"
    write_parts(frames, split_by(frames, "trajectory", seed=1).rows, parts)
    before = {path: path.read_bytes() for path in parts.iterdir()}
    assert sorted(path.stem for path in before) == sorted(PARTS)
    fewer = split_by_values(frames, "temperature", ["900"]).rows

    def stop(name: str, *_: int) -> None:
        if name.startswith("test"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_parts(frames, fewer, parts, stop)
    assert {path: path.read_bytes() for path in parts.iterdir()} == before
    train = Frames([Store(parts / "train.h5")])
    with pytest.raises(DataError, match=r"parts/train.h5 would replace what is read"):
        write_parts(train, split_by(train, "frame").rows, parts)
    write_parts(frames, fewer, parts)
    assert sorted(path.name for path in parts.iterdir()) == ["test.h5", "train.h5"]
    assert set(Store(parts / "train.h5").column("temperature").tolist()) == {300.0, 600.0}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A `data` command in the test's folder; what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(data, arguments)
        if isinstance(done.exception, DataError):
            raise done.exception
        assert done.exit_code == code, done.output
        return re.sub(r"\s+", " ", done.output)

    return run


def test_compile_info_check_and_split(tmp_path: Path, run: Run) -> None:
    paths = [labelled(k, trajectory=f"t{k // 4}") for k in range(40)]
    ase.io.write(tmp_path / "a.extxyz", [*paths, paths[7]])
    said = run("compile", "a.extxyz", "--out", "a.h5")
    assert "1 frames are there twice frame 40 of a.extxyz: the same as frame 7" in said
    assert "wrote 41 frames with 164 atoms to a.h5" in said
    said = run("info", "a.h5")
    assert "41 frames, 164 atoms (4 to 4 a frame)" in said
    assert "columns: composition, largest_force, source, source_frame, trajectory" in said
    manifest = json.loads(run("info", "a.h5", "--json"))
    assert manifest["elements"] == {"Cu": 82, "Au": 82}
    assert len(manifest["sources"][0]["sha256"]) == 64
    assert "41 good frames, 0 bad ones" in run("check", "a.h5")
    said = run("split", "a.h5", "--by", "trajectory", "--out", "parts")
    parts = {name: Store(tmp_path / "parts" / f"{name}.h5") for name in PARTS}
    assert f"parts/train.h5: {len(parts['train'])} frames" in said
    assert sum(len(store) for store in parts.values()) == 41
    seen = [set(store.column("trajectory").tolist()) for store in parts.values()]
    assert len(set.union(*seen)) == sum(map(len, seen)) == 10
    whole = Store(tmp_path / "a.h5")
    row = int(parts["test"].column("source_frame")[0])
    np.testing.assert_array_equal(parts["test"].frame(0).forces, whole.frame(row).forces)
    said = run("split", "a.h5", "--by", "frame", "--out", "mixed")
    assert "warning: frames were picked one by one" in said
    run("split", "a.h5", "--by", "trajectory", "--test", "t1,t2", "--out", "parts")
    assert set(Store(tmp_path / "parts/test.h5").column("trajectory")) == {"t1", "t2"}
    assert not (tmp_path / "parts/validation.h5").exists()


def test_check_names_what_is_bad(tmp_path: Path, run: Run) -> None:
    frames = [labelled(k) for k in range(5)]
    frames[3].calc.results["forces"][0, 0] = np.nan
    ase.io.write(tmp_path / "a.traj", frames)
    said = run("check", "a.traj", code=1)
    assert "frame 3 of a.traj: its forces are not finite" in said
    assert "4 good frames, 1 bad ones" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.traj"]
    run("compile", "a.traj", "--skip-bad", "-o", "a.h5")
    assert len(Store(tmp_path / "a.h5")) == 4


def test_check_looks_at_structures_without_forces(tmp_path: Path, run: Run) -> None:
    bare = [labelled(k) for k in range(5)]
    for atoms in bare:
        atoms.calc = None
    bare[2].positions[1] = bare[2].positions[0] + 0.3
    bare[3] = bare[0].copy()
    bare[4].pbc = False
    ase.io.write(tmp_path / "a.extxyz", bare)
    with pytest.raises(DataError, match=r"frame 0 of a.extxyz: it has no forces"):
        run("compile", "a.extxyz", "-o", "a.h5")
    said = run("check", "a.extxyz")
    assert "1 frames are there twice frame 3 of a.extxyz: the same as frame 0" in said
    assert "1 frames have atoms that are too near frame 2 of a.extxyz" in said
    assert "1 frames have a cell without pbc (the first: frame 4 of a.extxyz)" in said
    assert "outlying" not in said
    assert "5 good structures without forces, 0 bad ones 'forcenet-md label' labels them" in said
    bare[1].numbers[0] = 0
    ase.io.write(tmp_path / "a.traj", bare)
    said = run("check", "a.traj", code=1)
    assert "frame 1 of a.traj: atom 1 is no element" in said
    assert "4 good structures without forces, 1 bad ones" in said


def test_options_of_compile(tmp_path: Path, run: Run) -> None:
    write_dump(tmp_path / "a.dump", [labelled(0)], elements=False)
    run("compile", "a.dump", "-o", "a.h5", "--elements", "Ag,Pd", "--units-force", "meV/angstrom")
    store = Store(tmp_path / "a.h5")
    assert store.manifest.elements == {"Pd": 2, "Ag": 2}
    forces = labelled(0).calc.results["forces"] / 1000
    np.testing.assert_allclose(store.frame(0).forces, forces, rtol=1e-12)
    with pytest.raises(DataError, match=r"--out a.xyz must end with .h5"):
        run("compile", "a.dump", "-o", "a.xyz")
    with pytest.raises(DataError, match=r"a.h5 would replace what is read"):
        run("compile", "a.h5", "-o", "a.h5")
