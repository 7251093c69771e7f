"""A whole distillation, killed wherever it is and gone on with by the same command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read
from serving import PATIENCE

from forcenet_md import ForceNetCalculator
from forcenet_md.artifact.export import read_card
from forcenet_md.data.compiling import sha256
from forcenet_md.data.frames import forces_of, write_frames
from forcenet_md.data.visiting import Visit, follow
from forcenet_md.distill.explore_job import main as explore_some
from forcenet_md.distill.files import Files, read_some
from forcenet_md.distill.plan import PATHS, Plan, Run, plan_runs
from forcenet_md.distill.settings import Settings
from forcenet_md.distill.visit import nearest_pair
from forcenet_md.distill.visit_job import main as visit_some

BUDGET = 60.0  # s


def command(
    *more: str, teacher: str = "emt", budget: float = BUDGET, steps: int = 400
) -> list[str]:
    words = f"cu.extxyz --teacher {teacher} --temperature 300-900 --budget {budget}s --out out"
    words += " --config tiny --atoms 4 --timestep 4 --floor"
    words += f" model.hidden=16 model.cutoff=4.5 model.n_radial=4 training.steps={steps}"
    return [sys.executable, "-m", "forcenet_md", "distill", *words.split(), *more]


def killed_when(
    folder: Path, there: Callable[[], bool], number: int, words: list[str] | None = None
) -> str:
    """Run until something is there, then send a signal and wait until all that it started is
    gone; what the command said."""
    return ended_when(folder, there, lambda process: process.send_signal(number), words)[1]


def ended_when(
    folder: Path,
    there: Callable[[], bool],
    end: Callable[[subprocess.Popen[bytes]], None],
    words: list[str] | None = None,
) -> tuple[int, str]:
    """The same with whatever ends it; its exit code, and what the command said."""
    path = folder / "said.txt"
    with path.open("w") as said:
        process = subprocess.Popen(words or command(), cwd=folder, stderr=said)
    try:
        begun = time.monotonic()
        while not there():
            assert process.poll() is None, path.read_text()
            assert time.monotonic() < begun + 5 * PATIENCE, path.read_text()
            time.sleep(0.02)
        end(process)
        code = process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
    begun = time.monotonic()
    while running := programs_in(folder):
        assert time.monotonic() < begun + PATIENCE, running
        time.sleep(0.1)
    return code, path.read_text()


def whole(folder: Path, words: list[str] | None = None) -> str:
    done = subprocess.run(
        words or command(), cwd=folder, capture_output=True, text=True, timeout=5 * PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def planned(folder: Path, words: list[str], n_runs: int, steps: int, **changes: Any) -> None:
    """The plan for this command as if the teacher had been timed, so that there is as much to do
    on a slow machine as on a fast one."""
    start = bulk("Cu", cubic=True)
    write_frames(folder / "cu.extxyz", [start])
    asked = {
        "structure": "cu.extxyz", "structure_sha256": sha256(folder / "cu.extxyz"),
        "teacher": "emt", "elements": ["Cu"], "low": 300.0, "high": 900.0, "budget": BUDGET,
        "timestep": 4.0, "atoms": 4, "base": "tiny", "floor": True,
        "overrides": [word for word in words if "=" in word],
    }  # fmt: skip
    plan = Plan(
        seconds_per_call=0.01, runs=plan_runs(300.0, 900.0, n_runs, seed=1), steps=steps,
        spacing=10, timestep=4.0, n_off_path=2 * n_runs, per_path=10,
    )  # fmt: skip
    files = Files(folder / "out")
    files.folder.mkdir()
    Settings.model_validate({**asked, **changes}).write(files.folder)
    write_frames(files.start, [start])
    plan.write(files.folder)


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.extxyz")}


@pytest.mark.slow
def test_a_distillation_is_killed_and_goes_on_and_ends_with_a_model(tmp_path: Path) -> None:
    planned(tmp_path, command(), n_runs=10, steps=200)
    out = tmp_path / "out"
    files = Files(out)

    killed_when(tmp_path, (out / "explore" / "md-3.extxyz").is_file, signal.SIGKILL)
    explored = written(out / "explore")
    assert 4 <= len(explored) < 10
    said = killed_when(tmp_path, files.round(0).training(1).is_dir, signal.SIGINT)
    assert "the same command goes on" in said
    assert written(out / "explore").items() >= explored.items()
    first = files.round(0).model(0)
    trained = first.stat().st_mtime_ns
    labelled = written(out / "explore")
    said = whole(tmp_path)
    assert written(out / "explore") == labelled  # nothing is labelled anew
    assert first.stat().st_mtime_ns == trained
    assert "teacher's trajectories" not in said

    plan = Plan.read(out)
    held_out = {run.name for run in plan.runs if run.held_out}
    assert {atoms.info["trajectory"] for atoms in read(files.test, ":")} == held_out
    visited = read(files.round(0).labelled, ":")
    assert len(visited) >= 4 * PATHS
    assert {"even", "doubtful"} <= {atoms.info["why"] for atoms in visited}
    assert {atoms.info["teacher"] for atoms in visited} == {"emt"}

    figures = [json.loads(one.figures.read_text()) for one in files.rounds()]
    card = read_card(files.model)
    assert card.pair_floor
    assert "Weights of the last step" in card.notes
    assert "emt (ase" in card.training_data.description
    assert card.test_errors["path"]["ratio"] in [round(one["ratio"], 3) for one in figures]
    assert ("criterion holds" in card.notes) != ("fell short" in card.notes)
    assert "criterion holds" in said or "fell short" in said
    assert card.test_errors["relative"] < 0.3
    page = files.report.read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "http:" not in page
    assert "https:" not in page

    evaluated = subprocess.run(
        [
            sys.executable,
            "-m",
            "forcenet_md",
            "evaluate",
            "--model",
            "m.pt",
            "--json",
            "test.extxyz",
        ],
        cwd=out,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    mae = json.loads(evaluated.stdout)["all"]["mae"]
    assert mae == pytest.approx(card.test_errors["force_mae"], rel=0.02)
    assert_runs_nvt(files.model, bulk("Cu", cubic=True) * (2, 2, 2))

    labelled = written(out)
    said = whole(tmp_path)  # nothing to do
    assert written(out) == labelled
    assert "round" not in said


GATED = """
import time, zlib
from pathlib import Path
from ase.calculators.emt import EMT

