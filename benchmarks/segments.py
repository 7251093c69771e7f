"""Long LAMMPS runs in segments, which go on after a stop.

Every segment is a LAMMPS of its own that starts from the positions and velocities with which the
one before ended (a data file, in full precision), with random numbers of its own. Segments that are
whole are kept and the one that was cut is run again, so that a run which was stopped comes to the
same trajectory as one which was not.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from forcenet_md.engines.processes import EngineRun, ProcessError, run_lammps, serving
from forcenet_md.errors import ForceNetError
from forcenet_md.locking import locked


@dataclass(frozen=True, slots=True)
class Schedule:
    """temperature: K; timestep: ps; segment: steps; segments: how many; every: steps from frame to
    frame"""

    temperature: float
    timestep: float
    segment: int
    segments: int
    every: int
    seed: int = 1

    @property
    def steps(self) -> int:
        return self.segment * self.segments

    @property
    def ps(self) -> float:
        return self.steps * self.timestep

    @property
    def spacing(self) -> float:
        """ps between frames."""
        return self.every * self.timestep


def exit_code(out: Path, work: Callable[[], str | None]) -> int:
    """Of a command whose runs are in a folder, where nobody else works meanwhile.

    work: returns why a run stopped. 0: they came to their ends, whatever was found; 1: one stopped,
    or a fault; 130: Ctrl-C
    """
    try:
        with locked(out, "run"):
            return 0 if work() is None else 1
    except ForceNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on from the last whole segment", file=sys.stderr)
        return 130


def schedule(
    temperature: float,
    ps: float,
    segment_ps: float,
    timestep: float,
    every: int = 100,
    seed: int = 1,
) -> Schedule:
    """Of segments with a whole number of dumped frames, at least as long as asked for."""
    segment = max(1, round(segment_ps / timestep / every)) * every
    segments = max(1, ceil(ps / (segment * timestep) - 1e-9))
    return Schedule(temperature, timestep, segment, segments, every, seed)


@contextlib.contextmanager
def served(model: str, log: Path, *options: str) -> Iterator[str]:
    """The address of a server of the model, which ends with the block."""
    with tempfile.TemporaryDirectory(prefix="forcenet-segments-") as private:
        address = f"unix:{private}/model.sock"
        with serving(model, address, log, *options):
            yield address


def missing(folder: Path, plan: Schedule) -> list[int]:
    return [k for k in range(plan.segments) if not data(folder, k).is_file()]


def run_segments(
    folder: Path,
    plan: Schedule,
    todo: Sequence[int],
    script: Callable[[int], str],
    name: str,
    address: str = "",
) -> str | None:
    """None, or in a sentence why the run stopped.

    script: of a segment, with the variables address, temperature, steps and seed, which writes
    `dump(whole=False)`, and at the end `data` with `.part` behind its name
    name: of what runs, for the terminal
    """
    began = time.monotonic()
    for done, k in enumerate(todo, 1):
        reached = k * plan.segment

        def at(step: int) -> None:
            nonlocal reached
            reached = step

        try:
            run = _run_segment(folder, plan, k, script(k), address, at)
        except ProcessError as fault:
            return f"after {reached * plan.timestep:.3f} ps: {fault}"
        left = (time.monotonic() - began) * (len(todo) - done) / done / 60.0
        print(
            f"{name}: {(k + 1) * plan.segment * plan.timestep:g} of {plan.ps:g} ps,"
            f" {run.steps_per_second:.1f} steps/s, {left:.0f} min left",
            flush=True,
        )
    return None


def _run_segment(
    folder: Path, plan: Schedule, k: int, text: str, address: str, at: Callable[[int], None]
) -> EngineRun:
    """One LAMMPS. Raises ProcessError with its words if it stops."""
    script = folder / f"{segment_name(k)}.in"
    script.write_text(text, encoding="utf-8")
    dump(folder, k, whole=False).unlink(missing_ok=True)  # one who died may still write to it
    variables = {
        "address": address,
        "temperature": plan.temperature,
        "steps": plan.segment,
        "seed": 100 * plan.seed + k,
    }
    run = run_lammps(script, variables=variables, on_step=at)
    dump(folder, k, whole=False).replace(dump(folder, k))
    end = data(folder, k)
    end.with_name(f"{end.name}.part").replace(end)  # last: the segment is whole
    return run


def segment_name(k: int) -> str:
    return f"segment-{k:04d}"


def dump(folder: Path, k: int, whole: bool = True) -> Path:
    return folder / f"{segment_name(k)}.dump{'' if whole else '.part'}"


def data(folder: Path, k: int) -> Path:
    """Where segment k ended; its presence says that the segment is whole."""
    return folder / f"{segment_name(k)}.data"
