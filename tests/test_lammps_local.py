"""`mpirun -n R forcenet-md lammps`: the model on every rank, with LAMMPS's own decomposition."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from in_process_runs import NOWHERE, nothing_left, run, succeed
from lammps_runs import cases, quick_run
from local_scripts import CASES, frames, making, script
from ranks_runs import MISBEHAVING
from serving import in_thread

from forcenet_md.inference.load import load_evaluator

pytestmark = pytest.mark.usefixtures("plugin")
SLOW = pytest.mark.slow
QUIET = ["-log", "none", "-screen", "none"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the atoms of all cases."""
    folder = tmp_path_factory.mktemp("data")
    made = quick_run(making(), folder)
    assert made.returncode == 0, made.output
    return folder


@pytest.mark.parametrize(
    ("ranks", "names"),
    [
        (2, ("thin", "empty_ranks", "shear")),
        pytest.param(2, tuple(CASES), marks=SLOW),
        pytest.param(3, tuple(CASES)[::2], marks=SLOW),
        pytest.param(4, tuple(CASES), marks=SLOW),
    ],
)
def test_forces_are_those_of_one_rank(
    ranks: int, names: tuple[str, ...], small_model: Path, data: Path, tmp_path: Path
) -> None:
    """Bulk, thin, tilted, open and empty boxes, balancing, deformation, lost and deleted atoms."""
    for folder in ("one", "many"):
        (tmp_path / folder).mkdir()
    evaluator = load_evaluator(str(small_model), dtype="float64")
    with in_thread(tmp_path / "s", evaluator) as (_, address):
        served = quick_run(script(data, names).replace(NOWHERE, address), tmp_path / "one")
    assert served.returncode == 0, served.output
    options = ["--dtype", "float64", *QUIET]
    succeed(script(data, names), tmp_path / "many", ranks, options, str(small_model))
    for name in names:
        one, many = frames(tmp_path / "one", name), frames(tmp_path / "many", name)
        assert len(one) == len(many) >= 2, name
        for k, (a, b) in enumerate(zip(one, many, strict=True)):
            assert np.array_equal(a[:, 0], b[:, 0]), (name, k)
            largest = np.abs(a[:, 4:]).max()
            # of the same positions to 1e-10; later ones differ by what rounding has become
            worst = 1e-10 if k == 0 else 1e-7
            assert np.abs(a[:, 4:] - b[:, 4:]).max() < worst * largest, (name, k)
        assert np.abs(one[0][:, 4:]).max() > 0.0


@pytest.mark.slow
def test_deep_ghosts_and_rows_in_float32(small_model: Path, data: Path, tmp_path: Path) -> None:
    """The way without an exchange, and single precision: the forces of one rank."""
    found = []
    for folder, ranks, options in (
        ("one", 1, ["--dtype", "float64"]),
        ("deep", 2, ["--dtype", "float64", "--ghosts", "deep"]),
        ("single", 2, []),
        ("half", 2, ["--wire", "bfloat16"]),
    ):
        (tmp_path / folder).mkdir()
        text = script(data, ("bulk", "thin", "tilted")).replace("run 150", "run 25")
        succeed(text, tmp_path / folder, ranks, [*options, *QUIET], str(small_model))
        names = ("bulk", "thin", "tilted")
        found.append([frames(tmp_path / folder, name)[0][:, 4:] for name in names])
    one = found[0]
    for forces, most in zip(found[1:], (1e-10, 1e-5, 1e-2), strict=True):
        for a, b in zip(one, forces, strict=True):
            assert np.abs(a - b).max() < most * np.abs(a).max()
    assert any(
        np.abs(a - b).max() > 1e-10 * np.abs(a).max() for a, b in zip(one, found[2], strict=True)
    )


