"""Training throughput: frames per second, and the share of the processor's matrix-product rate.

    python -m benchmarks.training [--first CHECKOUT] [--out FILE]

108-atom crystals of Ag Au Cu Pd Pt, labelled with ASE's EMT, two frames a step, one thread. Three
forms of the same training step, interleaved, medians of processor time: as the paper writes it
(the concatenation of each edge with its atoms), with the first Linear split (plain autograd), and
the folded form with its gradient written out, which the trainer uses. Then whole runs of the
trainer, everything included; with --first also of the trainer in a checkout of version 0.1.0. A
matrix product is timed beside every step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from ase.build import bulk
from torch import Tensor
from torch_geometric.data import Batch

from benchmarks.hardware import hardware
from forcenet_md.data.frames import write_frames
from forcenet_md.data.teachers import open_teacher
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig, Interaction
from forcenet_md.models.interface import segment_sum
from forcenet_md.training.config_file import load_config
from forcenet_md.training.fused import fused_forces
from forcenet_md.training.graphs import to_graph
from forcenet_md.training.survey import open_frames

ROUNDS = 8
STEPS = 80
MODELS = {
    "tiny": load_config("tiny", ["data.train=x"]).model,
    "small": load_config("small", ["data.train=x"]).model,
    "256 wide, as the paper's": {"hidden": 256, "n_layers": 3, "cutoff": 6.0, "norm": "batch"},
}


def write_crystals(path: Path, n: int) -> None:
    """Random alloys of 108 atoms, rattled, with labels."""
    frames = []
    with open_teacher("emt") as teacher:
        for seed in range(n):
            rng = np.random.default_rng(seed)
            atoms = bulk("Ag", "fcc", a=4.0, cubic=True) * (3, 3, 3)
            atoms.set_chemical_symbols(rng.choice(["Ag", "Au", "Cu", "Pd", "Pt"], 108).tolist())
            atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
            atoms.info["trajectory"] = f"t{seed}"
            frames.append(teacher.label(atoms))
    write_frames(path, frames)


def concatenated(model: ForceNet, species: Tensor, source: Tensor, target: Tensor,
                 vector: Tensor) -> Tensor:  # fmt: skip
    """As the paper writes it: F_e on [F_b b, h_s, h_t]."""
    h = model.embed(species)
    basis = model.edge_basis(species, source, target, vector)
    for layer in model.interactions:
        assert isinstance(layer, Interaction)
        assert layer.edge_filter is not None
        assert layer.node_filter is not None
        e = layer.edge_filter(basis[:, :-1])
        filters = layer.edge_mlp(torch.cat([e, h[source], h[target]], dim=1))
        y = layer.node_filter(h)
        x = segment_sum(filters * basis[:, -1:] * y[source], target, len(h))
        h = h + layer.node_mlp(x + layer.self_weight * y)
    return model.readout(h, species)["forces"]


def split(model: ForceNet, *inputs: Tensor) -> Tensor:
    return model(*inputs)["forces"]


FORMS: dict[str, Callable[..., Tensor]] = {
    "as written": concatenated,
    "split, autograd": split,
    "folded, own gradient": fused_forces,
}


def multiply_adds(model: ForceNet, n_atoms: int, n_edges: int) -> int:
    """Of the folded form's forward pass; its gradient has twice as many."""
    c, basis = model.config, model.basis
    d = c.hidden
    radial = 4 * c.n_frequencies * (c.n_radial or 4)
    edge = radial + c.n_layers * (basis.n_out * d + c.n_hidden_edge * d * d)
    node = 9 * c.n_frequencies * d + c.n_layers * 5 * d * d + 2 * d * d
    return n_edges * edge + n_atoms * node