HERE = Path(__file__).parent

class Gated(EMT):
    \"\"\"Notes which frames of rounds it is given; the fourth waits where there is a gate.\"\"\"

    def calculate(self, atoms, *rest):
        super().calculate(atoms, *rest)
        if not (HERE / "out" / "round-0" / "visited.extxyz").exists():
            return
        asked = HERE / "asked.txt"
        with asked.open("a") as file:
            file.write(f"{zlib.crc32(atoms.positions.tobytes())}\\n")
        while (HERE / "gate").exists() and len(asked.read_text().split()) > 3:
            time.sleep(0.05)
"""


@pytest.mark.slow
def test_a_distillation_killed_in_its_own_dynamics_and_its_labels_does_no_work_twice(
    tmp_path: Path,
) -> None:
    (tmp_path / "gated.py").write_text(GATED)
    out = tmp_path / "out"
    this = Files(out).round(0)
    words = command("--members", "1", "--error", "1", teacher="gated:Gated", budget=1, steps=50)
    planned(tmp_path, words, n_runs=5, steps=50, teacher="gated:Gated", members=1)

    killed_when(tmp_path, this.path(1).is_file, signal.SIGKILL, words)
    assert not this.path(5).is_file()
    before = contents(out)
    assert {"test.extxyz", "watched.extxyz", "member-0.pt", "path-0.extxyz"} <= names(before)

    (tmp_path / "gate").touch()
    part = this.folder / "visited-labelled.extxyz.part"
    asked = tmp_path / "asked.txt"
    killed_when(
        tmp_path, lambda: asked.is_file() and len(asked.read_text().split()) > 3,
        signal.SIGKILL, words,
    )  # fmt: skip
    (tmp_path / "gate").unlink()
    assert part.read_text().count('"frame": ') == 3
    assert contents(out).items() >= before.items()
    before = contents(out)
    assert {"visited.extxyz", "path-5.extxyz"} <= names(before)

    said = whole(tmp_path, words)
    assert contents(out).items() >= before.items()
    assert "round 0: training" not in said
    n_watched = len(read(Files(out).watched, ":"))
    trained = (this.folder / "member-0.log").read_text()
    assert f" training and {n_watched} validation frames" in trained
    visited, labelled = read(this.visited, ":"), read(this.labelled, ":")
    assert [len(visited), len(visited)] == [len(labelled), (this.result() or {})["labelled"]]
    for one, other in zip(visited, labelled, strict=True):
        assert one.positions == pytest.approx(other.positions, abs=1e-9)
    # One frame alone was asked about twice: that of the kill.
    times = Counter(asked.read_text().split())
    assert len(times) == len(visited)
    assert sorted(times.values(), reverse=True)[:2] == [2, 1]

    # A path of the second sitting is what the first would have made.
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    again = Files(copy).round(0).path(5)
    again.unlink()
    visit_some(copy, 0, [5])
    assert again.read_bytes() == this.path(5).read_bytes()


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """What is whole: frames and models, and when they were written."""
    found = [*folder.rglob("*.extxyz"), *folder.glob("round-*/*.pt")]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def names(found: dict[Path, tuple[bytes, int]]) -> set[str]:
    return {path.name for path in found}


def assert_runs_nvt(model: Path, atoms: Atoms) -> None:
    calculator = ForceNetCalculator(str(model))
    frames = list(follow(atoms, calculator, Visit(300.0, time_ps=1.0, timestep_fs=4.0), seed=1))
    assert len(frames) == 5
    moved = frames[-1].positions - atoms.positions
    assert 0.01 < np.sqrt((moved**2).mean()) < 0.5
    assert min(nearest_pair(frame) for frame in frames) > 0.7


CRASHING = """
import os
from ase.calculators.emt import EMT

