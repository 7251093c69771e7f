"""One step of i-PI: our driver beside i-PI's own, and beads in one batch beside one at a time.

    python -m benchmarks.ipi [MODEL] [--out benchmarks/results/ipi.md]

i-PI and the driver are processes of their own with one thread each, over a unix socket. A step's
time is read from i-PI's output file while it grows, so starting up does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import write

from benchmarks.hardware import hardware
from forcenet_md.errors import ForceNetError
from forcenet_md.inference.interface import Evaluator, Request, Timings
from forcenet_md.inference.load import load_evaluator
from forcenet_md.server.ipi import IpiDriver, parse_ipi_address
from forcenet_md.server.loop import Server
from forcenet_md.server.monitor import Monitor
from forcenet_md.server.template import read_template
from forcenet_md.system import Forces

BIN = Path(sys.executable).parent
ONE = {"OMP_NUM_THREADS": "1"}
REPEATS = 5
CHEAP = {64: ((2, 2, 4), 2000), 4000: ((10, 10, 10), 400)}  # atoms: cells, steps
BEADS = {4: 60, 16: 20, 32: 12}  # beads: steps, 64 atoms
LATENCIES = (1e-4, 2e-3)
INPUT = """<simulation verbosity='quiet'>
<output prefix='o'><properties stride='{stride}' filename='p' flush='1'>[step]</properties></output>
<total_steps>100000000</total_steps><prng><seed>1</seed></prng>
<ffsocket mode='unix' name='f'><address>{name}</address><latency>{latency}</latency>
<slots>64</slots>{batch}</ffsocket>
<system>
<initialize nbeads='{beads}'><file mode='ase'>t.xyz</file>
<velocities mode='thermal' units='kelvin'>300</velocities></initialize>
<forces><force forcefield='f'/></forces>
<motion mode='dynamics'><dynamics mode='nvt'><timestep units='femtosecond'>1</timestep>
<thermostat mode='langevin'><tau units='femtosecond'>100</tau></thermostat></dynamics></motion>
<ensemble><temperature units='kelvin'>300</temperature></ensemble>
</system></simulation>
"""


class Zeros:
    """An evaluator that costs nothing, with another one's word for what it can do."""

    def __init__(self, like: Evaluator) -> None:
        self.capabilities = like.capabilities
        self.timings = Timings()

    def new_session(self) -> None:
        return None

    def warm_up(self) -> None: ...

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        return [Forces(np.zeros_like(r.system.positions)) for r in requests]


class Recorder(Monitor):
    """How many beads each batch had, and how long it took."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.seconds: list[float] = []

    def batch(self, steps: int, atoms: int, graph: float, network: float) -> None:
        self.sizes.append(steps)
        self.seconds.append(graph + network)


def drive(model: str, zeros: bool, name: str, sockets: int) -> None:
    """The driver's process: prints what it recorded when i-PI ends."""
    evaluator = load_evaluator(model)
    evaluator.warm_up()
    recorder = Recorder()
    server = Server(Zeros(evaluator) if zeros else evaluator, monitor=recorder)
    driver = IpiDriver(
        server,
        parse_ipi_address(f"unix:{name}"),
        read_template(Path("t.xyz")),
        sockets,
        server.stop,
    )
    driver.connect()
    server.serve()
    print(json.dumps({"sizes": recorder.sizes, "seconds": recorder.seconds}))


@contextlib.contextmanager
def running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=folder,
        # The path, so that this module is found from that folder.
        env=os.environ | ONE | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def seconds_of_a_step(file: Path, stride: int, steps: int) -> float:
    """Between the line of step `stride` and that of `steps` later."""
    seen: dict[int, float] = {}
    while not (seen and max(seen) - min(seen) >= steps):
        time.sleep(0.002)
        if file.exists():
            for line in file.read_text().splitlines():
                step = int(float(line)) if line and line[0] != "#" else 0
                if step >= stride and line.endswith(" "):
                    seen.setdefault(step, time.perf_counter())
    return (seen[max(seen)] - seen[min(seen)]) / (max(seen) - min(seen))


