"""Frames of a run from every kind of file, unwrapped and in order; faults by name."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.data import atomic_masses
from ase.io import write
from recordings import Simulation, triclinic
from runs_on_disk import EVERY, PS, walk, write_dump, write_h5md

from forcenet_md.data.lammps_files import snapshots
from forcenet_md.data.reading import read_source
from forcenet_md.errors import DataError, UnitsError
from forcenet_md.recording.frame import Precision
from forcenet_md.recording.recorder import Recorder
from forcenet_md.simulation.analysis_files import write_analysis
from forcenet_md.simulation.findings import Report
from forcenet_md.simulation.judging import judge
from forcenet_md.simulation.snapshot import Snapshot
from forcenet_md.simulation.trajectory import Reading, Trajectory

SYMBOLS = ["Ag"] * 7 + ["Cu"] * 5
TIMESTEP = 0.002


def read(*paths: Path, **reading: object) -> list[Snapshot]:
    return list(Trajectory(paths, Reading(**reading)))  # type: ignore[arg-type]


@pytest.mark.parametrize("columns", ["x", "xu", "xs", "xsu", "x ix"])
@pytest.mark.parametrize("tilted", [False, True])
def test_dumps_unwrap_to_where_the_atoms_went(tmp_path: Path, columns: str, tilted: bool) -> None:
    frames = walk(40, SYMBOLS, step=0.5, tilted=tilted)
    assert max(np.ptp(atoms.positions, axis=0).max() for atoms in frames) > 12.0  # they do leave
    path = write_dump(tmp_path / "run.dump", frames, columns)
    found = read(path, timestep=TIMESTEP, units="metal")
    for k, (snapshot, atoms) in enumerate(zip(found, frames, strict=True)):
        moved = snapshot.positions - found[0].positions
        np.testing.assert_allclose(moved, atoms.positions - frames[0].positions, atol=1e-9)
        np.testing.assert_allclose(snapshot.velocities, atoms.get_velocities() * PS, rtol=1e-12)
        np.testing.assert_allclose(snapshot.cell, atoms.cell.array, atol=1e-12)
        assert snapshot.numbers.tolist() == atoms.numbers.tolist()
        assert snapshot.time == pytest.approx(EVERY * TIMESTEP * k)


def test_files_of_all_kinds_hold_the_same(tmp_path: Path) -> None:
    frames = walk(12, SYMBOLS, step=0.3, tilted=True)
    write(tmp_path / "run.extxyz", frames)
    write(tmp_path / "run.traj", frames)
    dump = write_dump(tmp_path / "run.dump", frames, types=("Cu", "Ag"))
    (tmp_path / "run.lammpstrj.gz").write_bytes(gzip.compress(dump.read_bytes()))
    paths = [
        dump,
        tmp_path / "run.lammpstrj.gz",
        tmp_path / "run.extxyz",
        tmp_path / "run.traj",
        write_h5md(tmp_path / "run.h5", frames, TIMESTEP),
        write_h5md(tmp_path / "nm.h5md", frames, TIMESTEP, nanometres=True),
    ]
    for path in paths:
        found = read(path, elements=("Cu", "Ag"))
        assert len(found) == len(frames)
        for snapshot, atoms in zip(found, frames, strict=True):
            moved = snapshot.positions - found[0].positions
            np.testing.assert_allclose(
                moved, atoms.positions - frames[0].positions, atol=1e-7, err_msg=path.name
            )
            np.testing.assert_allclose(snapshot.velocities, atoms.get_velocities() * PS, atol=1e-6)
            np.testing.assert_allclose(snapshot.masses, atoms.get_masses())


def test_units_of_dumps(tmp_path: Path) -> None:
    """In units real velocities are in Å/fs; what a file states need not be told, and may not be
    told otherwise. With `dump_modify time yes` it has times."""
    frames = walk(3, SYMBOLS, step=0.1)
    told = write_dump(tmp_path / "told.dump", frames)
    stated = write_dump(
        tmp_path / "stated.dump", frames, heading="ITEM: UNITS\nreal\nITEM: TIME\n7.5\n"
    )
    trajectory = Trajectory([told])
    plain = next(iter(trajectory)).velocities
    assert plain is not None
    assert "units metal" in trajectory.remarks[0]
    later = write_dump(tmp_path / "later.dump", frames, first=100)
    both = Trajectory([told, later])
    assert len(list(both)) == 6
    (said,) = (remark for remark in both.remarks if "units metal" in remark)
    assert said.startswith(f"{told} and 1 more: ")
    for path, units in ((told, "real"), (stated, None), (stated, "real")):
        snapshot = read(path, units=units)[0]
        np.testing.assert_allclose(snapshot.velocities, 1000.0 * plain)
    assert read(stated)[0].time == pytest.approx(7.5e-3)
    with pytest.raises(DataError, match="units real"):
        read(stated, units="metal")
    with pytest.raises(UnitsError):
        read(told, units="lj")
    # Both headings before a frame: read as one frame by the reader of labelled structures too.
    with stated.open() as file:
        assert len(list(snapshots(file))) == 3
    assert len(list(read_source(stated))) == 3


def test_boxes_whose_faces_move_do_not_move_the_atoms(tmp_path: Path) -> None:
    """A shrink-wrapped direction has another origin in each frame."""
    frames = walk(2, SYMBOLS, step=0.0)
    for atoms in frames:
        atoms.pbc = (True, True, False)
    text = write_dump(tmp_path / "run.dump", frames).read_text()
    head, _, tail = text.rpartition("0.0 8.0\n")
    (tmp_path / "run.dump").write_text(head + "-1.0 7.5\n" + tail)
    first, second = read(tmp_path / "run.dump")
    np.testing.assert_allclose(second.positions, first.positions)


def test_a_cell_that_changes_is_unwrapped_by_nearest_images(tmp_path: Path) -> None:
    """Images times a cell that breathes would move atoms that have left it without a step."""
    frames = walk(3, SYMBOLS, step=0.0)
    for atoms in frames:
        atoms.positions[0] += [90.0, 0.0, 0.0]
    frames[1].set_cell(1.01 * frames[1].cell.array)
    path = write_dump(tmp_path / "run.dump", frames, "xu")
    lines = path.read_text().replace
    path.write_text(lines("nothing", ""))
    trajectory = Trajectory([path])
    found = list(trajectory)
    assert np.abs(found[1].positions - found[0].positions).max() < 0.5
    assert any("cell changes" in remark for remark in trajectory.remarks)


def test_frames_too_far_apart_are_told(tmp_path: Path) -> None:
    trajectory = Trajectory([write_dump(tmp_path / "run.dump", walk(5, SYMBOLS, step=3.0))])
    list(trajectory)
    assert any("cannot be unwrapped" in remark for remark in trajectory.remarks)
    trajectory = Trajectory([write_dump(tmp_path / "xu.dump", walk(5, SYMBOLS, step=3.0), "xu")])
    list(trajectory)
    assert not any("unwrapped" in remark for remark in trajectory.remarks)


def test_segments_of_a_run_are_one(tmp_path: Path) -> None:
    """Each begins with the frame that the one before ended with; a later one that was begun again
    earlier has the last word; every n-th frame is still unwrapped from its neighbours."""
    frames = walk(30, SYMBOLS, step=0.8)
    parts = [
        write_dump(tmp_path / "a.dump", frames[:11]),
        write_dump(tmp_path / "b.dump", frames[10:26], first=10 * EVERY),
        write_dump(tmp_path / "c.dump", frames[20:], first=20 * EVERY),
    ]
    trajectory = Trajectory(parts, Reading(timestep=TIMESTEP, begins=0.04, every=5))
    found = list(trajectory)
    assert [s.step for s in found] == [20, 45, 70, 95, 120, 145]
    for snapshot in found:
        moved = frames[snapshot.step // EVERY].positions - frames[4].positions
        np.testing.assert_allclose(snapshot.positions - found[0].positions, moved, atol=1e-9)
    assert any("b.dump" in r and "run again" in r for r in trajectory.remarks)
    with pytest.raises(DataError, match="in the order of time"):
        read(parts[1], parts[0])


def test_times_of_files_without_steps(tmp_path: Path) -> None:
    write(tmp_path / "run.extxyz", walk(4, SYMBOLS, step=0.1))
    assert [s.time for s in read(tmp_path / "run.extxyz", timestep=0.5)] == [0.0, 0.5, 1.0, 1.5]
    assert {s.time for s in read(tmp_path / "run.extxyz")} == {None}
    with pytest.raises(DataError, match="--timestep"):
        read(tmp_path / "run.extxyz", begins=1.0)


def test_trajectory_of_ipi(tmp_path: Path) -> None:
    frame = (
        '2\nLattice="3.0 0.0 0.0 0.0 3.0 0.0 0.0 0.0 3.0" Properties=species:S:1:pos:R:3 '
        'ipi_comment="Step:          {step}  Bead:       0 positions{{ase}}" pbc="T T T"\n'
        "Ag 0.1 0.0 0.0\nCu {x} -4.5 1.5\n"
    )
    text = "".join(frame.format(step=step, x=x) for step, x in ((0, 2.9), (20, 3.1), (40, 3.3)))
    (tmp_path / "run.extxyz").write_text(text)
    found = read(tmp_path / "run.extxyz", timestep=0.001)
    assert [s.time for s in found] == pytest.approx([0.0, 0.02, 0.04])
    assert [s.positions[1, 0] for s in found] == pytest.approx([2.9, 3.1, 3.3])


def test_a_frame_cut_short_is_left_out(tmp_path: Path) -> None:
    frames = walk(4, SYMBOLS, step=0.1)
    write(tmp_path / "run.extxyz", frames)
    for path in (tmp_path / "run.extxyz", write_dump(tmp_path / "run.dump", frames)):
        data = path.read_bytes()
        for cut in (10, 300, 700):
            path.write_bytes(data[:-cut])
            trajectory = Trajectory([path])
            assert len(list(trajectory)) == 3
            assert f"Frame 3 of {path} is cut short and left out." in trajectory.remarks
    # one who was killed amid a frame, and went on in the same file
    path.write_bytes(data[:-300] + write_dump(tmp_path / "b", frames, first=50).read_bytes())
    trajectory = Trajectory([path])
    assert [s.step for s in trajectory] == [0, 5, 10, 50, 55, 60, 65]
    assert any("cut short" in remark for remark in trajectory.remarks)


def test_h5md_of_a_run_that_was_begun_again(tmp_path: Path) -> None:
    """The last word counts; what was not recorded is NaN; velocities may be of fewer steps."""
    frames = walk(6, SYMBOLS, step=0.1)
    path = write_h5md(tmp_path / "run.h5", frames, TIMESTEP)
    with h5py.File(path, "r+") as file:
        for name in ("position", "velocity", "box/edges"):
            node = file["particles/all"][name]
            node["step"][:] = [0, 5, 10, 5, 10, 15]
            node["time"][:] = [0.0, 0.01, 0.02, 0.01, 0.02, np.nan]
        file["particles/all/velocity/value"][4] = np.nan
        file["observables/potential_energy/value"] = np.arange(6.0)
        file["observables/potential_energy/step"] = file["particles/all/position/step"]
    trajectory = Trajectory([path])
    found = list(trajectory)
    assert [s.step for s in found] == [0, 5, 10, 15]
    assert [s.time for s in found] == [0.0, 0.01, 0.02, None]
    assert [s.energy for s in found] == [0.0, 3.0, 4.0, 5.0]
    assert [s.velocities is None for s in found] == [False, False, True, False]
    np.testing.assert_allclose(
        found[1].positions - found[0].positions, frames[3].positions - frames[0].positions
    )
    assert any("2 frames" in remark for remark in trajectory.remarks)


@pytest.mark.parametrize("precision", ["full", "rounded"])
def test_what_we_record_is_read(precision: Precision, tmp_path: Path) -> None:
    """`--record` of a run that begins again at an earlier step: the last word counts."""
    simulation = Simulation(triclinic())
    for first, last in ((0, 20), (10, 30)):
        recorder = Recorder(tmp_path / "run.h5", 5, precision, print)
        simulation.run(recorder, first, last)
        recorder.close()
    trajectory = Trajectory([tmp_path / "run.h5"])
    found = list(trajectory)
    assert [s.step for s in found] == [0, 5, 10, 15, 20, 25, 30]
    assert [s.time for s in found] == pytest.approx([0.01 * k for k in range(7)])
    assert all(s.velocities is not None for s in found)
    positions = simulation.positions()
    asked = [positions[k] for k in (0, 5, *(21 + step - 10 for step in (10, 15, 20, 25, 30)))]
    for snapshot, x in zip(found, asked, strict=True):
        np.testing.assert_allclose(snapshot.positions, x, atol=1e-4)
        np.testing.assert_allclose(snapshot.cell, simulation.atoms.cell.array)
        assert snapshot.numbers.tolist() == simulation.atoms.numbers.tolist()
    assert any("run again" in remark for remark in trajectory.remarks)


def test_a_run_after_a_minimisation(tmp_path: Path) -> None:
    """Its frames have steps and no times; the run counts on, and its times begin anew."""
    path = write_h5md(tmp_path / "run.h5", walk(6, SYMBOLS, step=0.1), TIMESTEP)
    with h5py.File(path, "r+") as file:
        for name in ("position", "velocity", "box/edges"):
            node = file["particles/all"][name]
            node["step"][:] = [0, 50, 80, 85, 90, 95]
            node["time"][:] = [np.nan, np.nan, 0.16, 0.17, 0.18, 0.19]
    assert [s.time for s in read(path)] == [None, None, 0.16, 0.17, 0.18, 0.19]
    run = judge(Trajectory([path]), "run")
    assert run.findings.begins == 0.16
    assert run.findings.spacing == pytest.approx(0.01)
    write_analysis(tmp_path / "out", Report(run=run.findings), run, None)
    assert (tmp_path / "out" / "temperatures.csv").read_text().startswith("frame,")
    assert (tmp_path / "out" / "temperatures.png").is_file()


def test_h5md_with_counted_steps_and_a_fixed_box(tmp_path: Path) -> None:
    frames = walk(6, SYMBOLS, step=0.1)
    path = write_h5md(tmp_path / "run.h5", frames, TIMESTEP)
    with h5py.File(path, "r+") as file:
        group = file["particles/all"]
        for name in ("position/step", "position/time", "box/edges", "velocity", "mass"):
            del group[name]
        group["position/step"], group["position/time"] = 10, 0.02
        group["position/time"].attrs["unit"] = "ps"
        group["position/time"].attrs["offset"] = 4.0
        group["box/edges"] = np.diag(frames[0].cell.array)
    found = read(path)
    assert [s.step for s in found] == [0, 10, 20, 30, 40, 50]
    assert [s.time for s in found] == pytest.approx([4.0, 4.02, 4.04, 4.06, 4.08, 4.1])
    np.testing.assert_allclose(found[0].cell, frames[0].cell.array)
    np.testing.assert_allclose(found[0].masses, atomic_masses[frames[0].numbers])
    assert found[0].velocities is None


def other_atoms(folder: Path) -> list[Path]:
    one = write_dump(folder / "one.dump", walk(2, SYMBOLS, 0.1))
    return [one, write_dump(folder / "b.dump", walk(2, SYMBOLS[:-1], 0.1), first=50)]


def nothing(folder: Path) -> list[Path]:
    (folder / "empty.dump").write_text("")
    return [folder / "empty.dump"]


def no_xyz(folder: Path) -> list[Path]:
    (folder / "empty.extxyz").write_text("")
    return [folder / "empty.extxyz"]


def damaged(folder: Path) -> list[Path]:
    path = write_dump(folder / "run.dump", walk(2, SYMBOLS, 0.1))
    path.write_text(path.read_text().replace("9.0", "nine", 1))
    return [path]


def no_elements(folder: Path) -> list[Path]:
    return [write_dump(folder / "run.dump", walk(2, SYMBOLS, 0.1), types=("Ag", "Cu"))]


def no_h5md(folder: Path) -> list[Path]:
    with h5py.File(folder / "run.h5", "w") as file:
        file["x"] = 1
    return [folder / "run.h5"]


def cut_h5md(folder: Path) -> list[Path]:
    path = write_h5md(folder / "run.h5", walk(2, SYMBOLS, 0.1), TIMESTEP)
    path.write_bytes(path.read_bytes()[:3000])
    return [path]


def foreign_units(folder: Path) -> list[Path]:
    path = write_h5md(folder / "run.h5", walk(2, SYMBOLS, 0.1), TIMESTEP)
    with h5py.File(path, "r+") as file:
        file["particles/all/position/value"].attrs["unit"] = "furlong"
    return [path]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (other_atoms, "other atoms"),
        (nothing, "no whole frame"),
        (no_xyz, "no whole frame"),
        (damaged, r"frame 0 of .*damaged"),
        (no_elements, "--elements"),
        (no_h5md, "no H5MD file"),
        (cut_h5md, "cannot be read as H5MD"),
        (foreign_units, "furlong"),
        (lambda folder: [folder / "missing.dump"], "there is no file"),
        (lambda folder: [], "give a file"),
    ],
)
def test_faults_are_told(tmp_path: Path, make: Callable[[Path], list[Path]], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read(*make(tmp_path))


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in ({"elements": ("Xy",)}, {"timestep": 0.0}, {"every": 0}):
        with pytest.raises(DataError):
            Reading(**wrong)  # type: ignore[arg-type]


def test_snapshots_of_a_dump_are_cut_at_their_headings() -> None:
    """UNITS comes once, TIME in each frame, before TIMESTEP."""
    frame = "ITEM: TIME\n0.5\nITEM: TIMESTEP\n1\nITEM: NUMBER OF ATOMS\n0\nITEM: ATOMS id\n"
    text = "ITEM: UNITS\nmetal\n" + frame + frame + "ITEM: TIMESTEP\n2\n" + frame
    found = list(snapshots(io.StringIO(text)))
    assert [len(lines) for lines in found] == [9, 7, 2, 7]


@pytest.mark.parametrize(("scale", "changes"), [(1.0 + 2e-9, False), (1.0 + 1e-5, True)])
def test_a_cell_that_is_rounded_does_not_change(
    scale: float, changes: bool, tmp_path: Path
) -> None:
    """As after a restart; positions that the engine unwrapped stay its own."""
    frames = walk(6, SYMBOLS, step=0.1)
    for atoms in frames[3:]:
        atoms.set_cell(scale * atoms.cell.array)
    trajectory = Trajectory([write_h5md(tmp_path / "run.h5", frames, TIMESTEP)])
    list(trajectory)
    assert any("cell changes" in remark for remark in trajectory.remarks) == changes


def test_a_cell_that_changes_slowly_changes(tmp_path: Path) -> None:
    frames = walk(100, SYMBOLS, step=0.1)
    for k, atoms in enumerate(frames):
        atoms.set_cell((1.0 + 5e-7 * k) * atoms.cell.array)
    trajectory = Trajectory([write_h5md(tmp_path / "run.h5", frames, TIMESTEP)])
    list(trajectory)
    assert any("cell changes" in remark for remark in trajectory.remarks)
