"""benchmarks/nvt: segments, what goes on after a stop, figures, and the page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from models import write_model

from benchmarks import segments
from benchmarks.nvt.__main__ import main
from benchmarks.nvt.figures import Bond, as_run, deviations, mean_and_error, pair_densities
from benchmarks.nvt.files import read_start
from benchmarks.nvt.model_run import run_model
from benchmarks.nvt.report import page
from benchmarks.segments import schedule
from forcenet_md.data.frames import write_frames
from forcenet_md.engines.processes import EngineRun, ProcessError
from forcenet_md.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
DUMP = """ITEM: TIMESTEP
{step}
ITEM: NUMBER OF ATOMS
1
ITEM: BOX BOUNDS pp pp pp
0 10
0 10
0 10
ITEM: ATOMS id element x y z vx vy vz
1 Cu {x} 0 0 1 0 0
"""


def copper(n: int = 2) -> Atoms:
    return bulk("Cu", cubic=True) * (n, n, n)


class FakeLammps:
    """Writes what the script asks for. Step s is at x = s / 1000; it fails at the given step."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.scripts: list[str] = []
        self.seeds: list[int] = []

    def run(
        self, script: Path, variables: Mapping[str, int], on_step: Callable[[int], None]
    ) -> EngineRun:
        text = script.read_text()
        self.scripts.append(text)
        self.seeds.append(variables["seed"])
        words = text.split()
        first = int(words[words.index("reset_timestep") + 1])
        dump = script.parent / words[words.index("custom", words.index("dump")) + 2]
        for step in range(first, first + variables["steps"] + 1, 100):
            if step == self.fails_at:
                raise ProcessError("LAMMPS stopped: ERROR: a force is not finite")
            with dump.open("a") as file:
                file.write(DUMP.format(step=step, x=step / 1000))
            on_step(step)
        (script.parent / words[words.index("write_data") + 1]).write_text("end")
        return EngineRun(variables["steps"], 1.0)