class Crashing(EMT):
    def calculate(self, *arguments):
        super().calculate(*arguments)
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 40:
            os._exit(3)
"""


@pytest.mark.slow
def test_a_teacher_that_crashes_ends_its_trajectory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    monkeypatch.chdir(tmp_path)
    start = bulk("Cu", cubic=True)
    asked = Settings(
        structure=Path("cu.extxyz"), structure_sha256="0", teacher="crashing:Crashing",
        low=300.0, high=300.0, budget=3600.0, timestep=4.0,
    )  # fmt: skip
    runs = tuple(Run(number=k, temperature=300.0, scale=1.0, shear=0.0, seed=k) for k in range(2))
    plan = Plan(
        seconds_per_call=0.01, runs=runs, steps=30, spacing=10, timestep=4.0, n_off_path=0,
        per_path=8,
    )  # fmt: skip
    asked.write(tmp_path)
    plan.write(tmp_path)
    files = Files(tmp_path)
    files.trajectory(runs[0]).parent.mkdir()
    write_frames(files.start, [start])
    explore_some(tmp_path, [0, 1])
    assert len(read_some(files.trajectory(runs[0]))) == 3
    assert len(read_some(files.trajectory(runs[1]))) < 3
    again = read_some(files.trajectory(runs[0]))[-1]
    labels = forces_of(again)
    again.calc = EMT()
    assert labels == pytest.approx(again.get_forces(), abs=1e-6)


@pytest.mark.slow
def test_no_program_outlives_a_distillation_that_is_killed(tmp_path: Path) -> None:
    write_frames(tmp_path / "cu.extxyz", [bulk("Cu", cubic=True)])
    log = tmp_path / "out" / "explore" / "log-0.txt"
    killed_when(tmp_path, log.is_file, signal.SIGKILL, command(budget=3600))


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["all", "the jobs"])
def test_ctrl_c_stops_whomever_it_reaches_first(tmp_path: Path, whom: str) -> None:
    """It stops, and has not failed; nor is what was on its way taken for a trajectory."""
    words = command(budget=3600)
    planned(tmp_path, words, n_runs=10, steps=100_000, budget=3600.0)

    log = tmp_path / "out" / "explore" / "log-0.txt"

    def exploring() -> bool:
        if not log.is_file():  # the screening has a process of the teacher too
            return False
        return any("label_worker" in words for words in programs_in(tmp_path).values())

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        running = programs_in(tmp_path)
        teacher = [pid for pid, words in running.items() if "label_worker" in words]
        jobs = [pid for pid, words in running.items() if "explore_job" in words]
        assert jobs
        for pid in [*teacher, *jobs] if whom == "all" else jobs:
            os.kill(pid, signal.SIGINT)
        if whom == "all":
            process.send_signal(signal.SIGINT)

    code, said = ended_when(tmp_path, exploring, interrupt, words)
    assert said.splitlines()[-1] == "stopped: the same command goes on"
    assert "error" not in said
    assert code == 130
    assert not list((tmp_path / "out" / "explore").glob("md-*.extxyz"))
    assert "Traceback" not in log.read_text()


def programs_in(cwd: Path) -> dict[int, str]:
    """Those that run in a folder, by their id."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(cwd):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(entry.name)] = words
        except OSError:
            continue
    return found
