"""A force server, LAMMPS and i-PI as processes of their own, which end when the caller does."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forcenet_md.engines import leash
from forcenet_md.errors import ForceNetError

START_LIMIT = 120.0  # s for a server to load its model
END_LIMIT = 20.0  # s for a server to end; the leash kills it before


class ProcessError(ForceNetError):
    """A process that did not start, or ended with an error."""


@dataclass(frozen=True, slots=True)
class EngineRun:
    """The (last) run of LAMMPS, as it says, or of i-PI, as it was seen."""

    steps: int
    seconds: float

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds


@contextlib.contextmanager
def serving(model: str, address: str, log: Path, *options: str) -> Iterator[None]:
    """`forcenet-md serve` on one thread, ready to answer; its output goes to the file log.

    Raises ProcessError with the server's own words if it ends before it is ready.
    """
    words = ("serve", "--model", model, "--listen", address, "--threads", "1", *options)
    process = _start(words, log)
    try:
        _wait_until_ready(process, log)
        yield
    finally:
        _end(process)


def _start(words: Sequence[str], log: Path, folder: Path | None = None) -> subprocess.Popen[bytes]:
    """A command of ours on the leash, so that it also ends where the caller is killed."""
    command = [sys.executable, "-I", "-S", leash.__file__, sys.executable, "-m", "forcenet_md"]
    with log.open("wb") as file:
        return subprocess.Popen(
            [*command, *words],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(END_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_LIMIT
    while "\nready" not in (text := log.read_text(encoding="utf-8", errors="replace")):
        if process.poll() is not None:
            words = text.strip().splitlines() or ["it said nothing"]
            raise ProcessError(f"the server did not start: {words[-1]}")
        if time.monotonic() > end:
            raise ProcessError(
                f"the server was not ready after {START_LIMIT:.0f} s: see {log} for what it said."
            )
        time.sleep(0.05)


def run_lammps(
    script: Path,
    ranks: int = 1,
    variables: Mapping[str, object] | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> EngineRun:
    """Run `lmp` on a script, in the script's folder, and wait for it.

    variables: as `-var NAME VALUE`; on_step: called with the step of every line of thermo output.
    What LAMMPS prints is kept in SCRIPT.log. Raises ProcessError with LAMMPS's ERROR line.
    """
    settings = [w for name, value in (variables or {}).items() for w in ("-var", name, str(value))]
    command = [str(tool("lmp")), "-in", script.name, "-log", "none", "-nonbuf", *settings]
    if ranks > 1:
        command = [str(tool("mpirun")), "-n", str(ranks), *command]
    process = subprocess.Popen(
        command,
        cwd=script.parent,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # the launchers' children end with them
    )
    lines = []
    running = False
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            words = line.split()
            if words and words[0] in ("Step", "Loop"):
                running = words[0] == "Step"
            elif running and words and words[0].isdecimal():
                on_step(int(words[0]))
        process.wait()
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        output = "".join(lines)
        script.with_suffix(".log").write_text(output, encoding="utf-8")
    return _result(output, process.returncode, script)


def _result(output: str, code: int, script: Path) -> EngineRun:
    error = re.search(r"^ERROR.*", output, re.MULTILINE)
    loops = re.findall(r"^Loop time of (\S+) on \d+ procs for (\d+) steps", output, re.MULTILINE)
    if code != 0 or error or not loops:
        words = error[0] if error else f"it ended with code {code}"
        raise ProcessError(f"LAMMPS stopped: {words} (all it said: {script.with_suffix('.log')}).")
    seconds, steps = loops[-1]
    return EngineRun(int(steps), float(seconds))


def run_ipi(
    xml: Path, model: str, properties: Path, on_step: Callable[[int], None] = lambda step: None
) -> EngineRun:
    """Run `forcenet-md ipi` on an input, in the input's folder, and wait for it.

    properties: the file whose first column is the step, as i-PI writes it; on_step: called with
    each. All that is printed is kept in XML.log. Raises ProcessError with the last line of it.
    """
    log = xml.with_suffix(".log")
    process = _start(("ipi", xml.name, "--model", model), log, xml.parent)
    seen: list[tuple[int, float]] = []  # steps, and when
    try:
        while process.poll() is None:
            time.sleep(0.05)
            step = _last_step(properties)
            if step is not None and (not seen or step > seen[-1][0]):
                seen.append((step, time.monotonic()))
                on_step(step)
    finally:
        _end(process)
    if process.returncode != 0 or len(seen) < 2:
        words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise ProcessError(f"{words[-1] if words else 'i-PI said nothing'} (all it said: {log})")
    (first, began), (last, ended) = seen[0], seen[-1]
    return EngineRun(last - first, ended - began)


def _last_step(properties: Path) -> int | None:
    try:
        lines = properties.read_text(encoding="ascii").splitlines(keepends=True)
    except OSError:
        return None
    whole = [line for line in lines if line.endswith("\n") and not line.startswith("#")]
    return int(float(whole[-1].split()[0])) if whole else None


def tool(name: str) -> Path:
    """A program of this Python environment. Raises ProcessError if it is not there."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise ProcessError(
            f"there is no {name} beside {sys.executable}: install the packages lammps, mpich"
            " and ipi into this environment."
        )
    return path


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