def measure(
    atoms: Atoms,
    driver: list[str],
    steps: int,
    beads: int = 1,
    latency: float = 1e-4,
    batch: int = 1,
) -> tuple[float, dict[str, list[float]]]:
    """Seconds per step, and what our driver recorded ({} for another driver)."""
    name = f"bench-{os.getpid()}"
    stride = max(steps // 10, 1)
    layout = f"<batch_size>{batch}</batch_size>" if batch > 1 else ""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write(folder / "t.xyz", atoms, format="extxyz")
        (folder / "in.xml").write_text(
            INPUT.format(stride=stride, name=name, latency=latency, batch=layout, beads=beads)
        )
        with running([str(BIN / "i-pi"), "in.xml"], folder) as ipi:
            while not Path(f"/tmp/ipi_{name}").is_socket():
                time.sleep(0.01)
            with running([word.replace("NAME", name) for word in driver], folder) as process:
                found = seconds_of_a_step(folder / "o.p", stride, steps)
                ipi.send_signal(signal.SIGINT)
                ipi.communicate()
                said, _ = process.communicate()
    recorded = json.loads(said) if said.startswith('{"sizes"') else {}
    return found, recorded


def ours(model: str, zeros: bool, sockets: int) -> list[str]:
    kind = "zeros" if zeros else "model"
    return [sys.executable, "-m", "benchmarks.ipi", model, "--drive", kind, "NAME", str(sockets)]


def alloy(cells: tuple[int, int, int]) -> Atoms:
    atoms = bulk("Cu", a=3.95, cubic=True) * cells
    atoms.symbols = [("Ag", "Au", "Cu", "Pd", "Pt")[i % 5] for i in range(len(atoms))]
    atoms.rattle(0.05, seed=1)
    return atoms


def cheap_steps(model: str) -> Iterator[str]:
    yield "| atoms | i-PI's dummy driver, ms | ours with a model that costs nothing, ms | ratio |"
    yield "|---|---|---|---|"
    dummy = [str(BIN / "i-pi-driver-py"), "-m", "dummy", "-u", "-a", "NAME"]
    for n, (cells, steps) in CHEAP.items():
        pairs = [
            (measure(alloy(cells), dummy, steps)[0], measure(alloy(cells), zeros, steps)[0])
            for zeros in [ours(model, True, 1)] * REPEATS
        ]
        theirs, mine = np.median(np.array(pairs), axis=0)
        yield f"| {n} | {1e3 * theirs:.3f} | {1e3 * mine:.3f} | {mine / theirs:.2f} |"


def bead_steps(model: str) -> Iterator[str]:
    yield "| beads | one by one, ms per bead | N sockets | batch_size | full batches of N sockets |"
    yield "|---|---|---|---|---|"
    for beads, steps in BEADS.items():
        atoms = alloy((2, 2, 4))
        one, _ = measure(atoms, ours(model, False, 1), steps, beads, 2e-3)
        many, recorded = measure(atoms, ours(model, False, beads), steps, beads, 2e-3)
        batched, _ = measure(atoms, ours(model, False, 1), steps, beads, 2e-3, batch=beads)
        each = [f"{1e3 * t / beads:.3f}" for t in (one, many, batched)]
        yield f"| {beads} | " + " | ".join(each) + f" | {fullness(recorded, beads)} |"


def latency_steps(model: str) -> Iterator[str]:
    yield "| atoms | beads | latency, s | full batches | step, ms |"
    yield "|---|---|---|---|---|"
    for n, beads, steps in ((64, 4, 300), (64, 16, 100), (4000, 4, 60), (4000, 16, 20)):
        for latency in LATENCIES:
            seconds, recorded = measure(
                alloy(CHEAP[n][0]), ours(model, True, beads), steps, beads, latency
            )
            yield (
                f"| {n} | {beads} | {latency:g} | {fullness(recorded, beads)}"
                f" | {1e3 * seconds:.2f} |"
            )


def fullness(recorded: dict[str, list[float]], beads: int) -> str:
    """Of the beads, which part was evaluated in a full batch."""
    sizes = Counter(recorded["sizes"])
    return f"{beads * sizes[beads] / sum(n * count for n, count in sizes.items()):.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="alloy")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        kind, name, sockets = arguments.drive
        drive(arguments.model, kind == "zeros", name, int(sockets))
        return
    lines = [
        "# One step of i-PI",
        "",
        f"{hardware()}; NVT with Langevin, unix socket, one thread per process; medians of"
        f" {REPEATS} pairs of runs in turn. Made by `python -m benchmarks.ipi --out …`.",
        "",
    ]
    print("\n".join(lines), flush=True)
    parts = (
        ("## What the driver adds: forces of zero", cheap_steps),
        (f"## Beads of 64 atoms with the model {arguments.model}", bead_steps),
        ("## i-PI's latency setting, forces of zero, N sockets", latency_steps),
    )
    for title, part in parts:
        lines += [title, ""]
        print(f"{title}\n", flush=True)
        for line in part(arguments.model):
            lines.append(line)
            print(line, flush=True)
        lines.append("")
    if arguments.out:
        arguments.out.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
