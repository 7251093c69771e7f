"""Guards where i-PI moves the atoms: its dynamics is stopped with our sentence, its relaxations
are not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ipi_driven import Cheap, driven
from ipi_peer import GETFORCE, FakeIpi, own_name, posdata, socket_file
from serving import COMMAND, PATIENCE, copper

from forcenet_md.inference.interface import Kind
from forcenet_md.inference.watched import WatchedEvaluator
from forcenet_md.watching.guard_limits import Limits
from forcenet_md.watching.guards import Guards

INPUT = """
<simulation verbosity='low'>
  <output prefix='sim'>
    <trajectory filename='pos' stride='1' format='ase'> positions{{ase}} </trajectory>
  </output>
  <total_steps> 30 </total_steps>
  <prng> <seed> 1 </seed> </prng>
  <ffsocket name='f' mode='unix' pbc='False'>
    <address> {name} </address> <latency> 1e-4 </latency>
  </ffsocket>
  <system>
    <initialize nbeads='1'>
      <file mode='ase'> cu.extxyz </file>
      <velocities mode='thermal' units='kelvin'> 600 </velocities>
    </initialize>
    <forces> <force forcefield='f'/> </forces>
    {motion}
    <ensemble> <temperature units='kelvin'> 600 </temperature> </ensemble>
  </system>
</simulation>
"""
DYNAMICS = """
<motion mode='dynamics'>
  <dynamics mode='nvt'>
    <timestep units='femtosecond'> 2 </timestep>
    <thermostat mode='langevin'> <tau units='femtosecond'> 100 </tau> </thermostat>
  </dynamics>
</motion>
"""
RELAXATION = """
<motion mode='minimize'>
  <optimizer mode='damped_bfgs'>
    <tolerances> <energy> 1e-3 </energy> <force units='ev/ang'> 0.01 </force>
      <position units='angstrom'> 0.01 </position> </tolerances>
  </optimizer>
</motion>
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of i-PI's socket; the runs are in the current folder."""
    monkeypatch.chdir(tmp_path)
    name = own_name()
    yield name
    socket_file(name).unlink(missing_ok=True)


def ipi(text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`forcenet-md ipi` on EMT's copper."""
    Path("input.xml").write_text(text)
    return subprocess.run(
        [*COMMAND, "ipi", "input.xml", "--model", "ase:emt", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def largest(positions: np.ndarray) -> float:
    """eV/Å, of copper at these positions, by EMT alone."""
    atoms = ase.io.read("cu.extxyz")
    atoms.positions = positions
    atoms.calc = EMT()
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def test_dynamics_is_stopped_at_the_limit_and_the_frame_is_kept(name: str) -> None:
    (bulk("Cu", cubic=True) * 2).write("cu.extxyz")  # no force at the start
    text = INPUT.format(name=name, motion=DYNAMICS)
    done = ipi(text, "--guard", "force=never,0.5", "--guard-frames", "kept.extxyz")
    assert done.returncode == 1
    assert "eV/Å: the run has left what the model knows" in done.stderr
    assert f"(the frame is kept in {Path.cwd()}/kept.extxyz)" in done.stderr
    path = ase.io.read("sim.pos_0.extxyz", ":", format="extxyz")
    assert f"Its RESTART is of step {len(path) - 1} of 30" in done.stdout
    forces = [largest(frame.positions) for frame in path]
    [kept] = ase.io.read("kept.extxyz", ":")
    assert forces[0] < 1e-6 < max(forces) < 0.5 < kept.info["seen"]
    assert largest(kept.positions) == pytest.approx(kept.info["seen"], rel=1e-6)
    moved = np.abs(kept.positions - path[-1].positions).max()
    assert 0.0 < moved < 3 * np.abs(path[-1].positions - path[-2].positions).max()


@pytest.mark.slow
def test_a_relaxation_is_warned_and_not_stopped(name: str) -> None:
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.1, seed=1)
    atoms.write("cu.extxyz")
    text = INPUT.format(name=name, motion=RELAXATION)
    limits = ["--guard", "force=1e-3,2e-3", "--guard-frames", "kept.extxyz"]
    done = ipi(text, *limits)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "guard: step 1: the force on atom " in done.stdout
    end = ase.io.read("sim.pos_0.extxyz", "-1", format="extxyz")
    assert largest(atoms.positions) > 1.0 > 0.1 > largest(end.positions) > 2e-3
    kept = ase.io.read("kept.extxyz", 0)
    np.testing.assert_allclose(kept.positions, atoms.positions, atol=1e-6)


@pytest.mark.parametrize(("kind", "changes", "stops"), [
    (Kind.UNKNOWN, ["force=1,2"], True),
    (Kind.UNKNOWN, ["force=1,2", "warn"], False),
    (Kind.MINIMISE, ["force=1,2"], False),
])  # fmt: skip
def test_a_server_that_is_not_told_takes_it_for_a_run(
    kind: Kind, changes: list[str], stops: bool
) -> None:
    cheap = Cheap()
    atoms = copper()
    atoms.positions[2] += 5.0  # the force of its springs
    guards = Guards(Limits().changed(changes), None, lambda _: None)
    evaluator = WatchedEvaluator(cheap, [guards])
    with FakeIpi() as peer, driven(peer.address, atoms, evaluator, kind=kind) as mine:
        wire = peer.accept().begin()
        if stops:
            wire.say(posdata(atoms), GETFORCE)
            mine.fails(wire, "--guard force=off; of a relaxation, --guard warn stops nothing.")
        else:
            np.testing.assert_allclose(wire.ask(atoms).forces, -atoms.positions, rtol=1e-9)
            wire.drop()
            assert mine.ends() == ""