def matrix_rate() -> float:
    """Multiply-adds per second of processor time of a 1024³ product in single precision."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    start = time.process_time()
    for _ in range(4):
        torch.mm(a, b)
    return 4 * 1024**3 / (time.process_time() - start)


def measure_forms(folder: Path) -> list[str]:
    rows = []
    frames = open_frames([folder / "frames.extxyz"], folder)
    for name, settings in MODELS.items():
        torch.manual_seed(0)
        settings = {"mean_neighbours": 50.0, **settings}
        model = ForceNet(ForceNetConfig(**settings))
        optimizer = torch.optim.Adam(model.parameters())
        graphs = [to_graph(frames[k], model.cutoff) for k in range(2)]
        b = Batch.from_data_list(graphs)
        inputs = (b.species, *b.edge_index, b.vector)
        products = 3 * multiply_adds(model, b.num_nodes, b.num_edges)
        times: dict[str, list[float]] = {form: [] for form in FORMS}
        shares: dict[str, list[float]] = {form: [] for form in FORMS}
        for _ in range(ROUNDS):
            for form, forces in FORMS.items():
                rate = matrix_rate()
                start = time.process_time()
                optimizer.zero_grad(set_to_none=True)
                (forces(model, *inputs) - b.forces).abs().mean().backward()
                optimizer.step()
                times[form].append(time.process_time() - start)
                shares[form].append(products / times[form][-1] / rate)
        first = statistics.median(times["as written"])
        for form in FORMS:
            median = statistics.median(times[form])
            share = statistics.median(shares[form])
            rows.append(
                f"| {name} | {b.num_edges // b.num_nodes} | {form} | {2 / median:.1f} |"
                f" {share:.2f} | {first / median:.2f} |"
            )
            print(rows[-1], flush=True)
    return rows


def measure_runs(folder: Path, first: Path | None) -> list[str]:
    """Whole runs; processor time of STEPS steps is that of a long run less that of a short one."""
    rows = []
    for name in ("small",):
        found: dict[str, list[float]] = {}
        for _ in range(2):
            for label, settings, checkout in trainers(first):
                times = [run(folder, name, steps, settings, checkout) for steps in (10, 10 + STEPS)]
                found.setdefault(label, []).append(2 * STEPS / (times[1] - times[0]))
        for label, rates in found.items():
            rows.append(f"| {name} | {label} | {statistics.median(rates):.1f} |")
            print(rows[-1], flush=True)
    return rows


def trainers(first: Path | None) -> list[tuple[str, dict[str, str], Path | None]]:
    """Name, settings beside the steps, and checkout (None: this one)."""
    ours = [(f"this version, {kind}", {"optimizer": kind}, None) for kind in ("adam", "muon")]
    return [*ours, ("version 0.1.0 (Adam)", {}, first)] if first else [*ours]


def run(
    folder: Path, name: str, steps: int, settings: dict[str, str], checkout: Path | None
) -> float:
    """Processor seconds of `forcenet-md train`."""
    tree = {
        "folder": str(folder / f"run-{time.monotonic_ns()}"),
        "output": str(folder / f"m-{time.monotonic_ns()}.pt"),
        "data": {"train": str(folder / "frames.extxyz"), "validation_fraction": 0.0},
        "model": MODELS[name],
        "training": {"steps": steps, "batch": 2, **settings},
        "card": {"name": "x", "description": "x", "licence": "x", "citation": "x"},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    root = checkout or Path(__file__).resolve().parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = os.times()
    subprocess.run(
        [sys.executable, "-m", "forcenet_md", "train", str(config)],
        check=True, capture_output=True, env=environment, cwd=root,  # found there before all else
    )  # fmt: skip
    after = os.times()
    used = after.children_user - before.children_user
    return used + after.children_system - before.children_system


def main(first: Path | None, out: Path | None) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_crystals(folder / "frames.extxyz", 40)
        forms, runs = measure_forms(folder), measure_runs(folder, first)
    lines = [
        "# Training throughput",
        "",
        f"{hardware()}; one thread, float32, two frames of 108 atoms a step, processor time.",
        "Made by `python -m benchmarks.training --first CHECKOUT --out …`.",
        "",
        "One step (forward, gradient, Adam) on a batch that is there. Share: multiply-adds of the",
        "folded form over those a 1024³ product does in the same time: the three forms of a model",
        "are counted alike.",
        "",
        "| model | neighbours | form | frames/s | share of the product's rate | ratio |",
        "|---|---|---|---|---|---|",
        *forms,
        "",
        f"`forcenet-md train`, {STEPS} steps with reading, neighbour lists, rotation, clipping and",
        "weight average (version 0.1.0 kept its graphs in memory).",
        "",
        "| model | trainer | frames/s |",
        "|---|---|---|",
        *runs,
    ]
    text = "\n".join(lines) + "\n"
    if out is not None:
        out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Training throughput.")
    parser.add_argument("--first", type=Path, help="a checkout of version 0.1.0")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    main(given.first, given.out)
