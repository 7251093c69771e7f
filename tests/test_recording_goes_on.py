"""Which file a run goes into: the one that it goes on from, or one of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from recordings import Simulation, contents, triclinic, until

from forcenet_md.inference.interface import Kind
from forcenet_md.recording import recorder as recording
from forcenet_md.recording.recorder import Recorder
from forcenet_md.simulation.h5md_reader import read_h5md

CLIENTS = count(1)


@pytest.fixture(params=["one server", "a server each"])
def again(
    request: pytest.FixtureRequest, path: Path, said: list[str]
) -> Iterator[Callable[[], Recorder]]:
    """The recorder of the next run: the same one, or that of a server that was started anew."""
    made: list[Recorder] = []

    def again() -> Recorder:
        if request.param == "a server each" and made:
            made.pop().close()
        if not made:
            made.append(Recorder(path, 2, "full", said.append))
        return made[-1]

    yield again
    for recorder in made:
        recorder.close()


def run(recorder: Recorder, simulation: Simulation, first: int, last: int) -> None:
    """By an engine that was started anew."""
    simulation.session, simulation.client = object(), next(CLIENTS)
    simulation.run(recorder, first, last)


def steps(path: Path, number: int = 1) -> list[int]:
    name = path if number == 1 else path.with_name(f"run.{number}.h5")
    return contents(name).step.tolist()


def scaled(atoms: Atoms, factor: float) -> Atoms:
    other = atoms.copy()
    other.set_cell(atoms.cell * factor, scale_atoms=True)
    return other


def test_runs_from_the_beginning_have_a_file_each(path: Path, again, said: list[str]) -> None:
    """Of the same atoms: with velocities created anew, and then in other cells."""
    simulations = [Simulation(scaled(triclinic(), f), seed=9) for f in (1.0, 1.0, 0.8)]
    for simulation in simulations:
        run(again(), simulation, 0, 6)
    again().close()
    for number, simulation in enumerate(simulations, 1):
        assert steps(path, number) == [0, 2, 4, 6]
        found = contents(path if number == 1 else path.with_name(f"run.{number}.h5"))
        np.testing.assert_array_equal(found.position, simulation.positions()[::2])
        assert found.run == [1] * 4
    assert len(said) == 2
    assert "32 atoms are recorded in" in said[0]
    assert "run.2.h5" in said[0]
    assert "run.3.h5" in said[1]


def test_a_run_from_a_restart_file_goes_on_in_its_own(path: Path, again, said: list[str]) -> None:
    """Two were begun, one after the other; then the first goes on, from before its end and beyond,
    and the second, each from a step that was not recorded."""
    one, two = Simulation(triclinic()), Simulation(triclinic())
    two.atoms.positions += np.random.default_rng(5).normal(0, 0.5, (32, 3))
    run(again(), one, 0, 8)
    run(again(), two, 0, 12)
    run(again(), one, 5, 9)
    run(again(), one, 11, 12)
    run(again(), two, 7, 10)
    again().close()
    second = path.with_name("run.2.h5")
    assert said == [
        f"32 atoms are recorded in {second}, for they go on from nothing that {path} has",
        f"32 atoms go on in {path} from step 5, which has up to step 8",
        f"32 atoms go on in {path} from step 11, which has up to step 8",
        f"32 atoms go on in {second} from step 7, which has up to step 12",
    ]
    assert steps(path) == [0, 2, 4, 6, 8, 6, 8, 12]
    assert contents(path).run[5:7] == [2, 2]
    assert steps(path, 2) == [0, 2, 4, 6, 8, 10, 12, 8, 10]
    assert not path.with_name("run.3.h5").exists()


def test_a_run_from_the_end_of_another_is_told(path: Path, again, said: list[str]) -> None:
    """By a LAMMPS that was started anew; it gives the step between them once."""
    simulation = Simulation(triclinic())
    run(again(), simulation, 0, 4)
    run(again(), simulation, 4, 6)
    again().close()
    assert steps(path) == [0, 2, 4, 6]
    assert said == [f"32 atoms go on in {path} from step 4, which has up to step 4"]


@pytest.mark.parametrize("ended", [True, False])
def test_runs_come_back_in_another_order(
    ended: bool, path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two at a time that have ended the second goes on first, as what is now the first client.
    Where the one before may yet come back its file is not gone on with: nothing is mixed."""
    monkeypatch.setattr(recording, "PERIOD", 0.02 if ended else 1e6)
    one, two = Simulation(triclinic()), Simulation(triclinic(), stream=1, seed=1)
    two.atoms.positions += np.random.default_rng(5).normal(0, 0.5, (32, 3))
    recorder = Recorder(path, 2, "full", said.append)
    for step in range(7):
        for simulation in (one, two):
            recorder.see(*simulation.answer(step))
    if ended:
        until(lambda: all(stream.silent for stream in recorder._streams.values()))
    two.stream = 0
    run(recorder, two, 5, 8)
    recorder.close()
    assert steps(path) == [0, 2, 4, 6]
    assert steps(path, 2) == [0, 2, 4, 6] + [6, 8] * ended
    assert path.with_name("run.3.h5").exists() != ended


