"""i-PI as a process that ends when we do, and what its output says of how it ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from forcenet_md.engines import leash
from forcenet_md.engines.ipi_xml import place_of
from forcenet_md.engines.processes import ProcessError, tool

FAULT_PATIENCE = 10.0  # s for i-PI to end after a traceback; one of its threads may have died alone
REFUSALS = ("NameError: ", "TypeError: ", "ValueError: ")  # what i-PI says to a wrong input
END_LIMIT = 25.0  # s that the leash takes at most


class IpiOutput:
    """What is known from the lines i-PI has printed."""

    def __init__(self) -> None:
        self.fault: str | None = None  # the last line of a traceback
        self.problem: str | None = None  # i-PI's own word of one; it ends with code 0 all the same
        self.cause: str | None = None  # why it stopped before its last step
        self.done: str | None = None  # why it has no more to do
        self.last = ""
        self.refuses_input = False  # the fault is in the XML
        self._traceback: list[str] = []
        self._at_its_end = False

    def read(self, line: str) -> list[str]:
        """The lines to show now.

        A traceback is held until its last line, and not shown where i-PI refuses its input: then
        it has nothing that the sentence of `IpiProcess.verdict` has not.
        """
        if line.strip():
            self.last = line.strip()
        if self._traceback or line.startswith("Traceback (most recent call last)"):
            return self._in_traceback(line)
        self._outside_traceback(line)
        return [] if re.match(r"Error parsing \S+ from <", line) else [line]

    def rest(self) -> list[str]:
        """The lines of a traceback that i-PI did not finish."""
        held, self._traceback = self._traceback, []
        return held

    def _in_traceback(self, line: str) -> list[str]:
        self._traceback.append(line)
        if not re.match(r"[A-Za-z_][\w.]*(: |$)", line):
            self.fault = self.fault or "a traceback"
            return []
        held = self.rest()
        self.fault = line.strip()
        self.refuses_input = self.fault.startswith(REFUSALS) and any(
            "in load_from_xml" in each for each in held
        )
        return [] if self.refuses_input else held

    def _outside_traceback(self, line: str) -> None:
        if found := re.search(r"SOFTEXIT CALLED FROM THREAD <.*?\)>\s*(.*)", line):
            self._softexit(found[1].removeprefix("@SOFTEXIT:").strip(" ."))
        elif "I-PI reports a problem" in line:
            self.problem = self.done or "i-PI reports a problem"
        elif "Wall clock time expired" in line or "EXIT file detected" in line:
            self.cause = self.cause or line.partition(":")[2].removesuffix("! Bye bye!").strip()

    def _softexit(self, message: str) -> None:
        if self.cause or self.done or self._at_its_end or not message:
            return
        if message.startswith("@"):
            self._at_its_end = message.endswith("Exiting cleanly")  # all that follows is part of it
        elif re.search(r"Kill signal|EXIT file|wallclock|Client shutdown", message):
            self.cause = message
        else:
            self.done = message


class IpiProcess:
    """`i-pi INPUT` in the current folder. Used as a context, it is ended at its end.

    relay: gets every line it prints; ended: called when it has ended or has a fault it does not
    end with. Both from another thread.
    """

    def __init__(self, path: Path, relay: Callable[[str], None], ended: Callable[[], None]) -> None:
        """Raises ProcessError if there is no i-PI in this environment."""
        command = [sys.executable, "-I", "-S", leash.__file__]
        command += [sys.executable, str(tool("i-pi")), str(path)]
        self.output = IpiOutput()
        self._path = path
        self.began = time.time()
        self._relay = relay
        self._ended = ended
        # The leash keeps the reading end open too: i-PI's last words must not fail if we die.
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=writing,
            stderr=subprocess.STDOUT,
            pass_fds=(reading,),
            env={"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C is for us, and we end it in good order
        )
        os.close(writing)
        self._lines = os.fdopen(reading, encoding="utf-8", errors="replace")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> IpiProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended by then, and all it said was read."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join()
        return True

    def end(self) -> None:
        """Let it write its RESTART and end, by force if need be."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if not self.wait(END_LIMIT):
            self._process.kill()
            self.wait(END_LIMIT)

    def verdict(self) -> None:
        """Raises ProcessError with i-PI's own words if it failed, and where its input is wrong."""
        code = self._process.returncode
        words = self.output.fault or self.output.problem
        if words is None and code not in (0, None):
            words = self.output.last or "it said nothing"
            if code > 128 or code < 0:
                words = f"it was killed by {signal.Signals(abs(code) % 128).name}"
        if self.output.refuses_input and self.output.fault:
            fault = self.output.fault.partition(": ")[2].rstrip(".")
            where = place_of(fault, self._path)
            raise ProcessError(f"i-PI refuses {self._path}{where}: {fault}; mend it there.")
        if words is not None:
            raise ProcessError(f"i-PI failed: {words}.".replace("..", "."))

    def _read(self) -> None:
        timer: threading.Timer | None = None
        with self._lines as lines:
            for line in lines:
                for shown in self.output.read(line.rstrip("\n")):
                    self._relay(shown)
                if self.output.fault and timer is None:
                    timer = threading.Timer(FAULT_PATIENCE, self._ended)
                    timer.daemon = True
                    timer.start()
        for line in self.output.rest():
            self._relay(line)
        if timer is not None:
            timer.cancel()
        self._ended()


def restart_step(folder: Path, since: float) -> int | None:
    """The step of the RESTART in a folder; None if there is none written since then (time.time)."""
    path = folder / "RESTART"
    try:
        if path.stat().st_mtime < since - 1.0:  # file systems round
            return None
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if found := re.match(r"\s*<step>\s*(\d+)\s*</step>", line):
                    return int(found[1])
    except OSError:
        return None
    return 0  # i-PI leaves out what is as it would be anyway
