"""What was counted and what the model says, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

from benchmarks.hardware import hardware
from benchmarks.scaling.cases import MOST_ATOMS, Case, Whole, scaled
from benchmarks.scaling.lattice import CONSTANT, MOVED
from benchmarks.scaling.model import (
    Load,
    Machine,
    Network,
    advantage,
    block_load,
    crossings,
    efficiency,
    fits,
    sent_bytes,
    step_seconds,
)

DAY = 86400.0  # s
WEAK = (1e5, 1e6)  # atoms per GPU
STRONG = (1e6, 1e7, 1e8)  # atoms
GPUS = (64, 256, 1024)


MEANING = {
    "peak": "operations/s of the device",
    "efficiency": "share of it that is reached",
    "launch": "s per layer, whatever its size",
    "memory": "bytes of the device",
    "latency": "s per message",
    "bandwidth": "bytes/s that a rank sends",
    "copy": "bytes/s between device and host",
    "edges": "s per atom on the host, for the edges",
    "root": "s per atom of all on rank 0",
}


@dataclass(frozen=True, slots=True)
class Found:
    """All that the page tells; machines: by what they are called, as each network sees them."""

    cases: Sequence[Case]
    wholes: Sequence[Whole]
    uneven: Sequence[Whole]
    networks: Sequence[Network]
    machines: dict[str, dict[str, Machine]]
    host: str


def page(found: Found) -> str:
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Found) -> Iterator[str]:
    yield from ["# Many ranks and one system: what they compute and send", ""]
    yield f"{hardware()}; one thread. Made by `python -m benchmarks.scaling --out …`. {found.host}"
    yield from ["", "Networks:"]
    for n in found.networks:
        yield (
            f"- {n.name}: {n.width} wide, {n.layers} layers, {n.cutoff:g} Å;"
            f" {n.basis + n.layers * n.layer:.3g} multiply-adds per edge and step."
        )
    yield from ["", "## Counted: one block on many ranks", ""]
    yield (
        f"A periodic cube of fcc copper ({CONSTANT} Å, each coordinate off its site by at most"
        f" {MOVED} Å). No force was computed: bricks are cut, told of their"
        " surroundings and divided by the code that ranks run. Bricks of a block are congruent, so"
        " one to four of them are made, with what lies around them."
    )
    yield (
        "“÷ volume” is counted over what volumes say at copper's density: edges a ball, images the"
        " box that is larger by the reach (cutoff and skin) on all sides, ghosts the rounded shell"
        " of the faces that are cut. Fewer ghosts are counted, since few places at the end of the"
        " reach have an atom of the rank within it (also in disorder: see the last table), and a"
        " crystal cut along its planes shows whole planes. MB are sent by a rank in a step."
    )
    yield (
        f"Bricks of more than {MOST_ATOMS:,} atoms are not made: rows marked ~ are volumes times"
        " the ratios of the largest brick that was counted for that network."
    )
    for network in found.networks:
        for deep in (False, True):
            how = "deep ghosts, no rows exchanged" if deep else "rows exchanged before each layer"
            yield from ["", f"### {network.name}: {how}", ""]
            some = [c for c in found.cases if c.network == network and c.deep == deep]
            yield from deep_table(some) if deep else exchange_table(some)
    yield from ["", "## Counted: all ranks of smaller systems", ""]
    yield (
        "A thread for each rank, in turn. “Bricks alike”: of ranks whose brick was also made alone,"
        " as above, those whose every count is the same. Sent: the rows that all ranks send are"
        " those that all receive."
    )
    yield from ["", *whole_table(found.wholes), ""]
    yield (
        "Bricks that are not congruent: a block whose atoms are off their sites by up to 2.5 Å in"
        " each direction, a film of 8 cells under 20 Å of vacuum, a droplet in a cell half as wide"
        " again."
    )
    yield from ["", *whole_table(found.uneven)]
    yield from ["", "## Modelled, not measured", ""]
    yield from _model_lines(found)


def exchange_table(cases: Sequence[Case]) -> Iterator[str]:
    yield (
        "| atoms | ranks | bricks counted | atoms per rank | edges per rank | ÷ volume | images ÷"
        " box | ghosts | ÷ volume | neighbour ranks | MB | edges, max / mean |"
    )
    yield "|---" * 12 + "|"
    for case in cases:
        load = scaled(case, cases)
        yield _row(
            f"{case.block.n_atoms:,}",
            case.n_ranks,
            len(case.counts) or "~",
            f"{load.atoms:,.0f}",
            f"{load.edges[0]:,.0f}",
            *_ratios(case, load),
            number(sent_bytes(load, case.network) / 1e6),
            _imbalance(case),
        )


def deep_table(cases: Sequence[Case]) -> Iterator[str]:
    layers = cases[0].network.layers
    yield (
        "| atoms | ranks | bricks counted | atoms per rank | rows computed in layers"
        f" 1 … {layers}, ÷ own | edges of all layers ÷ those without ghosts | ÷ volume | images ÷"
        " box | ghosts | ÷ volume | neighbour ranks | MB |"
    )
    yield "|---" * 12 + "|"
    for case in cases:
        load = scaled(case, cases)
        own = load.edges[-1]
        yield _row(
            f"{case.block.n_atoms:,}",
            case.n_ranks,
            len(case.counts) or "~",
            f"{load.atoms:,.0f}",
            " ".join(f"{e / own:.2f}" for e in load.edges),
            f"{sum(load.edges) / own / layers:.2f}",
            *_ratios(case, load),
            number(sent_bytes(load, case.network) / 1e6),
        )


def _ratios(case: Case, load: Load) -> tuple[object, ...]:
    """Edges and images over volumes, ghosts, those over volumes, neighbour ranks."""
    if not case.counts:
        return "~", "~", f"{load.ghosts:,.0f}", "~", load.messages
    edges, points, ghosts = (f"{ratio:.2f}" for ratio in case.ratios)
    ghosts = ghosts if load.ghosts else ""
    return edges, points, f"{load.ghosts:,.0f}", ghosts, load.messages


def _imbalance(case: Case) -> str:
    if len(case.counts) < 2:
        return ""
    edges = [c.edges[0] for c in case.counts]
    return f"{max(edges) / case.mean(lambda c: c.edges[0]):.3f}"


def whole_table(wholes: Sequence[Whole]) -> Iterator[str]:
    yield (
        "| system | atoms | network | ghosts | ranks | edges of all layers, max / mean | ghosts,"
        " mean | ÷ volume | max / mean | neighbour ranks | sent = received | bricks alike |"
    )
    yield "|---" * 12 + "|"
    for w in wholes:
        edges, ghosts = w.of(lambda c: sum(c.edges)), w.of(lambda c: c.ghosts)
        messages, sent = w.of(lambda c: c.messages), w.of(lambda c: c.sent)
        yield _row(
            w.name,
            f"{w.n_atoms:,}",
            w.network.name,
            "deep" if w.deep else "exchanged",
            len(w.counts),
            f"{edges.max() / edges.mean():.3f}",
            f"{ghosts.mean():,.0f}",
            f"{ghosts.mean() / w.load.ghosts:.2f}" if w.load else "",
            f"{ghosts.max() / ghosts.mean():.3f}",
            f"{messages.min():.0f} to {messages.max():.0f}",
            "yes" if sent.sum() == ghosts.sum() else "NO",
            f"{w.same[1]} of {w.same[0]}" if w.same[0] else "",
        )


def _model_lines(found: Found) -> Iterator[str]:
    yield "step = compute + exchange + host, as `benchmarks/scaling/model.py` says. Assumed:"
    yield from ["", f"| | {' | '.join(found.machines)} |", "|---" * (1 + len(found.machines)) + "|"]
    for key, meaning in MEANING.items():
        values = [
            " / ".join(dict.fromkeys(f"{getattr(m, key):.3g}" for m in machines.values()))
            for machines in found.machines.values()
        ]
        yield _row(f"`{key}`: {meaning}", *values)
    yield from ["", "Two numbers are those of alloy / paper."]
    yield from ["", "### Exchanged rows against deep ghosts", ""]
    yield "Time with deep ghosts over time with exchanged rows, cubic bricks cut on all sides:"
    sizes = [10**k for k in range(2, 7)]
    heads = " | ".join(f"{n:,}" for n in sizes)
    yield from ["", f"| machine | network | {heads} | exchange is faster |", "|---" * 8 + "|"]
    for name, machines in variants(found.machines).items():
        for network in found.networks:
            if network.name in machines:
                machine = machines[network.name]
                times = [f"{advantage(n, network, machine):.2f}" for n in sizes]
                yield _row(name, network.name, *times, where(network, machine))
    for network in found.networks:
        yield from ["", f"### {network.name} on many GPUs", ""]
        yield (
            "| machine | atoms | GPUs | atoms per GPU | ms per step | efficiency | steps per day |"
            " atoms × steps per day |"
        )
        yield "|---" * 8 + "|"
        for name, machines in found.machines.items():
            if network.name in machines and "H200" in name:
                yield from gpu_rows(name, network, machines[network.name])


def variants(machines: dict[str, dict[str, Machine]]) -> dict[str, dict[str, Machine]]:
    """With the first of them in which one assumption is another."""
    first, *others = machines.items()
    name, base = first
    changes: dict[str, dict[str, float]] = {
        "rows sent from the GPU's memory": {"copy": inf},
        "0.5 of the peak": {"efficiency": 0.5},
        "0.125 of the peak": {"efficiency": 0.125},
        "latency 10 µs": {"latency": 1e-5},
        "bandwidth 10 GB/s": {"bandwidth": 1e10},
    }
    found = {name: base}
    for what, change in changes.items():
        found[f"… {what}"] = {network: replace(m, **change) for network, m in base.items()}
    return found | dict(others)


def gpu_rows(name: str, network: Network, machine: Machine) -> Iterator[str]:
    """Weak and strong scaling, ghost rows exchanged."""
    sizes = [(n * gpus, gpus, True) for n in WEAK for gpus in (1, *GPUS)]
    sizes += [(n, gpus, False) for n in STRONG for gpus in (1, *GPUS)]
    for n_atoms, gpus, weak in sizes:
        load = block_load(n_atoms, gpus, network, deep=False)
        seconds = step_seconds(load, network, machine, n_atoms)
        share = efficiency(n_atoms, gpus, network, machine, weak)
        words = "does not fit" if not fits(load, network, machine) else number(1e3 * seconds)
        yield _row(
            name,
            f"{n_atoms:.3g}",
            gpus,
            f"{load.atoms:,.0f}",
            words,
            f"{share:.2f} {'weak' if weak else 'strong'}",
            f"{DAY / seconds:,.0f}",
            f"{n_atoms * DAY / seconds:.2g}",
        )


def where(network: Network, machine: Machine) -> str:
    """For how many atoms per rank exchanged rows are faster, in words."""
    turns = list(crossings(network, machine))
    if not turns:
        return "always" if advantage(1e4, network, machine) > 1.0 else "never"
    parts = [] if turns[0][1] else [f"below {turns[0][0]:,.0f}"]
    for i, (at, begins) in enumerate(turns):
        if begins:
            end = f" to {turns[i + 1][0]:,.0f}" if i + 1 < len(turns) else ""
            parts.append(f"{'from' if end else 'above'} {at:,.0f}{end}")
    return ", ".join(parts)


def number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100.0 else f"{x:.3g}"


def _row(*words: object) -> str:
    return f"| {' | '.join(map(str, words))} |"