@pytest.fixture
def lammps(monkeypatch: pytest.MonkeyPatch) -> FakeLammps:
    @contextmanager
    def serving(*_: object) -> Iterator[None]:
        yield

    fake = FakeLammps()
    monkeypatch.setattr(segments, "serving", serving)
    monkeypatch.setattr(segments, "run_lammps", fake.run)
    return fake


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two that differ."""
    folder = tmp_path_factory.mktemp("models")
    for seed in range(2):
        write_model(folder / f"{seed}.pt", seed=seed)
    return [str(folder / f"{seed}.pt") for seed in range(2)]


@pytest.fixture
def model(models: list[str]) -> str:
    return models[0]


def steps_of(frames: list[Atoms]) -> list[int]:
    return [round(1000 * atoms.positions[0, 0]) for atoms in frames]


def test_segments_follow_one_another(lammps: FakeLammps, model: str, tmp_path: Path) -> None:
    plan = schedule(900.0, 0.8, 0.4, 0.002)
    assert (plan.segment, plan.segments) == (200, 2)
    run = run_model(tmp_path / "run", copper(), model, plan)
    assert run.stopped is None
    assert steps_of(run.frames) == [0, 100, 200, 300, 400]
    first, second = lammps.scripts
    assert "read_data start.data\n" in first
    assert "\nvelocity all create" in first
    assert "read_data segment-0000.data\n" in second
    assert "velocity" not in second
    assert lammps.seeds[0] != lammps.seeds[1]


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("timestep 0.002\n", ""),
        ("read_data start.data\n", "read_data other.data\n"),
        ("run ${steps}\n", "run ${steps}\ndump more all custom 9 start.dump id\n"),
    ],
)
def test_a_script_of_another_version_is_refused(
    lammps: FakeLammps, model: str, tmp_path: Path, line: str, instead: str
) -> None:
    plan = schedule(900.0, 0.2, 0.2, 0.002)
    run_model(tmp_path, copper(), model, plan)
    (tmp_path / "segment-0000.data").unlink()
    script = tmp_path / "start.in"
    text = script.read_text()
    assert line in text
    script.write_text(text.replace(line, instead))
    with pytest.raises(DataError, match=r"start\.in is not as this version prepares it .* --out"):
        run_model(tmp_path, copper(), model, plan)
    assert len(lammps.scripts) == 1


def test_a_run_is_made_longer_and_whole_segments_are_kept(
    lammps: FakeLammps, model: str, tmp_path: Path
) -> None:
    run_model(tmp_path / "run", copper(), model, schedule(900.0, 0.2, 0.2, 0.002))
    run = run_model(tmp_path / "run", copper(), model, schedule(900.0, 0.6, 0.2, 0.002))
    assert len(lammps.scripts) == 3
    assert steps_of(run.frames) == [0, 100, 200, 300]


def test_a_run_that_stops_says_when_and_is_tried_again(
    lammps: FakeLammps, model: str, tmp_path: Path
) -> None:
    plan = schedule(900.0, 1.2, 0.6, 0.002)
    lammps.fails_at = 500
    run = run_model(tmp_path / "run", copper(), model, plan)
    assert run.stopped == "after 0.800 ps: LAMMPS stopped: ERROR: a force is not finite"
    assert steps_of(run.frames) == [0, 100, 200, 300, 400]
    lammps.fails_at = None
    run = run_model(tmp_path / "run", copper(), model, plan)
    assert run.stopped is None
    assert len(lammps.scripts) == 3  # the first of two segments was kept
    assert steps_of(run.frames) == [0, 100, 200, 300, 400, 500, 600]


@pytest.mark.parametrize("changed", ["model", "structure", "temperature"])
def test_a_folder_of_another_run_is_refused(
    lammps: FakeLammps, models: list[str], tmp_path: Path, changed: str
) -> None:
    run_model(tmp_path / "run", copper(), models[0], schedule(900.0, 0.2, 0.2, 0.002))
    model = models[changed == "model"]
    start = copper(3) if changed == "structure" else copper()
    plan = schedule(800.0 if changed == "temperature" else 900.0, 0.2, 0.2, 0.002)
    with pytest.raises(DataError, match=f"made with another {changed} "):
        run_model(tmp_path / "run", start, model, plan)


def test_the_start_must_be_a_bulk_structure(tmp_path: Path) -> None:
    slab = copper()
    slab.pbc = (True, True, False)
    write_frames(tmp_path / "slab.extxyz", [slab])
    with pytest.raises(DataError, match="give a bulk structure"):
        read_start(tmp_path / "slab.extxyz")
    write_frames(tmp_path / "bulk.extxyz", [copper()])
    assert len(read_start(tmp_path / "bulk.extxyz", (1, 2, 3))) == 32 * 6


# Figures -----------------------------------------------------------------------------------------


def test_the_error_of_a_mean_is_that_of_blocks() -> None:
    values = np.random.default_rng(0).normal(300.0, 10.0, 4000)
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(300.0, abs=1.0)
    assert error == pytest.approx(10.0 / np.sqrt(4000), rel=0.6)
    # the same numbers, each ten times: no better known
    assert mean_and_error(np.repeat(values, 10))[1] == pytest.approx(error)
    assert mean_and_error(values[:19])[1] is None


def test_cells_of_two_sizes_have_the_same_pair_densities() -> None:
    one, other = pair_densities([copper(2)]), pair_densities([copper(4)])
    assert deviations(one, other)["Cu-Cu"] < 1e-9


def test_neighbours_are_counted_by_element_and_in_time() -> None:
    """CO2 molecules, of which one loses an O, another way than through g(r)."""
    whole = molecule("CO2", vacuum=4.0, pbc=True) * (2, 1, 1)
    broken = whole.copy()
    broken.positions[1] += (1.5, 0.0, 0.0)  # an O
    bond = Bond.parse("C-O:1.6")
    assert bond == Bond("C", "O", 1.6)
    found = bond.figures([whole] * 15 + [broken] * 5)
    assert found["shares"] == {"1": pytest.approx(5 / 40), "2": pytest.approx(35 / 40)}
    assert found["unusual"] == [0.0] * 7 + [0.5] + [1.0] * 2
    assert Bond.parse("O-C:1.6").counts([whole]).tolist() == [[1, 1, 1, 1]]


def test_the_beginning_is_left_out() -> None:
    frames = [copper()] * 101
    assert as_run(frames, 1.0).first == 10
    assert as_run(frames, 0.05).first == 20  # at least 1 ps
    assert as_run(frames, 0.01).first == 50  # at most half


RESULT = {
    "name": "m", "model_sha256": "0" * 64, "teacher": None, "temperature": 300.0,
    "timestep_fs": 2.0, "damping_ps": 0.1, "asked_ps": 100.0, "stopped": None,
    "start": "Cu500, 500 atoms", "n_atoms": 500, "ps": 100.0, "averaged_from_ps": 10.0,
    "n_frames": 450, "temperatures": {"Cu": (301.0, 0.5), "Au": (307.0, None)}, "nearest": 2.1,
    "g_noise": {"Cu-Cu": 0.01}, "path": None, "test": None, "ratio": None, "reference": None,
    "r_max": 6.0, "hardware": "a processor", "bonds": {},
}  # fmt: skip
FIVE = {"S within 2.6 Å of P": {"shares": {"4": 0.9, "5": 0.1}, "unusual": [0.0, 0.5]}}
PATH = {"force_mae": 0.04, "mean_abs_force": 0.5, "relative": 0.08, "n_frames": 25}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "Au is not within 2% of the thermostat's"),
        ({"temperatures": {"Cu": (301.0, 0.5)}}, "All are within 2% of the thermostat's"),
        ({"n_atoms": 499}, "499 atoms are too few"),
        ({}, "It ran all of 100 ps."),
        ({"stopped": "after 3 ps: why."}, "It stopped after 3 ps: why."),
        ({}, "No teacher was given"),
        ({"path": PATH}, "no test error to compare with"),
        ({"path": PATH, "test": PATH, "ratio": 1.5}, "(at most 1.5 is wanted)"),
        ({"path": PATH, "test": PATH, "ratio": 1.6}, "(more than the 1.5 wanted)"),
        ({"bonds": FIVE}, "| | 4 | 5 |\n|---|---|---|\n| model | 90.00% | 10.00% |"),
        ({"bonds": FIVE}, "model, by tenths of the run: 0%, 50%."),
    ],
)
def test_the_page_says_what_was_found(change: dict[str, object], words: str) -> None:
    assert words in page(RESULT | change)


# Whole runs --------------------------------------------------------------------------------------


@pytest.fixture
def alloy(tmp_path: Path) -> Path:
    atoms = bulk("Cu", a=3.9, cubic=True) * (2, 2, 2)
    atoms.symbols[::2] = "Au"
    write_frames(tmp_path / "start.extxyz", [atoms])
    return tmp_path / "start.extxyz"


def words_of(start: Path, folder: Path, *more: str) -> list[str]:
    return [
        str(start), "--model", "alloy", "--temperature", "600", "--ps", "0.4", "--segment-ps",
        "0.2", "--out", str(folder / "out"), "--results", str(folder / "results"), *more,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
def test_a_killed_run_comes_to_the_same_trajectory(
    alloy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are relative, as from a shell."""
    monkeypatch.chdir(tmp_path)
    start, cut, whole = Path(alloy.name), tmp_path / "cut", tmp_path / "whole"
    command = [sys.executable, "-m", "benchmarks.nvt", *words_of(start, Path("cut"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    running = cut / "out" / "model" / "segment-0001.dump.part"
    try:
        while not (running.is_file() and running.stat().st_size):
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = cut / "out" / "model" / "segment-0000.data"
    when = kept.stat().st_mtime_ns
    assert not kept.with_name("segment-0001.data").exists()

    assert main(words_of(start, Path("cut"))) == 0
    assert kept.stat().st_mtime_ns == when
    teacher = ["--teacher", "zhou2004", "--reference-ps", "1", "--labelled", "2"]
    assert main(words_of(start, Path("whole"), *teacher)) == 0
    for k in range(2):
        name = f"out/model/segment-{k:04d}.dump"
        assert (cut / name).read_text() == (whole / name).read_text()
    check_results(cut / "results", teacher=False)
    check_results(whole / "results", teacher=True)


def check_results(folder: Path, teacher: bool) -> None:
    result = json.loads((folder / "nvt-alloy.json").read_text())
    assert result["stopped"] is None
    assert result["ps"] == pytest.approx(0.4)
    assert result["temperatures"].keys() == {"Au", "Cu"}
    assert 1.8 < result["nearest"] < 2.8
    for ending in ("-pairs.png", "-temperatures.png"):
        assert (folder / f"nvt-alloy{ending}").read_bytes().startswith(b"\x89PNG")
    text = (folder / "nvt-alloy.md").read_text()
    assert "It ran all of 0.4 ps." in text
    if teacher:
        assert result["reference"]["ps"] == pytest.approx(1.0)
        assert result["reference"]["g"].keys() == {"Au-Au", "Au-Cu", "Cu-Cu"}
        assert result["path"]["n_frames"] == 2
        assert 0.1 < result["ratio"] < 3.0
        assert "(2 frames labelled by zhou2004)" in text
    else:
        assert result["reference"] is None
        assert result["path"] is None


@pytest.mark.slow
def test_a_teacher_s_run_goes_on(tmp_path: Path) -> None:
    """Also to a greater length; what is there is not made again."""
    from benchmarks.nvt.teacher import run_teacher

    def run(name: str, ps: float) -> list[Atoms]:
        plan = schedule(500.0, ps, 1.0, 0.01, 10, seed=7)
        return run_teacher(tmp_path / name, copper(), "emt", ["Cu"], plan)

    run("cut", 1.0)
    first = tmp_path / "cut" / "segment-0000.extxyz"
    when = first.stat().st_mtime_ns
    cut, whole = run("cut", 2.0), run("whole", 2.0)
    assert first.stat().st_mtime_ns == when
    assert len(cut) == 20
    for a, b in zip(cut, whole, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
    kelvin = [a.get_kinetic_energy() / len(a) / (1.5 * units.kB) for a in cut[5:]]
    assert np.mean(kelvin) == pytest.approx(500.0, rel=0.15)
