"""What the server says while it runs: a status line in a terminal, plain lines elsewhere.

Nothing here may stop the server: a full disk, a closed pipe or a terminal on hold loses lines,
not forces.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from forcenet_md.errors import AddressError, ForceNetError
from forcenet_md.inference.interface import Capabilities
from forcenet_md.server.protocol import escape
from forcenet_md.system import Forces

LONGEST_LINE = 4096  # characters; clients can make sentences long


class Lines:
    """Lines written to a file descriptor, or lost where that would fail or block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lost = 0

    @classmethod
    def append_to(cls, path: Path) -> Lines:
        """Raises AddressError if the file cannot be opened."""
        try:
            return cls(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise AddressError(
                f"the log file {path} cannot be opened ({error.strerror}): give another one with"
                " --log-file."
            ) from None

    def write(self, line: str) -> None:
        note = f"({self._lost} lines were lost before this one)\n" if self._lost else ""
        try:
            if not writable(self._fd):
                raise BlockingIOError
            os.write(self._fd, f"{note}{line}\n".encode())
            self._lost = 0
        except OSError:
            self._lost += 1

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)


def writable(fd: int) -> bool:
    """Whether a short write would not block now."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))


@dataclass(slots=True)
class Counts:
    """What happened from the first step on, which began at `since`; times in seconds.

    spread: eV/Å, the largest of a committee
    """

    since: float = 0.0
    steps: int = 0
    atoms: int = 0
    spread: float | None = None
    parts: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("network", "graph", "transport", "codec"), 0.0)
    )

    def describe(self, now: float) -> str:
        if not self.steps:
            return "idle"
        rate = self.steps / max(now - self.since, 1e-9)
        parts = " ".join(f"{k} {1e3 * t / self.steps:.2g}" for k, t in self.parts.items())
        spread = "" if self.spread is None else f", spread {self.spread:.2g} eV/Å"
        return f"{rate:.3g} steps/s, {self.atoms / self.steps:.0f} atoms{spread}, ms: {parts}"


@dataclass(slots=True)
class Largest:
    """The largest figures of one client's answers: eV/Å, the net force and the torque's per atom.

    spread: of a committee; None if there was none
    imbalance: the most work of a rank over the mean of all; 1 on one rank
    """

    net_force: float = 0.0
    torque_force: float = 0.0
    spread: float | None = None
    imbalance: float = 1.0

    def see(self, forces: Forces) -> None:
        self.taken_out(forces.net_force_per_atom, forces.torque_force)
        self.spread = larger(self.spread, forces)
        self.imbalance = max(self.imbalance, forces.imbalance or 1.0)

    def taken_out(self, net_force: float, torque_force: float | None) -> None:
        self.net_force = max(self.net_force, net_force)
        self.torque_force = max(self.torque_force, torque_force or 0.0)

    def describe(self, model: Capabilities) -> list[str]:
        """Of that model's answers; a net force that training left free means nothing."""
        said = []
        if self.net_force and not model.net_force_removed:
            said.append(f"had a net force of at most {self.net_force:.2g} eV/Å per atom")
        if self.torque_force:
            torque = f"{self.torque_force:.2g} eV/Å per atom"
            said.append(f"had a torque with forces of at most {torque}")
        if self.spread is not None:
            said.append(f"had a committee's spread of at most {self.spread:.2g} eV/Å on an atom")
        if self.imbalance > 1.0:
            said.append(f"gave one rank at most {self.imbalance:.2f} times the mean work of all")
        return said


def larger(spread: float | None, forces: Forces) -> float | None:
    """The largest spread yet, and of these forces."""
    if forces.force_spread is None:
        return spread
    return max(spread or 0.0, float(forces.force_spread.max(initial=0.0)))


