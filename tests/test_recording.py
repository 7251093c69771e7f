"""Recordings: what is in them, how exactly, and that they open whatever happened."""

from __future__ import annotations

import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from recordings import TIMESTEP, Simulation, contents, triclinic, universe, until

from forcenet_md.engines.ase_calculator import ForceNetCalculator
from forcenet_md.errors import DataError, RequestError
from forcenet_md.inference.interface import Kind
from forcenet_md.recording import recorder as recording
from forcenet_md.recording import segments
from forcenet_md.recording.frame import POSITION_ERROR, RELATIVE_ERROR, Precision
from forcenet_md.recording.recorder import Recorder
from forcenet_md.recording.segments import Recording


@pytest.fixture
def start(path: Path, said: list[str]) -> Iterator[Callable[..., Recorder]]:
    """A recorder at `path`; closed at the end, if the test has not."""
    made = []

    def start(every: int = 1, precision: Precision = "full", **more: Any) -> Recorder:
        made.append(Recorder(path, every, precision, said.append, **more))
        return made[-1]

    yield start
    for recorder in made:
        recorder.close()


def test_full_is_exact_to_the_last_bit(path: Path, start) -> None:
    simulation = Simulation(triclinic())
    recorder = start()
    simulation.run(recorder, 0, 5)
    recorder.close()
    found = contents(path)
    np.testing.assert_array_equal(found.step, range(6))
    np.testing.assert_allclose(found.time, np.arange(6) * TIMESTEP, rtol=1e-12)
    np.testing.assert_array_equal(found.position, simulation.positions())
    np.testing.assert_array_equal(found.velocity[0], simulation.asked[0][0].moment.velocities)
    forces = [answer.forces for _, answer in simulation.asked]
    # in kJ/mol/Å, for MDAnalysis: two roundings
    np.testing.assert_allclose(found.force, forces, rtol=5e-16, atol=0)
    np.testing.assert_array_equal(found.cell, [simulation.atoms.cell.array] * 6)


def test_rounded_is_within_its_stated_error_and_a_third_of_the_size(path: Path, start) -> None:
    sizes, n_frames = {}, 5
    for precision in ("full", "rounded"):
        atoms = triclinic(8)
        atoms.positions += 500.0
        simulation = Simulation(atoms)
        recorder = start(precision=precision)
        simulation.run(recorder, 0, n_frames - 1)
        recorder.close()
        found = contents(path)
        with h5py.File(path) as file:
            stored = [file[f"particles/all/{n}/value"] for n in ("position", "velocity", "force")]
            sizes[precision] = sum(dataset.id.get_storage_size() for dataset in stored)
        path.rename(path.with_name(f"{precision}.h5"))
    error = np.abs(found.position - simulation.positions())
    assert 0.9 * POSITION_ERROR < error.max() <= POSITION_ERROR < 1e-4
    for kept, given in [
        (found.force, [answer.forces for _, answer in simulation.asked]),
        (found.velocity[:1], [simulation.asked[0][0].moment.velocities]),
    ]:
        relative = np.abs(kept - given) / np.abs(given)
        assert 0.9 * RELATIVE_ERROR < relative.max() <= 1.001 * RELATIVE_ERROR
    frames = n_frames * len(atoms)
    assert sizes["full"] < 66 * frames  # bytes an atom and frame, as the option says
    assert sizes["rounded"] < 23 * frames


@pytest.mark.parametrize("precision", ["full", "rounded"])
def test_mdanalysis_reads_it(precision: Precision, path: Path, start) -> None:
    simulation = Simulation(triclinic())
    recorder = start(precision=precision)
    simulation.run(recorder, 0, 3)
    recorder.close()
    tolerance = {"rtol": 2e-4, "atol": 1e-4}
    found, trajectory = contents(path), universe(path).trajectory
    assert len(trajectory) == 4
    for frame, (request, answer) in zip(trajectory, simulation.asked, strict=True):
        np.testing.assert_allclose(frame.positions, request.system.positions, **tolerance)
        kilojoules = answer.forces * 96.48533  # eV/Å in kJ/mol/Å
        np.testing.assert_allclose(frame.forces, kilojoules, **tolerance)
        np.testing.assert_allclose(frame.velocities, found.velocity[frame.frame], **tolerance)
        np.testing.assert_allclose(frame.dimensions, simulation.atoms.cell.cellpar(), rtol=1e-6)
        assert frame.time == pytest.approx(TIMESTEP * frame.frame)
        assert frame.data["step"] == frame.frame
        assert frame.data["net_force"] == pytest.approx(np.sqrt(3) / 32)
        largest = np.linalg.norm(answer.forces, axis=1).max()
        assert frame.data["largest_force"] == pytest.approx(largest)


