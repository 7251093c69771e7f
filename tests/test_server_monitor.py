"""What the server says, in a log and in a terminal; and that saying it can never stop it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from serving import COMMAND, LJ, PATIENCE, ask, copper

from forcenet_md.errors import EvaluationError
from forcenet_md.server.client import Client
from forcenet_md.server.monitor import Lines, Monitor
from forcenet_md.system import Forces


@pytest.fixture
def clock(monkeypatch):
    time_ = SimpleNamespace(now=0.0, monotonic=lambda: time_.now, strftime=time.strftime)
    monkeypatch.setattr("forcenet_md.server.monitor.time", time_)
    return time_


@pytest.fixture
def log(tmp_path):
    lines = Lines.append_to(tmp_path / "log")
    yield SimpleNamespace(lines=lines, read=(tmp_path / "log").read_text)
    lines.close()


def test_a_summary_comes_only_when_there_were_steps(clock, log):
    monitor = Monitor(log.lines)
    monitor.joined("client 1")
    clock.now = 1000.0
    monitor.tick()
    assert log.read().count("\n") == 1
    for _ in range(200):
        clock.now += 0.1
        monitor.batch(steps=2, atoms=216, graph=0.01, network=0.05)
        monitor.add("codec", 0.002)
        monitor.tick()
    assert log.read().count("\n") == 1
    clock.now += 11.0
    monitor.tick()
    last = log.read().splitlines()[-1]
    assert "1 client, 12.9 steps/s, 108 atoms" in last
    assert "network 25 graph 5 transport 0 codec 1" in last
    assert monitor.counts.steps == 0


def test_the_largest_spread_of_a_committee_is_in_the_summary(clock, log):
    monitor = Monitor(log.lines)

    def answered(*spreads: float) -> str:
        steps = len(spreads) + 1
        monitor.batch(steps=steps, atoms=steps, graph=0.0, network=0.1)
        monitor.answers(
            [EvaluationError("no forces")]
            + [Forces(np.zeros((1, 3)), force_spread=np.array([s])) for s in spreads]
        )
        clock.now += 31.0
        monitor.tick()
        return log.read().splitlines()[-1]

    assert "1 atoms, spread 0.5 eV/Å, ms:" in answered(0.2, 0.5, 0.1)
    assert "1 atoms, spread 0.25 eV/Å, ms:" in answered(0.25)  # of this interval
    assert "1 atoms, ms:" in answered()


def test_a_flood_of_lines_is_cut_and_counted(clock, log):
    monitor = Monitor(log.lines)
    for k in range(5000):
        monitor.note(f"client {k}", "was told off")
    assert log.read().count("\n") == Monitor.burst
    clock.now += Monitor.summary_every + 1
    monitor.note("client 1", "behaves")
    lines = log.read().splitlines()
    assert f"{5000 - Monitor.burst} more lines were not written" in lines[-2]
    assert lines[-1].endswith("client 1 behaves")
    for k in range(Monitor.burst):
        monitor.note(f"client {k}", "was told off")
    monitor.stopped()
    *_, counted, last = log.read().splitlines()
    assert counted.endswith(" 1 more lines were not written")
    assert last.endswith(" stopped")


def test_a_line_is_one_line_of_limited_length_whatever_a_client_sends(log):
    Monitor(log.lines).note("client 1", "is \x1b]0;x\x07\r\n\u202e" + "a" * 10**6)
    text = log.read()
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()
    assert len(text) < 5000


def test_lines_that_cannot_be_written_are_lost_and_counted(tmp_path):
    """A pipe that nobody empties would stop a server that waits for it."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    lines = Lines(write_end)
    for _ in range(2000):
        lines.write("x" * 100)
    written = os.read(read_end, 1 << 20).count(b"\n")
    assert 0 < written < 2000
    lines.write("again")
    assert os.read(read_end, 1 << 20).decode() == (
        f"({2000 - written} lines were lost before this one)\nagain\n"
    )
    os.close(read_end)
    lines.write("nobody reads")
    lines.close()
    full = Lines.append_to(Path("/dev/full"))
    full.write("no space")
    full.close()


class Terminal:
    """`forcenet-md serve` in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._fd, inner = os.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "--model", LJ, *arguments], stdin=inner, stdout=inner, stderr=inner
        )
        os.close(inner)
        self.text = ""

    def read(self, timeout: float) -> None:
        with contextlib.suppress(OSError):  # EIO: the process has ended
            while select.select([self._fd], [], [], timeout)[0]:
                self.text += os.read(self._fd, 65536).decode()
                timeout = 0.0

    def until(self, pattern: str) -> None:
        start = time.monotonic()
        while not re.search(pattern, self.text):
            self.read(1.0)
            assert time.monotonic() - start < PATIENCE, self.text

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.mark.slow
def test_the_status_line_of_a_terminal(tmp_path):
    with contextlib.closing(Terminal("--listen", f"unix:{tmp_path}/s")) as terminal:
        terminal.until("0 clients · idle")
        with Client(f"unix:{tmp_path}/s") as client:
            client.hello(["Cu"], engine="evil\x1b[31m [bold]name[/bold]")
            terminal.until("1 client · idle")
            start = time.monotonic()
            while "steps/s, 4 atoms, ms: network" not in terminal.text:
                ask(client, copper())
                terminal.read(0.0)
                assert time.monotonic() - start < PATIENCE
            terminal.until("steps/s.*1 client · idle")
        terminal.until(r"left after \d+ steps: it said goodbye")
        terminal.process.send_signal(signal.SIGINT)
        terminal.until("stopped")
        assert terminal.process.wait(PATIENCE) == 0
    assert "evil\\x1b[31m [bold]name[/bold]" in terminal.text
    assert "\x1b[31m" not in terminal.text
    assert "\x1b[?25l" not in terminal.text.replace("\x1b[?25l\x1b[?25h", "")  # cursor stays
    assert list(tmp_path.iterdir()) == []
