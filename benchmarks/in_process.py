"""The model in LAMMPS's own process against a server behind a socket.

    python -m benchmarks.in_process [--out benchmarks/results/in-process.md]

A model that answers zeros shows what either way costs; the shipped model shows what is left of the
difference. Every figure is the fastest of several runs, taken in turn, of the same script: what
other programs of the machine do can only make a run slower.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np

from benchmarks.hardware import hardware
from benchmarks.step import BIN, EXTERNAL, INPUT, Zeros
from forcenet_md.inference.interface import Evaluator
from forcenet_md.inference.load import load_evaluator, read_capabilities
from forcenet_md.server.address import Listener, UnixAddress
from forcenet_md.server.loop import Server

CELLS = {64: (2, 2, 4), 500: (5, 5, 5), 4000: (10, 10, 10)}
# what is served, atoms, ranks, steps
ROWS = [
    ("nothing", 64, 1, 2000),
    ("nothing", 64, 2, 2000),
    ("nothing", 4000, 1, 300),
    ("nothing", 4000, 2, 300),
    ("alloy", 64, 1, 100),
    ("alloy", 500, 1, 30),
    ("alloy", 500, 2, 30),
]
REPEATS = 9


def evaluator_of(name: str) -> Evaluator:
    if name == "nothing":
        capabilities = read_capabilities("alloy")
        return cast(Evaluator, Zeros(cast(Evaluator, SimpleNamespace(capabilities=capabilities))))
    evaluator = load_evaluator(name)
    evaluator.warm_up()
    return evaluator


def loop_time(command: list[str], ranks: int, steps: int, folder: Path) -> float:
    """Seconds per step of the second run, as LAMMPS says."""
    if ranks > 1:
        command = [str(BIN / "mpirun"), "-n", str(ranks), *command]
    done = subprocess.run(
        [*command, "-in", "in", "-log", "none"],
        cwd=folder,
        text=True,
        capture_output=True,
        # So that this module is found from that folder.
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    loops = re.findall(r"Loop time of ([\d.e+-]+)", done.stdout)
    if len(loops) != 2:
        raise SystemExit(done.stdout + done.stderr)
    return float(loops[1]) / steps


def measure(name: str, atoms: int, ranks: int, steps: int) -> dict[str, np.ndarray]:
    """Seconds per step of every repeat: without forces, behind a socket, in process."""
    inside = [sys.executable, "-m", "benchmarks.in_process", "--inside", name]
    times: dict[str, list[float]] = {"alone": [], "socket": [], "in process": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def write(external: str) -> None:
            text = INPUT.format(*CELLS[atoms], steps=steps, external=external)
            (folder / "in").write_text(text)

        listener = Listener(UnixAddress(folder / "s"))
        listener.listen()
        server = Server(evaluator_of(name), [listener])
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            for _ in range(REPEATS):
                write("")
                times["alone"].append(loop_time([str(BIN / "lmp")], ranks, steps, folder))
                write(EXTERNAL.format(address=f"unix:{folder}/s"))
                times["socket"].append(loop_time([str(BIN / "lmp")], ranks, steps, folder))
                times["in process"].append(loop_time(inside, ranks, steps, folder))
        finally:
            server.stop()
            thread.join()
    return {way: np.array(values) for way, values in times.items()}


def row(name: str, atoms: int, ranks: int, steps: int) -> str:
    times = measure(name, atoms, ranks, steps)
    print(json.dumps({way: np.round(1e6 * t).tolist() for way, t in times.items()}), flush=True)
    cells = [f"{1e6 * t.min():.0f} ({1e6 * np.median(t):.0f})" for t in times.values()]
    ratio = times["in process"].min() / times["socket"].min()
    return f"| {name} | {atoms} | {ranks} | {' | '.join(cells)} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", help="only the rows of this model")
    arguments = parser.parse_args()
    lines = [
        "# One LAMMPS step with the model in process and behind a socket, µs",
        "",
        f"{hardware()}; float32, one thread, unix socket; the fastest of {REPEATS} runs taken in"
        " turn, and their median. The model `nothing` answers zeros.",
        "Made by `python -m benchmarks.in_process --out …`.",
        "",
        "| model | atoms | ranks | LAMMPS without forces | socket | in process"
        " | in process / socket |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in [r for r in ROWS if arguments.model in (None, r[0])]:
        lines.append(row(*one))
        print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


def inside(name: str, arguments: list[str]) -> None:
    """What `forcenet-md lammps` does, with a model that no file holds."""
    from forcenet_md.engines.lammps_in_process import run
    from forcenet_md.watching.watching import Watching

    run(arguments, lambda: evaluator_of(name), 200_000, None, None, Watching())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
    else:
        main()
