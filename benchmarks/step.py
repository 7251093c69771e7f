"""Where the time of one LAMMPS step goes: engine, transport, codec, graph, network.

    python -m benchmarks.step [MODEL] [--out benchmarks/results/step.md]

For 64, 500 and 4000 atoms of the alloy three runs of plain `lmp` on one rank: without forces (the
engine's floor), with a server that answers zeros (transport and codec in warm caches), with the
model. All ratios come from one run of this script.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.hardware import hardware
from forcenet_md.errors import ForceNetError
from forcenet_md.inference.interface import Capabilities, Evaluator, Request, Timings
from forcenet_md.inference.load import load_evaluator
from forcenet_md.server.address import Listener, UnixAddress
from forcenet_md.server.loop import Server
from forcenet_md.server.monitor import Monitor
from forcenet_md.system import Forces

BIN = Path(sys.executable).parent
SIZES = {64: ((2, 2, 4), 600), 500: ((5, 5, 5), 200), 4000: ((10, 10, 10), 30)}
INPUT = """
units metal
lattice fcc 3.95
region box block 0 {0} 0 {1} 0 {2}
create_box 5 box
create_atoms 1 box
set type 1 type/ratio 2 0.2 1
set type 1 type/ratio 3 0.25 2
set type 1 type/ratio 4 0.333 3
set type 1 type/ratio 5 0.5 4
mass 1 107.8682
mass 2 196.96657
mass 3 63.546
mass 4 106.42
mass 5 195.084
velocity all create 600 1
timestep 0.002
{external}
fix integrate all nvt temp 600 600 0.1
thermo {steps}
run 20
run {steps}
"""
EXTERNAL = """fix ext all external pf/callback 1 1
forcenet ext {address} elements Ag Au Cu Pd Pt"""


class Zeros:
    """An evaluator that costs nothing."""

    def __init__(self, like: Evaluator) -> None:
        self.capabilities: Capabilities = like.capabilities
        self.timings = Timings()

    def new_session(self) -> None:
        return None

    def warm_up(self) -> None: ...

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        return [Forces(np.zeros_like(r.system.positions)) for r in requests]


class Recorder(Monitor):
    """Keeps every step's parts and the time at which it was done."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[float] = []
        self.steps: list[dict[str, float]] = []
        self._codec = 0.0

    def log(self, line: str) -> None: ...

    def add(self, part: str, seconds: float) -> None:
        if part == "codec":
            self._codec += seconds

    def batch(self, steps: int, atoms: int, graph: float, network: float) -> None:
        self.done.append(time.perf_counter())
        self.steps.append({"graph": graph, "network": network, "codec": self._codec})
        self._codec = 0.0


def lmp(
    size: tuple[int, int, int], steps: int, external: str, program: Path = BIN / "lmp"
) -> float:
    """Seconds per step of the second run, as LAMMPS says."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in").write_text(INPUT.format(*size, steps=steps, external=external))
        done = subprocess.run(
            [program, "-in", "in", "-log", "none"], cwd=folder, text=True, capture_output=True
        )
    loops = re.findall(r"Loop time of ([\d.e+-]+)", done.stdout)
    if len(loops) != 2:
        raise SystemExit(done.stdout + done.stderr)
    return float(loops[1]) / steps


def served(evaluator: Evaluator, size: tuple[int, int, int], steps: int) -> tuple[float, Recorder]:
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        listener = Listener(UnixAddress(Path(folder, "s.sock")))
        listener.listen()
        server = Server(evaluator, [listener], monitor=recorder)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            return lmp(size, steps, EXTERNAL.format(address=f"unix:{folder}/s.sock")), recorder
        finally:
            server.stop()
            thread.join()


def measure(evaluator: Evaluator, n: int) -> str:
    """One row. Means, so that the parts add up to the whole step: transport is what is left of it,
    the plugin's gathering, the socket, waking up and the loop."""
    size, steps = SIZES[n]
    floor = lmp(size, steps, "")
    zeros, _ = served(Zeros(evaluator), size, steps)
    total, recorder = served(evaluator, size, steps)
    part = {
        key: float(np.mean([s[key] for s in recorder.steps[-steps:]]))
        for key in ("graph", "network", "codec")
    }
    transport = total - floor - sum(part.values())
    between = np.diff(recorder.done)[-steps:]
    first = recorder.steps[0]["network"] + recorder.steps[0]["graph"]
    ms = [1e3 * t for t in (floor, transport, part["codec"], part["graph"], part["network"])]
    return (
        f"| {n} | "
        + " | ".join(f"{t:.3f}" for t in ms)
        + f" | {1e3 * total:.2f} | {1e3 * np.quantile(between, 0.99):.2f} | {1e3 * first:.1f}"
        + f" | {1e3 * zeros:.3f} | {100 * (1 - (floor + part['network']) / total):.1f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="alloy")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    evaluator = load_evaluator(arguments.model)
    evaluator.warm_up()
    lines = [
        f"# One LAMMPS step with the model {evaluator.capabilities.name}, ms",
        "",
        f"{hardware()}; float32, one thread, `lmp` on one rank, unix socket, means.",
        "The step with a model that costs nothing has warm caches, so it is less than the sum of"
        " transport and codec beside it. Made by `python -m benchmarks.step --out …`.",
        "",
        "| atoms | engine alone | transport | codec | graph | network | whole step | p99"
        " | first step | step with a model that costs nothing | all but engine and network |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for n in SIZES:
        lines.append(measure(evaluator, n))
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
