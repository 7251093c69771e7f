"""The store gives back what went in, to the bit, in any process; and nothing of a damaged file."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms, FixCartesian
from labelled_files import label, labelled

from forcenet_md.data.frames import write_frames
from forcenet_md.data.labelled import from_atoms
from forcenet_md.data.store import Frames, Labelled, Store, StoreWriter, compile_store, open_data
from forcenet_md.errors import DataError


def varied() -> list[Atoms]:
    """Frames of different sizes, columns, cells and masks."""
    plain = labelled(0, trajectory=1, T=300.0)
    held = labelled(1, trajectory=2, note="with ü, / and , in it")
    held.set_constraint([FixAtoms([0]), FixCartesian([1]), FixCartesian([2], (True, False, False))])
    held.set_array("fixed", np.array([0, 0, 0, 1]))
    tagged = labelled(2, trajectory="melt")
    tagged.set_tags([0, 1, 2, 2])
    tagged.calc.results["stress"] = np.arange(6.0) / 7.0
    water = label(molecule("H2O"), np.random.default_rng(3).normal(size=(3, 3)))
    water.info.update({"a/b": 2**40, "nothing": None, "list": [1, 2], "true": True})
    return [plain, held, tagged, water]


def write(path: Path, frames: Iterable[Atoms]) -> Store:
    with StoreWriter(path) as writer:
        for atoms in frames:
            writer.append(atoms)
    return Store(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write(tmp_path / "data.h5", varied())


def same(frame: Labelled, atoms: Atoms) -> bool:
    """To the bit."""
    pairs = (
        (frame.numbers, atoms.numbers),
        (frame.positions, atoms.positions),
        (frame.cell, atoms.cell.array),
        (frame.pbc, atoms.pbc),
        (frame.forces, atoms.calc.results["forces"]),
    )
    return all(np.array_equal(a, b) for a, b in pairs)


def test_frames_come_back_to_the_bit(store: Store) -> None:
    given = varied()
    assert len(store) == 4
    assert store.n_atoms.tolist() == [4, 4, 4, 3]
    for i, atoms in enumerate(given):
        frame = store.frame(i)
        assert same(frame, atoms)
        assert frame.energy == atoms.calc.results.get("energy")
        assert frame.forces.dtype == frame.positions.dtype == np.float64
        assert same(frame, store.atoms(i))
    assert [f.stress is None for f in map(store.frame, range(4))] == [True, True, False, True]
    assert store.atoms(2).calc.results["stress"].tolist() == (np.arange(6.0) / 7.0).tolist()
    with pytest.raises(IndexError):
        store.frame(4)


def test_masks_are_kept(store: Store) -> None:
    assert store.frame(0).fixed.tolist() == [False] * 4
    assert store.frame(1).fixed.tolist() == [True, True, False, True]
    assert store.frame(0).tags.tolist() == [-1] * 4
    assert store.frame(2).tags.tolist() == [0, 1, 2, 2]
    assert store.atoms(1).arrays["fixed"].tolist() == [1, 1, 0, 1]
    assert store.atoms(2).get_tags().tolist() == [0, 1, 2, 2]
    assert store.manifest.fixed_atoms == 3


def test_columns_are_words_or_numbers(store: Store) -> None:
    """A column of numbers in which a word comes up is one of words."""
    assert store.column("trajectory").tolist() == ["1", "2", "melt", ""]
    assert store.column("note").tolist() == ["", "with ü, / and , in it", "", ""]
    np.testing.assert_array_equal(store.column("T"), [300.0, np.nan, np.nan, np.nan])
    assert store.column("a/b")[3] == 2**40
    assert store.column("composition").tolist()[::3] == ["Au2Cu2", "H2O"]
    assert store.column("largest_force")[1] == store.frame(1).largest_force
    assert store.manifest.skipped_columns == ["list", "nothing"]
    assert store.atoms(3).info["true"] == 1.0
    assert "T" not in store.atoms(3).info
    with pytest.raises(DataError, match=r"no column 'pressure': there are T, a/b, composition"):
        store.column("pressure")


def test_a_column_turns_to_words_over_many_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forcenet_md.data.writer.FLUSH_FRAMES", 3)
    values = [1, 2.5, None, 3, float("nan"), 4, 5, "x", 6]
    frames = [labelled(k, key=v) for k, v in enumerate(values)]
    store = write(tmp_path / "data.h5", [*frames[:4], labelled(9), *frames[4:]])
    expected = ["1", "2.5", "", "3", "", "", "4", "5", "x", "6"]
    assert store.column("key").tolist() == expected
    assert [store.value("key", k) for k in range(10)] == expected
    assert all(same(store.frame(9), frames[8]) for _ in range(2))


def test_several_stores_and_their_rows_are_one_sequence(tmp_path: Path, store: Store) -> None:
    other = write(tmp_path / "other.h5", [labelled(k, T=600.0, source="a.xyz") for k in (7, 8)])
    frames = Frames([store, other])
    assert len(frames) == 6
    assert [len(frame.numbers) for frame in frames] == frames.n_atoms.tolist()
    assert same(frames[4], labelled(7))
    assert same(frames[-1], labelled(8))
    np.testing.assert_array_equal(frames.column("T")[[0, 3, 5]], [300.0, np.nan, 600.0])
    assert frames.column("trajectory").tolist() == ["1", "2", "melt", "", "", ""]
    some = frames.subset([5, 1]).subset(np.array([True, False]))
    assert len(some) == 1
    assert same(some[0], labelled(8))
    assert same(from_atoms(some.atoms(0)), labelled(8))
    assert len(frames[1:3]) == 2
    assert frames.name(1) == f"frame 1 of {store.path}"
    with pytest.raises(IndexError):
        frames[6]
    with pytest.raises(DataError, match="no column 'x'"):
        frames.column("x")
    with pytest.raises(DataError, match="outside the 4 frames"):
        Frames([store], [4])
    again = pickle.loads(pickle.dumps(frames))
    assert same(again[5], labelled(8))
    assert len(Frames([]).n_atoms) == 0


def _sums(frames: Frames, rows: list[int]) -> list[float]:
    return [float(frames[row].forces.sum()) for row in rows]


def test_forked_workers_read_what_the_parent_reads(tmp_path: Path) -> None:
    """The parent has the file open, and reads on while they do."""
    frames = Frames([write(tmp_path / "data.h5", [labelled(k) for k in range(60)])])
    rows = np.random.default_rng(0).permutation(60).tolist()
    expected = _sums(frames, rows)
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        jobs = [pool.apply_async(_sums, (frames, rows)) for _ in range(4)]
        assert _sums(frames, rows) == expected
        assert all(job.get(60) == expected for job in jobs)


@pytest.mark.slow
def test_a_new_process_reads_a_pickled_store(tmp_path: Path, store: Store) -> None:
    store.frame(0)  # open while it is pickled
    (tmp_path / "frames.pickle").write_bytes(pickle.dumps(Frames([store])))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))[2].forces.sum())"
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "frames.pickle")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(out.stdout) == store.frame(2).forces.sum()


def test_manifest_counts(store: Store) -> None:
    manifest = store.manifest
    assert (manifest.frames, manifest.atoms) == (4, 15)
    assert (manifest.smallest, manifest.largest) == (3, 4)
    assert manifest.elements == {"H": 2, "O": 1, "Cu": 6, "Au": 6}
    assert (manifest.with_energy, manifest.with_stress) == (3, 1)
    oxygen = varied()[3].calc.results["forces"][0]
    assert manifest.forces["O"].mean_abs == pytest.approx(np.abs(oxygen).mean())
    assert manifest.forces["O"].largest == pytest.approx(np.linalg.norm(oxygen))
    assert manifest.columns["trajectory"] == "text"


def test_a_store_that_fails_leaves_the_older_one(tmp_path: Path, store: Store) -> None:
    before = store.path.read_bytes()

    def interrupted() -> Iterator[Atoms]:
        yield labelled(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(store.path, interrupted())
    assert store.path.read_bytes() == before
    assert os.listdir(tmp_path) == ["data.h5"]


def test_a_frame_that_is_refused_is_not_in_the_store(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "data.h5") as writer:
        writer.append(labelled(0))
        with pytest.raises(DataError, match="it has no forces"):
            writer.append(Atoms("Cu"))
        writer.append(labelled(1))
    store = Store(tmp_path / "data.h5")
    assert len(store) == store.manifest.frames == 2
    assert same(store.frame(1), labelled(1))


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9, 0.999])
def test_a_store_cut_short_is_said(tmp_path: Path, part: float) -> None:
    path = write(tmp_path / "data.h5", [labelled(k) for k in range(200)]).path
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(DataError, match=r"data.h5 cannot be read as a store, it is cut short"):
        Store(path)


def test_a_store_that_is_replaced_while_in_use_is_said(tmp_path: Path) -> None:
    """The offsets of one file give parts of the frames of another."""
    store = write(tmp_path / "a.h5", [labelled(k) for k in range(3)])
    assert len(store.frame(1).numbers) == 4
    write(tmp_path / "a.h5", [label(molecule("H2O"), np.ones((3, 3))) for _ in range(5)])
    assert len(store.frame(2).numbers) == 4  # the old file is still open
    for used in (store, pickle.loads(pickle.dumps(store))):
        used.close()
        with pytest.raises(DataError, match=r"a.h5 was replaced while it was in use: begin again"):
            used.frame(1)


def test_a_damaged_row_is_an_error_not_a_force(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", [labelled(k) for k in range(300)]).path
    with h5py.File(path) as file:
        place = file["atoms"].id.get_chunk_info(1).byte_offset  # rows 512 to 1023
    with open(path, "r+b") as raw:
        raw.seek(place + 700)
        raw.write(b"\xff" * 4)
    store = Store(path)
    assert same(store.frame(0), labelled(0))
    with pytest.raises(DataError, match=r"frame 140 of .*data.h5 cannot be read, .* damaged"):
        store.frame(140)


@pytest.mark.parametrize("place", ["columns", "manifest", "offsets"])
def test_a_damaged_head_is_said(tmp_path: Path, place: str) -> None:
    """Of a group or of data: its own head, which has a checksum."""
    path = write(tmp_path / "data.h5", [labelled(k) for k in range(5)]).path
    with h5py.File(path) as file:
        address = h5py.h5o.get_info(file[place].id).addr
    with open(path, "r+b") as raw:
        raw.seek(address + 8)
        raw.write(b"\xff\xfe")
    with pytest.raises(DataError, match=r"data.h5 cannot be read, .* damaged.*: compile it again"):
        Store(path)


def test_a_store_that_may_not_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write(tmp_path / "data.h5", [labelled(0)])

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Unable to open file (file read failed)")  # as h5py tells of a bad disk

    monkeypatch.setattr(h5py, "File", broken)
    with pytest.raises(DataError, match=r"\(Input/output error\): make it readable, or compile it"):
        Store(store.path)


def test_what_is_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        Store(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("nothing\n", encoding="utf-8")
    with pytest.raises(DataError, match="damaged, or no HDF5 file"):
        Store(tmp_path / "text.h5")
    h5py.File(tmp_path / "other.h5", "w").close()
    with pytest.raises(DataError, match="is no store of this version"):
        Store(tmp_path / "other.h5")


def test_data_is_compiled_once_and_again_when_it_changes(tmp_path: Path) -> None:
    source, cache = tmp_path / "a.extxyz", tmp_path / "cache"
    write_frames(source, [labelled(0)])
    (first,) = open_data([source], cache)
    stamp = first.path.stat().st_mtime_ns
    again, itself = open_data([source, first.path], cache)
    assert again.path == itself.path == first.path
    assert first.path.stat().st_mtime_ns == stamp
    first.path.write_bytes(first.path.read_bytes()[:500])
    assert open_data([source], cache)[0].frame(0).numbers.tolist() == [79, 79, 29, 29]
    write_frames(source, [labelled(1)])
    (new,) = open_data([source], cache)
    assert new.path != first.path
    np.testing.assert_allclose(new.frame(0).forces, labelled(1).calc.results["forces"], atol=1e-8)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    """Twenty times as many frames are compiled and read within a few MB of the same memory."""
    code = (
        "import sys, resource, pathlib\n"
        "from forcenet_md.data.store import compile_store, Store\n"
        "out = pathlib.Path(sys.argv[1]).with_suffix('.h5')\n"
        "compile_store([pathlib.Path(sys.argv[1])], out)\n"
        "store = Store(out)\n"
        "[store.frame(i) for i in range(0, len(store), 7)]\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    peaks = []
    write_frames(tmp_path / "few.extxyz", [labelled(k, name=str(k)) for k in range(1000)])
    text = (tmp_path / "few.extxyz").read_text(encoding="utf-8")
    (tmp_path / "many.extxyz").write_text(text * 20, encoding="utf-8")
    for name in ("few", "many"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"{name}.extxyz")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(float(done.stdout))
    assert Store(tmp_path / "many.h5").manifest.frames == 20_000
    assert peaks[1] - peaks[0] < 40.0


def test_compiling_stores_keeps_where_frames_came_from(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.extxyz", [labelled(0), labelled(1)])
    compile_store([tmp_path / "a.extxyz"], tmp_path / "a.h5")
    compile_store([tmp_path / "a.h5"], tmp_path / "b.h5")
    store = Store(tmp_path / "b.h5")
    assert store.column("source").tolist() == [str(tmp_path / "a.extxyz")] * 2
    assert same(store.frame(1), Store(tmp_path / "a.h5").atoms(1))
    assert Frames([store]).name(1) == f"frame 1 of {tmp_path / 'a.extxyz'}"
