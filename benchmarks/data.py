"""Memory and time of compiling and reading training sets, by the number of frames.

Each size is a process of its own, so that its peak of resident memory is its own:

    python -m benchmarks.data 10000 100000 1000000

prints the table of benchmarks/results/data.md. The frames are short extended XYZ, read by the same
code as a user's file; then they are read in random order by two worker processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from forcenet_md.data.store import Frames, Store, compile_store

ATOMS = 4
WORKERS = 2
BATCH = 50
MOST_READ = 50_000


def peak_mb() -> float:
    """Of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_frames(path: Path, n: int) -> None:
    """Copper at random displacements, eight frames a trajectory; written without being held."""
    lattice = 3.6 * np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    rng = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as file:
        for k in range(n):
            rows = np.hstack([lattice, np.zeros((ATOMS, 3))]) + rng.normal(0.0, 0.1, (ATOMS, 6))
            file.write(
                f'{ATOMS}\nLattice="3.6 0 0 0 3.6 0 0 0 3.6" Properties=species:S:1:pos:R:3:'
                f'forces:R:3 trajectory={k // 8} energy={-k / n:.6f} pbc="T T T"\n'
            )
            file.writelines("Cu " + " ".join(f"{v:.8f}" for v in row) + "\n" for row in rows)


class Reads(Dataset[tuple[float, float]]):
    """Reads a frame; answers with a force and the peak memory of the process that read it."""

    def __init__(self, path: Path) -> None:
        self.frames = Frames([Store(path)])

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, i: int) -> tuple[float, float]:
        return float(self.frames[i].forces[0, 0]), peak_mb()


class Order(Sampler[int]):
    """A permutation, held as one array."""

    def __init__(self, n: int) -> None:
        self.rows = np.random.default_rng(1).permutation(n)[:MOST_READ]

    def __iter__(self) -> Iterator[int]:
        return (int(row) for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def compile_one(source: Path, store: Path, answer: multiprocessing.SimpleQueue) -> None:
    """In a process of its own."""
    before, start = peak_mb(), time.perf_counter()
    compile_store([source], store)
    answer.put((before, peak_mb(), time.perf_counter() - start))


def read_one(store: Path) -> tuple[int, float, float]:
    """Frames read, the largest peak of a worker in MB, seconds."""
    reads = Reads(store)
    order = Order(len(reads))
    loader = DataLoader(
        reads, BATCH, sampler=order, num_workers=WORKERS, multiprocessing_context="spawn"
    )
    start = time.perf_counter()
    peak = max(float(peaks.max()) for _, peaks in loader)
    return len(order), peak, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=int, nargs="+")
    parser.add_argument("--folder", type=Path, help="where the files are made")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(
        "| frames | source MB | store MB | compiling: frames/s | peak MB, of which before |", end=""
    )
    print(" read at random | frames/s | peak MB of a worker |")
    print("|---|---|---|---|---|---|---|---|")
    for n in arguments.frames:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            source, store = Path(name) / "frames.extxyz", Path(name) / "frames.h5"
            write_frames(source, n)
            answer = context.SimpleQueue()
            process = context.Process(target=compile_one, args=(source, store, answer))
            process.start()
            before, peak, seconds = answer.get()
            process.join()
            read, worker, reading = read_one(store)
            print(
                f"| {n} | {source.stat().st_size / 1e6:.0f} | {store.stat().st_size / 1e6:.0f} |"
                f" {n / seconds:.0f} | {peak:.0f}, {before:.0f} | {read} | {read / reading:.0f} |"
                f" {worker:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
