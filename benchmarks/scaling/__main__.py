"""Weak and strong scaling over many ranks: what they compute and send is counted, the time that it
takes is modelled.

    python -m benchmarks.scaling [--out benchmarks/results/scaling.md] [--figure docs/scaling.svg]

Seven minutes of one core and 2 GiB; no forces are computed. Every assumption of the model has an
option (--latency 5e-6 …); those of the code as it is today begin with --today.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from math import inf
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.network import copper as graph_of
from benchmarks.network import timed
from benchmarks.scaling.cases import Case, compare_all, count_blocks, root_seconds, uneven
from benchmarks.scaling.figure import draw
from benchmarks.scaling.model import Machine, Network
from benchmarks.scaling.report import Found, page
from forcenet_md.artifact.export import load_model, read_card
from forcenet_md.artifact.find import model_path
from forcenet_md.models.forcenet import ForceNetConfig
from forcenet_md.writing import write_text

GPU = Machine()
# What the package does now: float32 products that are not rounded to TF32, edges of each step from
# the host and rank 0 between the engine and all others. These two are measured, on one core.
TODAY = replace(GPU, peak=67e12, efficiency=0.5)
STEPS_PER_SEARCH = 8  # in a melt at 1500 K, benchmarks/results/graph.md
NAMES = ("H200, network and exchange alone", "H200, code of today", "one core per rank")


def main(words: Sequence[str] | None = None) -> None:
    given = options(words)
    torch.set_num_threads(1)
    start = perf_counter()
    card = read_card(model_path("alloy"))
    networks = [
        Network.of("alloy", ForceNetConfig(**card.settings)),
        Network.of("paper", ForceNetConfig.paper(neighbour_cap=None)),
    ]
    cases = []
    for case in count_blocks(networks):
        cases.append(case)
        where = f"{case.network.name}, {case.block.n_atoms} atoms, {case.n_ranks} ranks"
        print(f"{perf_counter() - start:.0f} s: {where}", file=sys.stderr)
    wholes, others = list(compare_all(networks)), list(uneven(networks[0]))
    found = Found(cases, wholes, others, networks, machines(given, networks, cases), "")
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = perf_counter() - start
    text = page(replace(found, host=f"It took {seconds / 60:.0f} minutes and {gib:.1f} GiB."))
    print(text)
    if given.out:
        write_text(given.out, text)
    if given.figure:
        draw(found, given.figure)


def options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    for prefix, base in (("", GPU), ("today-", TODAY)):
        for field in fields(Machine):
            default = getattr(base, field.name)
            if prefix and field.name in ("edges", "root"):
                default = None  # measured
            parser.add_argument(f"--{prefix}{field.name}", type=float, default=default)
    return parser.parse_args(words)


def machines(
    given: argparse.Namespace, networks: Sequence[Network], cases: Sequence[Case]
) -> dict[str, dict[str, Machine]]:
    """By name and network; what the host does is timed on one core of this machine."""
    names = [field.name for field in fields(Machine)]
    gpu = Machine(**{name: getattr(given, name) for name in names})
    as_now = {name: getattr(given, f"today_{name}") for name in names}
    root = root_seconds() if as_now["root"] is None else as_now["root"]
    found: dict[str, dict[str, Machine]] = {name: {} for name in NAMES}
    for network in networks:
        edges = edge_seconds(cases, network) if as_now["edges"] is None else as_now["edges"]
        found[NAMES[0]][network.name] = gpu
        found[NAMES[1]][network.name] = Machine(**(as_now | {"edges": edges, "root": root}))
    core = found[NAMES[1]]["alloy"]
    found[NAMES[2]]["alloy"] = replace(
        core,
        peak=2.0 * core_rate(networks[0]),
        efficiency=1.0,
        launch=0.0,
        memory=12 * 2.0**30,
        latency=20e-6,  # a rank that waits sleeps so long at least
        bandwidth=5e9,
        copy=inf,
    )
    return found


def edge_seconds(cases: Sequence[Case], network: Network) -> float:
    """Per atom and step, of the largest counted brick that exchanges rows: the filter of each
    step, and a share of the search."""
    some = [c for c in cases if c.counts and c.network == network and not c.deep]
    largest = max(some, key=lambda c: c.counts[0].atoms)
    seconds = largest.mean(lambda c: c.filter + c.search / STEPS_PER_SEARCH)
    return seconds / largest.counts[0].atoms


def core_rate(network: Network) -> float:
    """Multiply-adds per second of the shipped alloy with 500 atoms on one core of this machine."""
    model, _ = load_model(model_path("alloy"), torch.device("cpu"))
    b = graph_of(500, torch.device("cpu"))
    near = b.vector.norm(dim=1) <= network.cutoff
    source, target, vector = b.source[near], b.target[near], b.vector[near]
    with torch.inference_mode():
        seconds = timed(lambda: model(b.species, source, target, vector), torch.device("cpu"))
    return len(source) * (network.basis + network.layers * network.layer) / seconds


if __name__ == "__main__":
    main()
