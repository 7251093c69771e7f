"""A program on the leash never outlives who holds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import PATIENCE

from forcenet_md.engines import leash

IMPATIENT = """
import runpy, signal, sys
leash = runpy.run_path(sys.argv[1], run_name="leash")
del sys.argv[1]
stages = leash["end_at_release"].__globals__
stages["STAGES"] = tuple((number, seconds and 0.2) for number, seconds in leash["STAGES"])
leash["main"]()
"""
SAY_AND_SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SAY_AND_SLEEP
SECOND = (
    "import signal, sys; count = []\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7) if count else count.append(1))\n"
    + SAY_AND_SLEEP
)


def command(*program: str) -> list[str]:
    return [sys.executable, "-I", "-S", leash.__file__, *program]


@contextmanager
def leashed(*program: str, impatient: bool = False) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The leash and the pid its program printed."""
    words: Sequence[str] = command(*program)
    if impatient:
        words = [sys.executable, "-c", IMPATIENT, leash.__file__, *program]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            if process.poll() is None:
                process.kill()


def ended(process: subprocess.Popen[str], pid: int) -> bool:
    """Whether the program is gone, once the leash is: nobody holds the other end of its output."""
    process.wait(PATIENCE)
    assert process.stdout is not None
    process.stdout.read()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:  # its files are closed a moment before it is gone
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("code", [0, 3])
def test_the_code_of_the_program_is_handed_on(code: int) -> None:
    words = command(sys.executable, "-c", f"import sys; sys.exit({code})")
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert process.wait(PATIENCE) == code


def test_letting_go_terminates_the_program() -> None:
    with leashed(sys.executable, "-c", SAY_AND_SLEEP) as (process, pid):
        assert process.stdin is not None
        process.stdin.close()
        assert ended(process, pid)
        assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("program", "code"), [(SECOND, 7), (STUBBORN, 128 + signal.SIGKILL)], ids=["second", "stubborn"]
)
def test_a_program_that_does_not_end_is_told_again_and_killed(program: str, code: int) -> None:
    with leashed(sys.executable, "-c", program, impatient=True) as (process, pid):
        assert process.stdin is not None
        process.stdin.close()
        assert ended(process, pid)
        assert process.returncode == code


def test_a_killed_leash_takes_the_program_along() -> None:
    with leashed(sys.executable, "-c", STUBBORN) as (process, pid):
        process.kill()
        assert ended(process, pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_to_the_leash_alone_do_nothing(number: int) -> None:
    with leashed(sys.executable, "-c", SAY_AND_SLEEP) as (process, pid):
        process.send_signal(number)
        os.kill(pid, signal.SIGUSR1)
        assert ended(process, pid)
        assert process.returncode == 128 + signal.SIGUSR1


def test_a_program_that_is_not_there_is_said() -> None:
    words = command("/nonexistent/program")
    found = subprocess.run(
        words, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=PATIENCE
    )
    assert found.returncode == 127
    assert "/nonexistent/program cannot be started: No such file" in found.stderr