class Monitor:
    """Counts, and log lines. Every string from a client is escaped here."""

    summary_every = 30.0  # s
    burst = 100  # lines per summary interval; a flood of faults must not fill a disk

    def __init__(self, *logs: Lines) -> None:
        self.clients = 0
        self.counts = Counts()  # since the last line that told of them
        self.totals = Counts()
        self._logs = logs
        self._interval = time.monotonic()
        self._in_interval = 0

    def relay(self, line: str) -> None:
        """A line of another program, as it is; waits for who reads it. May be called from any
        thread."""
        data = f"{line}\n".encode()
        with contextlib.suppress(OSError, ValueError):
            while data:
                data = data[os.write(sys.stdout.fileno(), data) :]

    # Called by the server ----------------------------------------------------------------------

    def joined(self, client: str) -> None:
        self.clients += 1
        self.log(f"{client} connected")

    def left(self, client: str, steps: int, why: str) -> None:
        self.clients -= 1
        self.log(f"{client} left after {steps} steps: {why}")

    def note(self, client: str, what: str) -> None:
        self.log(f"{client} {what}")

    def add(self, part: str, seconds: float) -> None:
        for counts in (self.counts, self.totals):
            counts.parts[part] += seconds

    def batch(self, steps: int, atoms: int, graph: float, network: float) -> None:
        for counts in (self.counts, self.totals):
            if not counts.steps:
                counts.since = time.monotonic() - graph - network
            counts.steps += steps
            counts.atoms += atoms
            counts.parts["graph"] += graph
            counts.parts["network"] += network

    def answers(self, answers: Sequence[Forces | ForceNetError]) -> None:
        for answer in answers:
            if isinstance(answer, Forces):
                self.counts.spread = larger(self.counts.spread, answer)

    @property
    def due(self) -> float:
        """time.monotonic() at which `tick` wants to be called, infinity while nothing happens."""
        return self.counts.since + self.summary_every if self.counts.steps else inf

    def tick(self) -> None:
        now = time.monotonic()
        if now >= self.due:
            self.log(f"{self._who()}, {self.counts.describe(now)}")
            self.counts = Counts()

    def _who(self) -> str:
        return "1 client" if self.clients == 1 else f"{self.clients} clients"

    def log(self, text: str) -> None:
        if time.monotonic() - self._interval > self.summary_every:
            self._begin_interval()
        self._in_interval += 1
        if self._in_interval <= self.burst:
            self._emit(text)

    def stopped(self) -> None:
        """The last word, however many there were before."""
        self._begin_interval()
        self.log("stopped")

    def _begin_interval(self) -> None:
        silent = self._in_interval - self.burst
        self._interval, self._in_interval = time.monotonic(), 0
        if silent > 0:
            self._emit(f"{silent} more lines were not written")

    def _emit(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {escape(text[:LONGEST_LINE])}"
        for log in self._logs:
            log.write(line)
        self._show(line)

    def _show(self, line: str) -> None:
        """For a terminal."""


class TerminalMonitor(Monitor):
    """Log lines scroll above one status line that is drawn anew at most four times a second."""

    summary_every = 0.5

    def __init__(self, console: Console, *logs: Lines) -> None:
        super().__init__(*logs)
        self._console = console
        self._live = Live(
            Text(""),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

        self._stale_at = inf  # when what is shown is no longer true, whether or not a step comes

    def relay(self, line: str) -> None:
        while not self._writable():  # on hold; the server must not wait for the console with us
            time.sleep(0.1)
        with contextlib.suppress(OSError):
            self._console.print(Text(line), highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        with self._live:
            self._console.show_cursor(True)  # a killed server must not leave it hidden
            self._draw("idle")
            yield

    def joined(self, client: str) -> None:
        super().joined(client)
        self._stale_at = time.monotonic()

    def left(self, client: str, steps: int, why: str) -> None:
        super().left(client, steps, why)
        self._stale_at = time.monotonic()

    @property
    def due(self) -> float:
        return min(super().due, self._stale_at)

    def tick(self) -> None:
        now = time.monotonic()
        if now >= self.due:
            self._stale_at = now + 2 * self.summary_every if self.counts.steps else inf
            self._draw(self.counts.describe(now))
            self.counts = Counts()

    def _draw(self, state: str) -> None:
        if self._writable():
            line = Text(f"{self._who()} · {state}", "bold", no_wrap=True, overflow="ellipsis")
            with contextlib.suppress(OSError):
                self._live.update(line, refresh=True)

    def _show(self, line: str) -> None:
        if self._writable():
            with contextlib.suppress(OSError):
                self._console.print(Text(line), highlight=False, soft_wrap=True)

    def _writable(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return writable(self._console.file.fileno())
        return False