SIMPLE = """
units metal
{before}
lattice fcc 3.9
region box block 0 3 0 3 0 3
create_box 2 box
create_atoms 1 box
{more}
mass 1 63.546
mass 2 195.084
velocity all create 300 4711 loop geom
pair_style zero 5.0
pair_coeff * *
fix ext all external pf/callback 1 1
forcenet ext unix:/nowhere/s elements Cu Pt
fix 1 all nve
timestep 0.002
run 10
"""
FAULTS = {
    "overlap": ("", "create_atoms 1 single 1 1 1\n", [], "lie on one point"),
    "element": ("elements Cu Pt", "elements Cu W", [], "does not know W"),
    "modes": (
        "units metal",
        "units metal\nneighbor 2.0 multi\ncomm_modify mode multi",
        [],
        "comm_modify mode single",
    ),
    "stress of atoms": (
        "run 10",
        "compute s all stress/atom NULL\nrun 10",
        [],
        "compute s (stress/atom) needs each atom's virial, but the model gives no virial",
    ),
    "rarely": (
        "run 10",
        "neigh_modify every 50 check no\nvelocity all scale 90000\nrun 50",
        [],
        "more than half its skin of 2 Å: give 'neigh_modify delay 0",
    ),
    "size": ("", "", ["--max-atoms", "20"], "108 atoms are more than this server takes (40)"),
    # LAMMPS's own fault, which one rank alone finds
    "far": (
        "run 10",
        "variable far atom 10*1e308\nset atom 50 z v_far\nrun 10",
        [],
        "Non-numeric atom coords",
    ),
}


@SLOW
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_stops_every_rank(name: str, small_model: Path, tmp_path: Path) -> None:
    old, new, options, sentence = FAULTS[name]
    text = SIMPLE.format(before="", more=new if not old else "")
    text = text.replace(old, new) if old else text
    done = run(text, tmp_path, 2, [*options, "-log", "none"], str(small_model))
    assert done.returncode == 1
    assert sentence in done.output
    assert "Traceback" not in done.errors
    assert done.sentence.startswith("LAMMPS stopped: ")
    assert nothing_left(tmp_path)


DEEDS = {
    "nan": ("forces[0] = float('nan')", "on rank 1: the model gives a force that is not finite"),
    "memory": ("raise torch.OutOfMemoryError('cannot allocate')", "not enough memory for"),
    "bug": ("raise ZeroDivisionError('the model')", "ZeroDivisionError: the model"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", ""),
}


@pytest.mark.parametrize("name", cases(DEEDS, DEEDS.keys() - {"nan"}))
def test_one_rank_s_fault_ends_all(name: str, small_model: Path, tmp_path: Path) -> None:
    deed, sentence = DEEDS[name]
    text = SIMPLE.format(before="", more="")
    driver = MISBEHAVING.format(deed=deed)
    options = ["--guard", "warn", "--guard-frames", "kept.extxyz", "-log", "none"]
    done = run(text, tmp_path, 2, options, str(small_model), driver=driver)
    assert done.returncode != 0
    assert sentence in done.output + done.errors
    assert "Loop time" not in done.output
    assert nothing_left(tmp_path)
    if name == "nan":
        assert f"starting structure (the frame is kept in {tmp_path}/kept.extxyz)" in done.sentence
        last = ase.io.read(tmp_path / "kept.extxyz", -1)
        assert (last.info["guard"], len(last)) == ("finite", 108)


@SLOW
def test_the_log_tells_of_the_ranks(small_model: Path, tmp_path: Path) -> None:
    options = ["--log-file", "model.log", "-log", "none"]
    done = succeed(SIMPLE.format(before="", more=""), tmp_path, 2, options, str(small_model))
    assert "forces come from the model m on every rank; the address" in done.output
    assert "neighbour pairs; the most of a rank are 1.0" in done.output
    lines = (tmp_path / "model.log").read_text().splitlines()
    assert "108 atoms of Cu Pt on 2 ranks" in lines[0]
    assert any("neighbour pairs; the most of a rank are 1.0" in line for line in lines)
    assert "LAMMPS had a net force of at most" in lines[-2]
    assert lines[-1].endswith(" 11 steps")