def test_it_is_h5md(path: Path, start) -> None:
    """What the specification makes mandatory, and the elements of the atoms."""
    atoms = triclinic()
    atoms.pbc = [True, True, False]
    recorder = start()
    Simulation(atoms).run(recorder, 0, 1)
    recorder.close()
    with h5py.File(path) as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        assert {"name"} <= set(file["h5md/author"].attrs)
        assert {"name", "version"} <= set(file["h5md/creator"].attrs)
        box = file["particles/all/box"]
        assert box.attrs["dimension"] == 3
        assert list(box.attrs["boundary"]) == ["periodic", "periodic", "none"]
        everything = file["particles/all"]
        np.testing.assert_array_equal(everything["species"], atoms.numbers)
        np.testing.assert_array_equal(everything["mass"], atoms.get_masses())
        np.testing.assert_array_equal(everything["id"], range(1, 33))
        for group in [everything[n] for n in ("position", "velocity", "force", "box/edges")]:
            assert group["step"] == everything["position/step"]  # one dataset, linked
            assert set(group) == {"step", "time", "value"}


def test_every_tenth_step_and_the_end_of_a_relaxation(path: Path, start) -> None:
    simulation = Simulation(triclinic())
    recorder = start(every=10)
    simulation.run(recorder, 0, 25)
    simulation.session = object()  # LAMMPS says HELLO for every run
    for step in (25, 26, 27):
        kind = Kind.SETUP if step == 25 else Kind.MINIMISE
        recorder.see(*simulation.answer(step, kind))
        last = simulation.answer(step, kind)  # a second trial of this step
        recorder.see(*last)
    recorder.close()
    found = contents(path)
    assert found.step.tolist() == [0, 10, 20, 27]
    np.testing.assert_array_equal(found.position[3], last[0].system.positions)
    np.testing.assert_array_equal(found.velocity[3], last[0].moment.velocities)


def test_a_run_that_goes_on_gives_its_first_step_once(path: Path, start) -> None:
    """The set-up of the second run has the velocities of the step, and is the one that is kept."""
    simulation = Simulation(triclinic())
    recorder = start()
    simulation.run(recorder, 0, 4)
    simulation.session = object()
    same = simulation.positions()[-1]
    recorder.see(*simulation.answer(4, Kind.SETUP, positions=same))
    recorder.see(*simulation.answer(5))
    recorder.close()
    found = contents(path)
    assert found.step.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.run == [1] * 6
    np.testing.assert_array_equal(found.velocity[4], simulation.asked[5][0].moment.velocities)


