"""Guards on every route: LAMMPS stops with the sentence, and the frame is kept as LAMMPS has it."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from in_process_runs import run as run_in_process
from in_process_runs import succeed
from lammps_runs import quick_run
from models import write_model
from mpi_launches import launch, server
from serving import ServeProcess

from forcenet_md import ForceNetCalculator
from forcenet_md.cli.main import build_app
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.system import Forces, System

pytestmark = pytest.mark.usefixtures("plugin")
SLOW = pytest.mark.slow

CRYSTAL = """
units metal
atom_modify map array
lattice fcc 3.9
region box block 0 3 0 3 0 3
create_box 2 box
create_atoms 1 box
set group all type/fraction 2 0.5 11
mass 1 63.546
mass 2 195.084
displace_atoms all random 0.1 0.1 0.1 5
velocity all create 300 4711 loop geom
pair_style zero 5.0
pair_coeff * *
fix ext all external pf/callback 1 1
forcenet ext {address} elements Cu Pt
fix 1 all nve
dump d all custom 1 dump.txt id type x y z
dump_modify d sort id format float %.10g
{more}
"""
BALL = "region ball sphere 1.5 1.5 1.5 1.3\ncreate_atoms 1 region ball"
NO_OTHERS = ["--guard", "force=off", "--guard", "distance=off", "--guard", "net=off"]
STOPS = ["--guard", "force=1e-9,1e-8", "--guard-frames", "kept.extxyz"]
SENTENCE = " eV/Å: the run has left what the model knows (the frame is kept in "


def kept_frames_are_lammps_own(folder: Path) -> None:
    """Of the set-up, which is not stopped, and of the first step, which is."""
    first, last = ase.io.read(folder / "kept.extxyz", index=":")
    assert [first.info["step"], last.info["step"]] == [0, 1]
    assert {first.info["guard"], last.info["guard"]} == {"force"}
    lines = (folder / "dump.txt").read_text().splitlines()
    table = np.array([line.split() for line in lines[9 : 9 + len(first)]], dtype=float)
    assert len(first) == len(last) == 108
    assert (first.numbers == np.where(table[:, 1] == 1, 29, 78)).all()
    np.testing.assert_allclose(first.cell.array, 11.7 * np.eye(3), atol=1e-9)
    moved = first.positions - table[:, 2:]
    assert np.abs(moved - np.rint(moved / 11.7) * 11.7).max() < 1e-6
    assert 0.0 < np.abs(last.positions - first.positions).max() < 0.05


@SLOW
@pytest.mark.parametrize("ranks", [1, 2])
def test_in_process(ranks: int, small_model: Path, tmp_path: Path) -> None:
    text = CRYSTAL.format(address="unix:/nowhere/s", more="run 5")
    done = run_in_process(text, tmp_path, ranks, [*STOPS, "-log", "none"], str(small_model))
    assert done.returncode == 1
    assert SENTENCE in done.sentence
    assert "guard: step 0: the force on atom " in done.errors
    kept_frames_are_lammps_own(tmp_path)


@SLOW
def test_a_committee_that_falls_apart_stops_lammps_and_is_labelled(
    small_model: Path, tmp_path: Path
) -> None:
    """By ASE's spread of the frame that is kept, which a teacher then takes."""
    second = tmp_path / "second.pt"
    write_model(second, seed=2)
    committee = ["--committee", str(second), "--guard", "force=off", "-log", "none"]
    stops = ["--guard", "spread=1e-9,1e-8", "--guard-frames", "kept.extxyz"]
    text = CRYSTAL.format(address="unix:/nowhere/s", more="run 5")
    done = run_in_process(text, tmp_path, 1, [*stops, *committee], str(small_model))
    assert done.returncode == 1
    frame = ase.io.read(tmp_path / "kept.extxyz", index=-1)
    frame.calc = ForceNetCalculator(str(small_model), committee=[str(second)])
    frame.get_forces()
    spread = frame.calc.results["force_spread"]
    atom = f"atom {spread.argmax() + 1} ({frame.symbols[spread.argmax()]})"
    assert f"the committee is {spread.max():.3g} eV/Å apart on {atom}: the run" in done.sentence
    label = ["label", str(tmp_path / "kept.extxyz"), "--teacher", "emt", "--no-screen"]
    build_app()([*label, "--out", str(tmp_path / "labelled.extxyz")], standalone_mode=False)
    labelled = ase.io.read(tmp_path / "labelled.extxyz", index=":")
    assert len(labelled) == 2
    for atoms in labelled:
        forces = atoms.get_forces()
        atoms.calc = EMT()
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-6)


