"""What the plugin tells the server, and which atom gets which force."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_server import FakeServer, Step, fake_server, forces_message
from lammps_runs import EXTERNAL, NO_PAIR, cases, crystal
from lammps_runs import quick_run as run

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeServer]:
    with fake_server(f"unix:{tmp_path}/s", answer=by_id) as server:
        yield server


def by_id(step: Step) -> bytes:
    """Forces that only the right atom can have: made of its id and position."""
    forces = np.sin(step.positions * step.ids[:, None])
    return forces_message(step.step, forces)


def forcenet(server: FakeServer, elements: str = "Ar", options: str = "") -> str:
    return f"forcenet ext {server.address} elements {elements} {options}\n"


TILTED = """
units real
atom_style atomic
boundary p f p
region box prism -1 9 -2 7 -3 5 1.5 -0.5 0.25
create_box 3 box
create_atoms 2 single 0.5 0.5 0.5
create_atoms 1 single 8.0 3.0 1.0
create_atoms 3 single 2.0 6.0 4.5
create_atoms 1 single 5.0 1.0 -2.5
group gone id 2
delete_atoms group gone compress no
mass 1 39.948
mass 2 107.8682
mass 3 1.00794
velocity all create 300 4711 loop geom
pair_style zero 4.0
pair_coeff * *
timestep 0.25
reset_timestep 5000000000
"""


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_request_carries_everything(ranks: int, server: FakeServer, tmp_path: Path) -> None:
    server.welcome = {"velocities": "yes"}
    script = (
        TILTED
        + EXTERNAL
        + forcenet(server, "Ar Ag H", "mass_check no")
        + "fix 1 all nve\n"
        + "dump 1 all custom 2 dump.txt id type x y z vx vy vz fx fy fz\n"
        + "dump_modify 1 sort id format float %.17g\nrun 2"
    )
    done = run(script, tmp_path, ranks)
    assert done.returncode == 0, done.output

    assert server.hellos[-1] == {
        "engine": "lammps 20250722",
        "units": "real",
        "elements": "Ar Ag H",
        "masses": "39.948 107.8682 1.00794",
        "mass_check": "off",
        "periodic": "1 0 1",
        "group": "all",
        "held": "no",
        "atoms": "3",
        "spread": "yes",
    }
    assert [(step.step - 5_000_000_000, step.kind) for step in server.steps] == [
        (0, 0),
        (1, 1),
        (2, 1),
    ]
    first = server.steps[0]
    assert first.timestep == 0.25
    assert first.periodic == 0b101
    np.testing.assert_array_equal(first.cell, [[10, 0, 0], [1.5, 9, 0], [-0.5, 0.25, 8]])
    np.testing.assert_array_equal(first.origin, [-1, -2, -3])
    np.testing.assert_array_equal(first.ids, [1, 3, 4])
    np.testing.assert_array_equal(first.types, [2, 3, 1])
    np.testing.assert_allclose(
        first.positions, [[0.5, 0.5, 0.5], [2.0, 6.0, 4.5], [5.0, 1.0, -2.5]]
    )

    frames = read_dump(tmp_path / "dump.txt")
    for step, frame in zip([server.steps[0], server.steps[2]], frames, strict=True):
        np.testing.assert_array_equal(step.ids, frame[:, 0])
        np.testing.assert_array_equal(step.types, frame[:, 1])
        np.testing.assert_array_equal(step.positions, frame[:, 2:5])
        np.testing.assert_allclose(
            frame[:, 8:], np.sin(step.positions * step.ids[:, None]), rtol=1e-14
        )
        assert step.velocities is not None
        assert np.abs(step.velocities).max() > 0
    # At the set-up the velocities are those of the dump, later they are half a step behind.
    np.testing.assert_array_equal(server.steps[0].velocities, frames[0][:, 5:8])


def read_dump(file: Path) -> list[np.ndarray]:
    frames = file.read_text().split("ITEM: TIMESTEP\n")[1:]
    return [
        np.array([line.split() for line in frame.splitlines()[8:]], dtype=float) for frame in frames
    ]


def test_any_number_of_ranks_gives_the_same_motion(server: FakeServer, tmp_path: Path) -> None:
    def waves(step: Step) -> bytes:
        turns = (step.positions - step.origin) / np.diag(step.cell)
        return forces_message(
            step.step, 0.5 * np.sin(2 * np.pi * (step.ids[:, None] % 3 + 1) * turns)
        )

    server.answer = waves
    script = (
        crystal(3, temperature=300)
        + NO_PAIR
        + EXTERNAL
        + forcenet(server)
        + "fix 1 all nve\ntimestep 0.01\nneigh_modify delay 0 every 1 check yes\n"
        + "thermo_style custom step ke\nthermo_modify format float %.15g\nthermo 10\nrun 50"
    )
    thermo = []
    for ranks in (1, 3):
        server.steps.clear()
        done = run(script, tmp_path, ranks)
        assert done.returncode == 0, done.output
        assert len(server.steps) == 51
        assert all(np.array_equal(step.ids, np.arange(1, 109)) for step in server.steps)
        thermo.append(done.thermo()[0])
    np.testing.assert_allclose(thermo[1], thermo[0], rtol=1e-9)


def test_velocities_are_sent_only_when_asked_for(server: FakeServer, tmp_path: Path) -> None:
    script = crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + "fix 1 all nve\nrun 1"
    assert run(script, tmp_path).returncode == 0
    assert all(step.velocities is None for step in server.steps)


HELD = {
    "free": ("fix 1 all nve\nrun 1", "no"),
    "no integrator": ("run 0", "no"),
    "setforce": ("fix 1 all nve\nfix 2 wall setforce 0 NULL NULL\nrun 1", "yes"),
    "move": ("fix 1 mobile nve\nfix 2 wall move linear 0 0 0.1\nrun 1", "yes"),
    "not integrated": ("fix 1 mobile nve\nrun 1", "yes"),
    "two integrators": ("fix 1 mobile nve\nfix 2 wall nvt temp 40 40 1\nrun 1", "no"),
    "minimise": ("min_style fire\nminimize 0 1e-6 3 3", "no"),
    "minimise held": ("fix 2 wall setforce 0 0 0\nmin_style fire\nminimize 0 1e-6 3 3", "yes"),
}


@pytest.mark.parametrize(
    "name", cases(HELD, {"no integrator", "move", "minimise", "two integrators"})
)
def test_the_server_hears_whether_atoms_are_held(
    name: str, server: FakeServer, tmp_path: Path
) -> None:
    text, held = HELD[name]
    groups = "group wall id 1:8\ngroup mobile subtract all wall\n"
    script = crystal(2) + groups + NO_PAIR + EXTERNAL + forcenet(server) + text
    done = run(script, tmp_path)
    assert done.returncode == 0, done.output
    assert server.hellos[-1]["held"] == held


def test_kinds_of_call(server: FakeServer, tmp_path: Path) -> None:
    script = (
        crystal(2)
        + NO_PAIR
        + EXTERNAL
        + forcenet(server)
        + "min_style fire\nminimize 0 1e-30 3 3\nfix 1 all nve\nrun 2"
    )
    done = run(script, tmp_path)
    assert done.returncode == 0, done.output
    kinds = [step.kind for step in server.steps]
    assert kinds[0] == 0
    assert kinds[-3:] == [0, 1, 1]
    assert len(kinds) > 4
    assert set(kinds[1:-3]) == {2}


def test_a_group_feels_the_forces_and_all_atoms_are_sent(
    server: FakeServer, tmp_path: Path
) -> None:
    script = (
        crystal(2)
        + "group some id 3 5 7\n"
        + NO_PAIR
        + EXTERNAL.replace(" all ", " some ")
        + forcenet(server)
        + "fix 1 all nve\ndump 1 all custom 1 dump.txt id fx fy fz\ndump_modify 1 sort id\nrun 0"
    )
    done = run(script, tmp_path, ranks=2)
    assert done.returncode == 0, done.output
    assert server.hellos[-1]["group"] == "some"
    assert server.hellos[-1]["held"] == "yes"
    assert len(server.steps[0].ids) == 32
    frame = read_dump(tmp_path / "dump.txt")[0]
    pushed = frame[np.abs(frame[:, 1:]).max(axis=1) > 0, 0]
    np.testing.assert_array_equal(pushed, [3, 5, 7])


def test_masses_of_atoms_cannot_be_checked_and_this_is_said(
    server: FakeServer, tmp_path: Path
) -> None:
    script = (
        crystal(2).replace("atom_style atomic", "atom_style sphere").replace("mass *", "# mass *")
        + "set group all mass 39.948\n"
        + NO_PAIR
        + EXTERNAL
        + forcenet(server)
        + "fix 1 all nve\nrun 1"
    )
    done = run(script, tmp_path)
    assert done.returncode == 0, done.output
    assert server.hellos[-1]["masses"] == "none"
    assert done.output.count("masses of their own") == 1


def test_masses_that_come_after_the_command_are_sent_with_the_run(
    server: FakeServer, tmp_path: Path
) -> None:
    script = (
        crystal(2).replace("mass * 39.948", "").replace("velocity", "# velocity")
        + NO_PAIR
        + EXTERNAL
        + forcenet(server)
        + "mass 1 39.948\nfix 1 all nve\nrun 1"
    )
    done = run(script, tmp_path)
    assert done.returncode == 0, done.output
    assert [hello["masses"] for hello in server.hellos] == ["none", "39.948"]