@pytest.mark.parametrize("precision", ["full", "rounded"])
def test_restarts_are_appended(precision: Precision, path: Path, start) -> None:
    """One that begins where the file ends goes on; one that begins before repeats steps."""
    simulation = Simulation(triclinic())
    for first, last in [(0, 4), (4, 7), (6, 8)]:
        recorder = start(precision=precision)
        simulation.run(recorder, first, last)
        recorder.close()
    found = contents(path)
    assert found.step.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 8]
    assert found.run == [1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    np.testing.assert_allclose(found.time, found.step * TIMESTEP, rtol=1e-12)
    given = np.delete(np.array(simulation.positions()), 5, axis=0)
    np.testing.assert_allclose(found.position, given, atol=POSITION_ERROR)
    assert len(universe(path).trajectory) == 11
    assert os.listdir(path.parent) == ["run.h5"]


def test_steps_are_counted_where_the_engine_does_not(path: Path, start) -> None:
    """Time is not known then, and MDAnalysis reads that."""
    simulation = Simulation(triclinic())
    recorder = start(every=2)
    for _ in range(4):
        recorder.see(*simulation.answer(None, velocities=False))
    recorder.close()
    found = contents(path)
    assert found.step.tolist() == [0, 2]
    assert np.isnan(found.time).all()
    assert found.velocity is None
    np.testing.assert_array_equal(found.position, simulation.positions()[::2])
    assert np.isnan(universe(path).trajectory[1].time)


def test_molecules_without_a_cell(path: Path, start) -> None:
    simulation = Simulation(molecule("CH3CH2OH"))
    recorder = start()
    simulation.run(recorder, 0, 2)
    recorder.close()
    trajectory = universe(path).trajectory
    assert trajectory[1].dimensions is None
    np.testing.assert_allclose(trajectory[2].positions, simulation.positions()[2], atol=1e-5)


def test_what_some_frames_lack_is_nan(path: Path, start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of velocities, and of a guard's numbers; also in segments of their own, and when merged."""
    monkeypatch.setattr(recording, "PERIOD", 0.0)
    simulation = Simulation(triclinic())
    recorder = start()
    for step in range(10):
        some = {"velocities": False} if step < 5 else {"frame_spread": 0.1 * step}
        recorder.see(*simulation.answer(step, Kind.SETUP, **some))
        until(lambda: recorder._queue.empty())
    recorder.close()
    found = contents(path)
    given = [request.moment.velocities for request, _ in simulation.asked[5:]]
    assert np.isnan(found.velocity[:5]).all()
    np.testing.assert_array_equal(found.velocity[5:], given)
    guard = found.observables["frame_spread_max"]
    assert np.isnan(guard[:5]).all()
    np.testing.assert_allclose(guard[5:], 0.1 * np.arange(5, 10))
    assert len(universe(path).trajectory) == 10


def test_it_opens_while_it_grows(path: Path, start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame but the last is there at once, in few files, which are one at the end."""
    monkeypatch.setattr(recording, "PERIOD", 0.0)
    simulation = Simulation(triclinic())
    recorder = start()
    for step in range(19):
        recorder.see(*simulation.answer(step))
        if step % 9 == 1:
            until(lambda step=step: path.exists() and len(contents(path).step) >= step)
            found = contents(path)
            np.testing.assert_array_equal(found.position, simulation.positions()[: len(found.step)])
            trajectory = universe(path).trajectory
            last = len(found.step) - 1  # the file may have grown since
            np.testing.assert_allclose(trajectory[last].positions, found.position[last], rtol=1e-6)
    until(lambda: len(contents(path).step) >= 18)

    def few() -> bool:
        with h5py.File(path) as file:
            return len(file["particles/all/position/value"].virtual_sources()) < 12

    until(few)
    recorder.close()
    assert os.listdir(path.parent) == ["run.h5"]
    with h5py.File(path) as file:
        assert not file["particles/all/position/value"].is_virtual
    np.testing.assert_array_equal(contents(path).position, simulation.positions())


def test_a_silent_engine_leaves_nothing_unwritten(
    path: Path, start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server lives on after a run, and the file is read then."""
    monkeypatch.setattr(recording, "PERIOD", 0.05)
    simulation = Simulation(triclinic())
    recorder = start()
    simulation.run(recorder, 0, 3)
    until(lambda: path.exists() and len(contents(path).step) == 4)
    simulation.session = object()
    recorder.see(*simulation.answer(3, Kind.SETUP, positions=simulation.positions()[-1]))
    recorder.see(*simulation.answer(4))
    recorder.close()
    assert contents(path).step.tolist() == [0, 1, 2, 3, 4]


class Killed(BaseException):
    """Nothing of this process happens any more."""


class Kill:
    """After so many operations on files every further one is the death of the process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**9
        for where, name in [(Path, "replace"), (Path, "unlink"), (os, "link")]:
            monkeypatch.setattr(where, name, self._mortal(getattr(where, name)))

    def _mortal(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def mortal(*arguments: Any, **settings: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return operation(*arguments, **settings)

        return mortal


@pytest.mark.slow
def test_killed_at_any_operation_on_files_it_loses_nothing_and_repeats_nothing(
    tmp_path: Path, path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one segment a frame, with merges, are cut off after every single operation."""
    from forcenet_md.recording.frame import Particles
    from forcenet_md.recording.layout import Head
    from forcenet_md.recording.track import Track

    simulation = Simulation(bulk("Cu"))
    track = Track(1, "full", None)
    frames = [f for k in range(10) for f in track.see(*simulation.answer(k, velocities=False))]
    system = simulation.asked[0][0].system
    head = Head(Particles(system.numbers, None, None, system.pbc), "full")
    kill, parts = Kill(monkeypatch), tmp_path / "run.h5.parts"
    outcomes = set()
    monkeypatch.setattr(segments, "TOGETHER", 2)
    monkeypatch.setattr(segments, "GRACE", 0.0)
    for operations in range(100):
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        path.unlink(missing_ok=True)
        kill.left, written = operations, 0
        try:
            for length in (5, 2):
                record = Recording(path, parts, "full")
                for _ in range(length):
                    record.append(head, frames[written : written + 1])
                    written += 1
                    while record.tidy():
                        pass
                record.finish(said.append)
        except Killed:
            pass
        dead, kill.left = kill.left < 0, 10**9
        if path.exists():
            seen = contents(path)
            assert written - 1 <= len(seen.step) <= written + 1
            np.testing.assert_array_equal(seen.step, range(len(seen.step)))
            assert np.isfinite(seen.position).all()
        else:
            assert written == 0
        again = Recording(path, parts, "full")
        end = again.end()
        there = 0 if end is None else end.step + 1
        assert there in (written, written + 1)
        again.append(head, frames[there : there + 1])
        again.finish(said.append)
        found = contents(path)
        np.testing.assert_array_equal(found.step, range(there + 1))
        np.testing.assert_array_equal(found.position, simulation.positions()[: there + 1])
        assert os.listdir(parts) == []
        outcomes.add(there)
        if not dead:
            break
    assert not dead
    assert outcomes >= set(range(8))
    assert said == []


# Several simulations --------------------------------------------------------------------------


def test_two_simulations_at_once(path: Path, start, said: list[str]) -> None:
    """Of the same atoms, so that nothing but the stream tells them apart; and a third of others."""
    one, two = Simulation(triclinic()), Simulation(triclinic(), stream=1, seed=1)
    two.atoms.positions += np.random.default_rng(2).normal(0, 0.5, (32, 3))  # as time does
    three = Simulation(bulk("Cu"), stream=2)
    for first in (0, 4):
        recorder = start()
        for step in range(first, first + 4):
            for simulation in (one, two, three):
                recorder.see(*simulation.answer(step))
        recorder.close()
    for name, simulation in [("run.h5", one), ("run.2.h5", two), ("run.3.h5", three)]:
        found = contents(path.with_name(name))
        np.testing.assert_array_equal(found.position, simulation.positions())
        assert found.run == [1] * 4 + [2] * 4
    assert sorted(os.listdir(path.parent)) == ["run.2.h5", "run.3.h5", "run.h5"]


def test_lost_atoms_go_on_in_a_file_of_their_own(path: Path, start, said: list[str]) -> None:
    atoms = triclinic()
    simulation = Simulation(atoms)
    recorder = start()
    simulation.run(recorder, 0, 2)
    for step in (3, 4):
        recorder.see(*simulation.answer(step, atoms=atoms[:-1]))
    recorder.close()
    assert contents(path).step.tolist() == [0, 1, 2]
    rest = contents(path.with_name("run.2.h5"))
    assert rest.step.tolist() == [3, 4]
    assert rest.position.shape == (2, 31, 3)
    [line] = said
    assert "31 atoms are recorded in" in line
    assert "run.2.h5" in line


def test_where_simulations_cannot_be_told_apart_a_second_is_refused(start) -> None:
    recorder = start(alone="not two.")
    recorder.see(*Simulation(triclinic()).answer(0))
    with pytest.raises(RequestError, match="not two"):
        recorder.see(*Simulation(triclinic(), stream=1).answer(0))


# Refused at the start --------------------------------------------------------------------------


def text_file(path: Path) -> None:
    path.write_text("a diary")


def other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["particles/all/position/value"] = np.zeros((1, 2, 3))


def cut_short(path: Path) -> None:
    recorder = Recorder(path, 1, "rounded", print)
    Simulation(triclinic()).run(recorder, 0, 3)
    recorder.close()
    path.write_bytes(path.read_bytes()[:-1000])


def rounded(path: Path) -> None:
    recorder = Recorder(path, 1, "rounded", print)
    Simulation(triclinic()).run(recorder, 0, 3)
    recorder.close()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (text_file, "run.h5 is not a recording, or is damaged .*give another --record"),
        (other_hdf5, "run.h5 is not a recording"),
        (cut_short, "run.h5 is not a recording, or is damaged"),
        (rounded, "run.h5 was recorded with --record-precision rounded: go on with that"),
        (Path.mkdir, "is a folder: give --record the name of a file"),
    ],
)
def test_what_is_in_the_way_is_refused_and_left_alone(
    prepare: Callable[[Path], None], words: str, path: Path, start
) -> None:
    prepare(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(DataError, match=words):
        start()
    assert os.listdir(path.parent) == ["run.h5"]
    assert before == (path.read_bytes() if path.is_file() else b"")


def test_a_place_that_cannot_be_written_to_and_one_that_is_taken(path: Path, start) -> None:
    path.with_name("file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written to .*give another --record"):
        Recorder(path.with_name("file") / "run.h5", 1, "full", print)
    start()
    with pytest.raises(DataError, match=r"another recording is at work in .*give another --record"):
        start()


def test_an_index_without_its_segments_is_refused(
    path: Path, start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PERIOD", 0.0)
    recorder = start()
    Simulation(triclinic()).run(recorder, 0, 3)
    until(lambda: path.exists() and len(contents(path).step) >= 3)
    index = path.read_bytes()
    recorder.close()
    path.write_bytes(index)
    with pytest.raises(DataError, match=r"has lost pieces that belong into .*run.h5.parts"):
        start()


# Trouble amid a run ----------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files may grow to 60 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_ends_the_recording_and_not_the_run(
    path: Path, start, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge of eight segments is too large; what was written before it is whole."""
    monkeypatch.setattr(recording, "PERIOD", 0.0)
    simulation = Simulation(triclinic(4))
    recorder = start()
    for step in range(60):
        recorder.see(*simulation.answer(step))
        until(lambda: recorder._queue.empty())
    until(lambda: said)
    recorder.see(*simulation.answer(61))
    recorder.close()
    [line] = said
    assert "the recording" in line
    assert "the run goes on without it" in line
    found = contents(path)
    assert 3 < len(found.step) < 60
    np.testing.assert_array_equal(found.position, simulation.positions()[: len(found.step)])
    assert len(universe(path).trajectory) == len(found.step)


def test_without_room_to_merge_the_segments_stay(
    path: Path, start, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PERIOD", 0.0)
    simulation = Simulation(triclinic())
    usage = shutil.disk_usage(path.parent)
    recorder = start()
    simulation.run(recorder, 0, 3)
    until(lambda: path.exists() and len(contents(path).step) >= 3)
    with monkeypatch.context() as full:
        full.setattr(segments.shutil, "disk_usage", lambda _: usage._replace(free=1000))
        recorder.close()
    [line] = said
    assert "there is no room to merge them" in line
    np.testing.assert_array_equal(contents(path).position, simulation.positions())
    recorder = start()
    recorder.see(*simulation.answer(4))
    recorder.close()
    np.testing.assert_array_equal(contents(path).position, simulation.positions())
    assert os.listdir(path.parent) == ["run.h5"]


def test_memory_is_bounded(path: Path, start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames wait for few bytes, and answers for a slow disk: then the loop waits too."""
    simulation = Simulation(triclinic())
    one = 32 * 72
    monkeypatch.setattr(recording, "LARGEST", 4 * one)
    monkeypatch.setattr(recording, "PERIOD", 1e6)
    waiting, sizes, append = threading.Event(), [], Recording.append

    def slow(self: Recording, head: Any, frames: Any) -> None:
        sizes.append(sum(frame.size for frame in frames))
        waiting.wait(30)
        append(self, head, frames)

    monkeypatch.setattr(Recording, "append", slow)
    recorder = start()
    seen: list[int] = []

    def loop() -> None:
        for step in range(40):
            recorder.see(*simulation.answer(step))
            seen.append(step)

    thread = threading.Thread(target=loop)
    thread.start()
    until(lambda: len(sizes) == 1 and recorder._queue.full())
    # one in the segment being written, the one after it, those that wait
    assert len(seen) <= 2 + recording.AHEAD
    waiting.set()
    thread.join(30)
    recorder.close()
    assert len(contents(path).step) == 40
    assert max(sizes) <= 5 * one
    assert len(sizes) >= 8


# Routes ----------------------------------------------------------------------------------------


def removed(path: Path) -> bool:
    """What a file says of the model's net force."""
    with h5py.File(path) as file:
        return bool(file["parameters/forcenet_md"].attrs["net_force_removed"])


def test_of_a_model_that_was_trained_without_the_net_force(path: Path) -> None:
    atoms: Atoms = bulk("Cu", cubic=True)
    atoms.calc = ForceNetCalculator("alloy", record=path, record_every=1)
    atoms.get_forces()
    atoms.calc.close()
    assert removed(path)


def test_of_an_ase_calculator(path: Path) -> None:
    atoms: Atoms = bulk("Cu", cubic=True)
    atoms.calc = ForceNetCalculator("ase:emt", record=path, record_every=1)
    positions = []
    for seed in range(3):
        atoms.rattle(0.05, seed=seed)
        atoms.get_forces()
        positions.append(atoms.positions.copy())
    forces, energy = atoms.get_forces(), atoms.get_potential_energy()
    atoms.calc.close()
    found = contents(path)
    np.testing.assert_array_equal(found.position, positions)
    np.testing.assert_allclose(found.force[2], forces, rtol=1e-14)
    assert found.observables["potential_energy"][2] == energy
    assert not removed(path)
