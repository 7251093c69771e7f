"""The network alone: the exported form against the form as written and the machine's own peak.

    python -m benchmarks.network [--out benchmarks/results/network.md] [--device cuda:0]

Copper at its density, 6 Å, float32, one thread on a CPU. The peak is a matrix product of the
network's own width timed beside it. "As written" concatenates [ε, h_s, h_t] for every edge.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk
from torch import Tensor

from benchmarks.hardware import hardware
from forcenet_md.artifact.export import export_model, load_model
from forcenet_md.graph.neighbours import build_edges
from forcenet_md.inference.batch import Batch, collate
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig, Interaction
from forcenet_md.models.interface import segment_sum
from forcenet_md.system import System

CONFIGS = {
    "alloy (128, 2 layers)": ForceNetConfig(hidden=128, n_radial=8, n_hidden_edge=1),
    "paper (512, 5 layers)": ForceNetConfig.paper(neighbour_cap=None),
}
REPEAT = {108: (3, 3, 3), 500: (5, 5, 5), 4000: (10, 10, 10)}


def copper(n: int, device: torch.device) -> Batch:
    atoms = bulk("Cu", a=3.615, cubic=True) * REPEAT[n]
    atoms.rattle(0.05, seed=0)
    system = System.from_ase(atoms)
    return collate([(system.numbers, build_edges(system, 6.0))], device, torch.float32)


def as_written(net: ForceNet, b: Batch) -> Tensor:
    """ForceNet with every edge's concatenation in memory."""
    h = net.embed(b.species)
    basis = net.edge_basis(b.species, b.source, b.target, b.vector)
    for layer in net.interactions:
        assert isinstance(layer, Interaction)
        assert layer.edge_filter is not None
        assert layer.node_filter is not None
        e = layer.edge_filter(basis[:, :-1])
        z = torch.cat([e, h.index_select(0, b.source), h.index_select(0, b.target)], dim=1)
        y = layer.node_filter(h)
        m = layer.edge_mlp(z) * basis[:, -1:] * y.index_select(0, b.source)
        x = segment_sum(m, b.target, len(h)) + layer.self_weight * y
        h = h + layer.node_mlp(x)
    return net.readout(h, b.species)["forces"]


def multiply_adds(config: ForceNetConfig, n_edges: int) -> float:
    """Of the folded form's edge part, where nearly all the work is."""
    d = config.hidden
    n_basis = 9 * (config.n_radial or 4)
    radial = 4 * config.n_frequencies * (config.n_radial or 4)
    per_layer = n_basis * d + config.n_hidden_edge * d * d
    return n_edges * (radial + config.n_layers * per_layer)


def timed(f: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    """Median seconds; processor time on a CPU, since its cores are shared."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds = []
    for _ in range(repeats + 2):
        start = clock()
        f()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return float(np.median(seconds[2:]))


def peak(width: int, device: torch.device) -> float:
    """Multiply-adds per second of a matrix product [1024, width] × [width, width] (on a GPU
    [65536, width])."""
    rows = 1024 if device.type == "cpu" else 65536
    a = torch.randn(rows, width, device=device)
    w = torch.randn(width, width, device=device)
    out = torch.empty(rows, width, device=device)
    count = 50

    def products() -> None:
        for _ in range(count):
            torch.mm(a, w, out=out)

    return count * rows * width * width / timed(products, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--atoms", type=int, nargs="*", default=[108, 500])
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    where = hardware() if device.type == "cpu" else torch.cuda.get_device_name(device)
    lines = [
        "# The network alone",
        "",
        f"{where}; fcc Cu, 6 Å, float32" + (", one thread." if device.type == "cpu" else "."),
        "Made by `python -m benchmarks.network --out …`.",
        "",
        "| network | atoms | edges | exported, ms | as written, ms | ratio | fraction of the"
        " matrix-product peak | max ΔF / max F |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        net = ForceNet(config).eval().to(device)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "m.pt")
            export_model(
                net.cpu(), path, name="m", numbers=[29], augmentation="none", test_errors={},
                training_data={"description": "none", "licence": "none", "citation": "none"},
            )  # fmt: skip
            script, _ = load_model(path, device)
        net = net.to(device)
        for n in arguments.atoms:
            b = copper(n, device)
            with torch.inference_mode():
                speed = peak(config.hidden, device)
                fast = timed(partial(script, b.species, b.source, b.target, b.vector), device)
                slow = timed(partial(as_written, net, b), device, 3)
                f = script(b.species, b.source, b.target, b.vector)["forces"]
                g = as_written(net, b)
            error = float((f - g).abs().max() / g.abs().max())
            fraction = multiply_adds(config, len(b.source)) / fast / speed
            lines.append(
                f"| {name} | {n} | {len(b.source)} | {1e3 * fast:.1f} | {1e3 * slow:.1f} |"
                f" {slow / fast:.1f} | {fraction:.2f} | {error:.0e} |"
            )
            print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
