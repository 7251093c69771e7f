"""Gathered through one process against direct: LAMMPS on two ranks and a model on two ranks.

    python -m benchmarks.ways [--out benchmarks/results/ways.md]

A tiny network shows what each way costs, the shipped model what is left of the difference. Every
figure is LAMMPS's time per step, the best of several runs taken in turn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.hardware import hardware
from benchmarks.in_process import loop_time
from benchmarks.step import BIN, EXTERNAL, INPUT
from forcenet_md.artifact.export import export_model
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig

CELLS = {4000: (10, 10, 10), 32000: (20, 20, 20)}
# the model, atoms, steps
ROWS = [("tiny", 4000, 60), ("tiny", 32000, 15), ("alloy", 4000, 8)]
REPEATS = 7
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def write_tiny(path: Path) -> None:
    """A network of next to no work, with one exchange and short arms."""
    torch.manual_seed(0)
    config = ForceNetConfig(hidden=4, n_frequencies=2, n_layers=2, cutoff=3.0)
    export_model(
        ForceNet(config).eval(),
        path,
        name="tiny",
        numbers=(29, 46, 47, 78, 79),
        augmentation="none",
        training_data={"description": "random", "licence": "none", "citation": "none"},
        test_errors={},
        net_force_removed=True,
    )


@contextmanager
def serving(ranks: int, model: str, address: str, folder: Path) -> Iterator[None]:
    words = [str(BIN / "forcenet-md"), "serve", "--model", model, "--listen", address]
    launch = [str(BIN / "mpirun"), "-n", str(ranks)] if ranks > 1 else []
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen([*launch, *words], stdout=file, stderr=file, env=ENVIRONMENT)
    try:
        while "\nready" not in log.read_text():
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def measure(name: str, atoms: int, steps: int) -> dict[str, float]:
    """Seconds per step of each way."""
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = name
        if name == "tiny":
            model = str(folder / "tiny.pt")
            write_tiny(folder / "tiny.pt")
        text = INPUT.replace("nvt temp 600 600 0.1", "nve").replace("run 20", "run 1")
        inside = [str(BIN / "forcenet-md"), "lammps", "--model", model]
        socket, mpi = f"unix:{folder}/s", f"mpi:{folder}/p"

        def write(address: str) -> None:
            external = EXTERNAL.format(address=address)
            (folder / "in").write_text(text.format(*CELLS[atoms], steps=steps, external=external))

        for _ in range(REPEATS):
            for way, ranks, address in (
                ("one rank", 1, socket),
                ("gathered", 2, socket),
                ("mpi:", 2, mpi),
            ):
                write(address)
                with serving(ranks, model, address, folder):
                    seconds = loop_time([str(BIN / "lmp")], ranks, steps, folder)
                times.setdefault(way, []).append(seconds)
            times.setdefault("in process", []).append(loop_time(inside, 2, steps, folder))
    return {way: min(seconds) for way, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", help="only the rows of this model")
    arguments = parser.parse_args()
    lines = [
        "# Gathered through one process, or direct: ms per step of LAMMPS",
        "",
        f"{hardware()}; float32, one thread a rank; the best of {REPEATS} runs taken in turn.",
        "`one rank`: LAMMPS and the server on one rank each. `gathered`: both on two ranks, all"
        " atoms through rank 0 of LAMMPS, a socket and rank 0 of the server. `mpi:`: both on two"
        " ranks, each of LAMMPS's speaks to one of the server's. `in process`: `forcenet-md lammps`"
        " on two ranks. `tiny` is a network of next to no work.",
        "Made by `python -m benchmarks.ways --out …`.",
        "",
        "| model | atoms | one rank | gathered | mpi: | in process | gathered / mpi:"
        " | gathered / in process |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, atoms, steps in ROWS:
        if arguments.model not in (None, name):
            continue
        found = measure(name, atoms, steps)
        cells = " | ".join(f"{1e3 * seconds:.1f}" for seconds in found.values())
        ratios = [found["gathered"] / found[way] for way in ("mpi:", "in process")]
        cells += "".join(f" | {ratio:.2f}" for ratio in ratios)
        lines.append(f"| {name} | {atoms} | {cells} |")
        print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
