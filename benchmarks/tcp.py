"""What a network between LAMMPS and the server adds to a step. Needs root's rights and `ip`.

    python -m benchmarks.tcp [--out benchmarks/results/tcp.md]

LAMMPS stands in another network namespace of the same machine, so this is the cost of the system's
tcp alone: the cables and switches of a cluster come on top. The server answers zeros; unix socket
and tcp take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks import step
from benchmarks.hardware import hardware
from forcenet_md.inference.load import load_evaluator
from forcenet_md.server.address import Listener, TcpAddress, UnixAddress
from forcenet_md.server.loop import Server

HERE, THERE = "10.213.78.1", "10.213.78.2"
SIZES = {500: ((5, 5, 5), 500), 4000: ((10, 10, 10), 200)}
ROUNDS = 15


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


@contextmanager
def namespace() -> Iterator[str]:
    """The name of a network namespace that reaches this one over a veth pair."""
    name, cable = f"fnmd-{os.getpid()}", f"fnmd{os.getpid()}"
    ip(f"netns add {name}")
    try:
        ip(f"link add {cable} type veth peer name cable netns {name}")
        ip(f"address add {HERE}/24 dev {cable}")
        ip(f"link set {cable} up")
        ip(f"-n {name} address add {THERE}/24 dev cable")
        ip(f"-n {name} link set cable up")
        ip(f"-n {name} link set lo up")
        yield name
    finally:
        ip(f"netns delete {name}")


def measure(evaluator: step.Zeros, n: int, name: str, folder: Path) -> str:
    """One row: ms of a step."""
    size, steps = SIZES[n]
    script = folder / "lmp-there"
    script.write_text(f'#!/bin/sh\nexec ip netns exec {name} {step.BIN}/lmp "$@"\n')
    script.chmod(0o700)
    listeners = [Listener(UnixAddress(folder / "s.sock")), Listener(TcpAddress(HERE, 0))]
    for listener in listeners:
        listener.listen()
    server = Server(evaluator, listeners, monitor=step.Recorder())
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        times: dict[str, list[float]] = {"unix": [], "tcp": []}
        for _ in range(ROUNDS):
            for kind, listener in zip(times, listeners, strict=True):
                external = step.EXTERNAL.format(address=listener.address)
                times[kind].append(1e3 * step.lmp(size, steps, external, script))
    finally:
        server.stop()
        thread.join()
    unix, tcp = (np.sort(times[kind]) for kind in ("unix", "tcp"))
    added = [f"{unix[i]:.3f} | {tcp[i]:.3f} | {tcp[i] - unix[i]:+.3f}" for i in (0, ROUNDS // 2)]
    return f"| {n} | " + " | ".join(added) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    out: Path | None = parser.parse_args().out
    evaluator = step.Zeros(load_evaluator("alloy"))
    with namespace() as name, tempfile.TemporaryDirectory() as folder:
        rows = [measure(evaluator, n, name, Path(folder)) for n in SIZES]
    text = "\n".join(
        [
            "# LAMMPS and server on two network namespaces, ms per step\n",
            f"{hardware()}; a server that answers zeros, `lmp` on one rank, {ROUNDS} rounds.",
            "Made by `python -m benchmarks.tcp --out …`.\n",
            "| atoms | unix socket, best | tcp, best | added"
            " | unix socket, median | tcp, median | added |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()