@pytest.mark.parametrize("stopped_at", [0, 1])
def test_a_corrected_run_is_not_mixed_into_the_stopped_one(
    stopped_at: int, path: Path, again
) -> None:
    """Of a run that was stopped early the file has one frame. Two atoms were too close in it; the
    next one begins elsewhere, at its step."""
    stopped, corrected = Simulation(triclinic()), Simulation(triclinic())
    stopped.atoms.positions[1] = stopped.atoms.positions[0] + [0.4, 0.0, 0.0]
    run(again(), stopped, 0, stopped_at)
    run(again(), corrected, 0, 6)
    run(again(), corrected, 4, 8)  # and what goes on, goes on with its own
    again().close()
    assert steps(path) == [0]
    assert steps(path, 2) == [0, 2, 4, 6, 4, 6, 8]
    assert contents(path.with_name("run.2.h5")).run == [1] * 4 + [2] * 3


@pytest.mark.parametrize("lost", [0, 20])
def test_atoms_that_are_too_far_for_the_steps_between_are_of_another_simulation(
    lost: int, path: Path, again
) -> None:
    """One atom by 1.5 Å: in 3 steps it cannot be, in 23, which a server that was killed may have
    lost, it can."""
    simulation = Simulation(triclinic())
    run(again(), simulation, 0, 8)
    simulation.atoms.positions[7] += [1.5, 0.0, 0.0]
    run(again(), simulation, 11 + lost, 14 + lost)
    again().close()
    rest = [12 + lost, 14 + lost]
    assert steps(path) == [0, 2, 4, 6, 8, *(rest if lost else [])]
    assert path.with_name("run.2.h5").exists() == (not lost)


def test_another_cell_is_another_simulation(path: Path, again) -> None:
    """Whatever its steps; what constant pressure does in a few steps is not."""
    run(again(), Simulation(triclinic()), 0, 6)
    run(again(), Simulation(scaled(triclinic(), 1.004)), 7, 8)
    run(again(), Simulation(scaled(triclinic(), 0.9)), 9, 12)
    again().close()
    assert steps(path) == [0, 2, 4, 6, 8]
    assert steps(path, 2) == [10, 12]


def test_a_box_that_follows_its_atoms_is_no_other_cell(path: Path, again) -> None:
    """LAMMPS shrinks it where nothing is periodic."""
    atoms = molecule("CH3CH2OH", vacuum=2.0)
    run(again(), Simulation(atoms), 0, 6)
    atoms.set_cell(1.5 * atoms.cell)
    run(again(), Simulation(atoms), 5, 8)
    again().close()
    assert steps(path) == [0, 2, 4, 6, 6, 8]


def test_single_points_of_one_cell_are_one_recording(path: Path, again, said: list[str]) -> None:
    """As `run 0` for many structures, each with a set-up of its own and always step 0."""
    simulation, recorder = Simulation(triclinic()), again()
    for _ in range(4):  # of which nothing needs to be told
        simulation.session = object()
        simulation.atoms.rattle(0.3, rng=simulation.rng)
        recorder.see(*simulation.answer(0, Kind.SETUP))
    again().close()
    assert steps(path) == [0] * 4
    assert said == []
    assert contents(path).run == [1, 2, 3, 4]


def test_without_steps_every_start_has_a_file(path: Path, again, said: list[str]) -> None:
    """Nobody knows how many steps lie between two: no gap is taken for a step."""
    simulation = Simulation(triclinic())
    for _ in range(2):
        simulation.session, recorder = object(), again()
        for _ in range(5):
            recorder.see(*simulation.answer(None, Kind.UNKNOWN, velocities=False))
    again().close()
    assert steps(path) == steps(path, 2) == [0, 2, 4]
    np.testing.assert_array_equal(contents(path).position, simulation.positions()[0:5:2])
    found = contents(path.with_name("run.2.h5"))
    np.testing.assert_array_equal(found.position, simulation.positions()[5::2])
    assert len(said) == 1


@pytest.mark.parametrize(
    ("first", "words"),
    [(5, ("2 frames of", "were run again")), (7, ("1 frame of", "was run again"))],
)
def test_who_analyses_repeated_steps_is_told_where_they_are(
    first: int, words: tuple[str, str], path: Path, again
) -> None:
    simulation, remarks = Simulation(triclinic()), []
    run(again(), simulation, 0, 8)
    run(again(), simulation, first, 8)
    again().close()
    frames = list(read_h5md(path, remarks.append))
    assert [frame.step for frame in frames] == [0, 2, 4, 6, 8]
    [remark] = remarks
    assert all(part in remark for part in words)
    assert "observables/run/value tells which run each frame is of" in remark
    assert os.listdir(path.parent) == ["run.h5"]
