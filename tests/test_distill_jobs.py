"""The programs of a distillation: side by side, stopped or failed, and what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from serving import PATIENCE

from forcenet_md.data.workers import DONE, READY, Worker
from forcenet_md.distill import work as work_module
from forcenet_md.distill.clock import Clock
from forcenet_md.distill.files import Files
from forcenet_md.distill.jobs import Job, run_jobs
from forcenet_md.distill.settings import Settings
from forcenet_md.distill.work import Work
from forcenet_md.errors import DataError

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Modules that jobs can be."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(dedent(text))

    return write


def test_a_program_that_fails_is_named_with_its_last_words_and_ends_the_others(
    tmp_path: Path, write: Write
) -> None:
    ready, ended = tmp_path / "ready", tmp_path / "ended"
    write(
        "failing",
        """
        import pathlib, sys, time
        while not pathlib.Path(sys.argv[1]).exists():
            time.sleep(0.05)
        sys.exit('no such thing')
        """,
    )
    write(
        "waiting",
        """
        import pathlib, signal, sys, time
        def end(*_):
            pathlib.Path(sys.argv[1]).write_text('ended')
            sys.exit()
        signal.signal(signal.SIGTERM, end)
        pathlib.Path(sys.argv[2]).touch()
        time.sleep(60)
        """,
    )
    jobs = [
        Job("the one", "waiting", (str(ended), str(ready)), tmp_path / "log" / "a.txt"),
        Job("the other", "failing", (str(ready),), tmp_path / "log" / "b.txt"),
    ]
    with pytest.raises(DataError, match="the other failed: no such thing"):
        run_jobs(jobs, 2)
    assert ended.read_text() == "ended"


@pytest.mark.parametrize(
    ("end", "error", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGINT)", KeyboardInterrupt, None),
        ("sys.exit(130)", KeyboardInterrupt, None),  # `forcenet-md train`, with its checkpoint
        ("os.kill(os.getpid(), signal.SIGTERM)", SystemExit, 143),
        ("os.kill(os.getppid(), signal.SIGKILL)", DataError, None),  # memory ran out
    ],
)
def test_a_program_that_is_stopped_has_not_failed(
    tmp_path: Path, write: Write, end: str, error: type[BaseException], code: int | None
) -> None:
    write("stopped", f"import os, signal, sys, time\n{end}\ntime.sleep(60)\n")
    with pytest.raises(error) as raised:
        run_jobs([Job("it", "stopped", (), tmp_path / "log.txt")], 1)
    assert getattr(raised.value, "code", None) == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_program_leaves_its_blocks(write: Write, number: int) -> None:
    """The teacher's process and its folder of temporary files end with the block they are in."""
    write(
        "orderly",
        """
        import os, sys, time
        from forcenet_md.distill.jobs import as_job
        def main():
            try:
                os.kill(os.getpid(), int(sys.argv[1]))
                time.sleep(60)
            finally:
                print("left in order")
        as_job(main)
        """,
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-m", "orderly", str(int(number))]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "left in order\n", "")


def test_only_what_a_program_says_in_this_sitting_is_passed_on(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "SAY_EVERY", 0.0)
    write(
        "silent",
        """
        import pathlib, sys, time
        there = pathlib.Path(sys.argv[1])
        while not there.with_name("heard").exists():
            time.sleep(0.05)
        print("a new word", flush=True)
        while not there.with_name("told").exists():
            time.sleep(0.05)
        sys.exit("a fault")
        """,
    )
    (tmp_path / "log-0.txt").write_text("the work of yesterday\nKeyboardInterrupt\n")
    told: list[str] = []
    asked = Settings(
        structure=Path("cu.cif"), structure_sha256="0", teacher="emt", low=300.0, high=900.0,
        budget=3600.0, timestep=2.0,
    )  # fmt: skip
    clock = Clock(tmp_path / "clock.json", 3600.0)
    piece = tmp_path / "piece"

    def tick() -> None:
        """Let it go on when it has been looked at, and end it when it has been heard."""
        (tmp_path / ("told" if told else "heard")).touch()

    monkeypatch.setattr(clock, "tick", tick)
    work = Work(asked, Files(tmp_path), clock, os.open(os.devnull, os.O_RDONLY), told.append)
    try:
        with pytest.raises(DataError, match="the work failed: a fault"):
            work.share("the work", "silent", (str(piece),), {"0": piece})
    finally:
        os.close(work.lock)
    assert told
    assert {line.split("] ")[1] for line in told} == {"a new word"}


def test_ctrl_c_is_for_the_caller_of_a_labelling_process(tmp_path: Path) -> None:
    """It would else seem that the teacher failed on the frame."""
    from ase.build import bulk

    worker = Worker("emt", (), tmp_path, 0)
    try:
        os.kill(worker.process.pid, signal.SIGINT)
        assert worker.answer()[0] == READY
        os.kill(worker.process.pid, signal.SIGINT)
        worker.give(0, bulk("Cu", cubic=True))
        assert worker.answer()[0] == DONE
    finally:
        worker.kill()