@SLOW
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_torque_of_a_molecule(ranks: int, small_model: Path, tmp_path: Path) -> None:
    """Warned of at set-up, and stopped at the next step; the log has that of what was
    answered."""
    text = CRYSTAL.format(address="unix:/nowhere/s", more="run 5")
    text = text.replace("units metal", "units metal\nboundary f f f")
    text = text.replace("0 3 0 3 0 3", "-1 4 -1 4 -1 4").replace("create_atoms 1 box", BALL)
    options = ["--guard", "torque=1e-9,1e-8", "--guard-frames", "kept.extxyz", *NO_OTHERS]
    options += ["--log-file", "log", "--dtype", "float64", "-log", "none"]
    done = run_in_process(text, tmp_path, ranks, options, str(small_model))
    assert done.returncode == 1
    evaluator = ModelEvaluator(small_model, dtype="float64")
    sizes = []
    for atoms in ase.io.read(tmp_path / "kept.extxyz", index=":"):
        assert not atoms.pbc.any()
        request = Request(evaluator.new_session(), System.from_ase(atoms))
        (answer,) = evaluator.evaluate([request])
        assert isinstance(answer, Forces)
        sizes.append(answer.torque_force)
        assert atoms.info["seen"] == pytest.approx(answer.torque_force, rel=1e-4)
    of_setup, of_step = sizes
    assert f"a torque with forces of {of_step:.3g} eV/Å per atom was taken out" in done.sentence
    assert f"guard: step 0: a torque with forces of {of_setup:.3g} " in done.errors
    log = (tmp_path / "log").read_text()
    assert f" had a torque with forces of at most {of_setup:.2g} eV/Å per atom\n" in log


@SLOW
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_minimiser_is_warned_and_not_stopped(
    ranks: int, small_model: Path, tmp_path: Path
) -> None:
    more = "unfix 1\nmin_style fire\nminimize 0 1e-3 3 30"
    text = CRYSTAL.format(address="unix:/nowhere/s", more=more)
    done = run_in_process(text, tmp_path, ranks, [*STOPS, "-log", "none"], str(small_model))
    assert done.returncode == 0, done.errors
    assert "guard: step 0: the force on atom " in done.errors
    assert len(ase.io.read(tmp_path / "kept.extxyz", index=":")) == 1


@SLOW
@pytest.mark.parametrize("ranks", [1, 2])
def test_off_is_off(ranks: int, small_model: Path, tmp_path: Path) -> None:
    text = CRYSTAL.format(address="unix:/nowhere/s", more="set atom 1 x 0.5 y 0 z 0\nrun 5")
    options = ["--guard", "off", "-log", "none"]
    succeed(text, tmp_path, ranks, options, str(small_model))
    assert not (tmp_path / "guard-frames.extxyz").exists()


def test_over_a_socket(small_model: Path, tmp_path: Path) -> None:
    options = ["--listen", f"unix:{tmp_path}/s", *STOPS[:2]]
    options += ["--guard-frames", f"{tmp_path}/kept.extxyz"]
    with ServeProcess(*options, model=str(small_model)) as process:
        text = CRYSTAL.format(address=f"unix:{tmp_path}/s", more="run 5")
        done = quick_run(text, tmp_path, ranks=2)
        assert done.returncode != 0
        assert SENTENCE in done.error
        kept_frames_are_lammps_own(tmp_path)
        assert "guard: step 0: the force on atom " in process.until("was told")


@SLOW
@pytest.mark.parametrize("kind", ["run", "minimise"])
def test_over_mpi(kind: str, small_model: Path, tmp_path: Path) -> None:
    more = "run 5" if kind == "run" else "unfix 1\nmin_style fire\nminimize 0 1e-3 3 30"
    with server(2, tmp_path, small_model, more=STOPS) as served:
        served.process.until("ready")
        text = CRYSTAL.format(address=served.address, more=more)
        with launch(text, tmp_path, 2) as lmp:
            output, _ = lmp.communicate(timeout=120)
        if kind == "minimise":
            assert lmp.returncode == 0, output
            return
        assert SENTENCE in output
    (tmp_path / "server" / "kept.extxyz").rename(tmp_path / "kept.extxyz")
    kept_frames_are_lammps_own(tmp_path)
