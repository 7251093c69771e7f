"""A model of the time of one step on many ranks. Nothing here is measured: `Machine` names what is
assumed.

    step = compute + exchange + host

compute   multiply-adds of the edges' part over the rate of the device, and a constant per layer
exchange  rounds × messages × latency, and bytes / bandwidth, and their copies to the host and back;
          no part of it is taken to be hidden behind the computing, though the code does hide some
host      edges of the rank's atoms, and what rank 0 does with the positions and forces of all
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, exp, log, log2, pi, prod

from benchmarks.network import multiply_adds
from benchmarks.scaling.lattice import DENSITY
from forcenet_md.graph.neighbours import SLACK
from forcenet_md.inference.ranks import SKIN
from forcenet_md.models.forcenet import ForceNetConfig

BALL = (1.0, 2.0, pi, 4.0 / 3.0 * pi)  # volume of the unit ball in 0 to 3 dimensions
POSITION = 24  # bytes
NUMBER = 4  # bytes of a node row's numbers as they travel


@dataclass(frozen=True, slots=True)
class Network:
    """What the cost of a ForceNet depends on.

    basis, layer: multiply-adds of an edge, once per step and in each layer
    """

    name: str
    width: int
    layers: int
    cutoff: float
    basis: float
    layer: float

    @classmethod
    def of(cls, name: str, config: ForceNetConfig) -> Network:
        basis = 4.0 * config.n_frequencies * (config.n_radial or 4)
        layer = (multiply_adds(config, 1) - basis) / config.n_layers
        return cls(name, config.hidden, config.n_layers, config.cutoff, basis, layer)

    @property
    def reach(self) -> float:
        """Å, of the pairs that are kept from step to step."""
        return self.cutoff + SKIN + SLACK

    @property
    def neighbours(self) -> float:
        """Of an atom of copper, by density."""
        return DENSITY * BALL[3] * self.cutoff**3


@dataclass(frozen=True, slots=True)
class Machine:
    """What is assumed of the machine; seconds, bytes, multiply-adds as two operations.

    peak: operations/s of the device (an H200 with dense TF32 products)
    efficiency: share of it that the network reaches
    launch: s per layer that does not depend on the atoms (a GPU's kernels are started one by one)
    memory: bytes of the device
    latency: s per message; bandwidth: bytes/s that a rank sends, while it receives as many
    copy: bytes/s between device and host, through whose memory rows travel; inf: they do not
    edges: s per atom for the edges of a step where the host makes them; 0: the device does
    root: s per atom of the whole system that rank 0 takes at each step; 0: ranks own their atoms
    """

    peak: float = 494e12
    efficiency: float = 0.25
    launch: float = 2e-4
    memory: float = 139 * 2.0**30
    latency: float = 2e-6
    bandwidth: float = 50e9
    copy: float = 25e9
    edges: float = 0.0
    root: float = 0.0

    @property
    def rate(self) -> float:
        """Multiply-adds per second."""
        return self.peak * self.efficiency / 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a rank computes and sends in a step.

    edges: in each layer; rows: atoms whose edges the host makes; rounds: exchanges of node rows
    """

    atoms: float
    rows: float
    edges: tuple[float, ...]
    ghosts: float
    messages: float
    rounds: int


def sides(n_atoms: float, n_ranks: int) -> tuple[list[float], list[int]]:
    """A brick of a periodic cube, Å, and into how many the cube is cut in each direction, where
    bisection halves the longest side until there are n_ranks (a power of two)."""
    cuts = round(log2(n_ranks))
    if 2**cuts != n_ranks:
        raise ValueError(f"{n_ranks} ranks: take a power of two")
    length = (n_atoms / DENSITY) ** (1 / 3)
    parts = [2 ** ((cuts + 2 - k) // 3) for k in range(3)]
    return [length / p for p in parts], parts


def rounded_shell(brick: Sequence[float], parts: Sequence[int], depth: float) -> float:
    """Å³ within `depth` Å outside a brick (Steiner's formula); directions that are not cut have no
    outside."""
    cut = [side for side, p in zip(brick, parts, strict=True) if p > 1]
    whole = prod(side for side, p in zip(brick, parts, strict=True) if p == 1)
    n = len(cut)
    faces = (
        BALL[k] * depth**k * sum(prod(some) for some in combinations(cut, n - k))
        for k in range(1, n + 1)
    )
    return whole * sum(faces)


def square_shell(brick: Sequence[float], depth: float) -> float:
    """Å³ of the box that is larger by `depth` Å on all sides, without the brick."""
    return prod(side + 2 * depth for side in brick) - prod(brick)


def block_load(n_atoms: float, n_ranks: int, network: Network, deep: bool) -> Load:
    """The load of each rank of a periodic cube of copper, by volumes."""
    return brick_load(*sides(n_atoms, n_ranks), network, deep)


def brick_load(brick: Sequence[float], parts: Sequence[int], network: Network, deep: bool) -> Load:
    """The load of a brick, Å, of a cube cut into so many parts in each direction, by volumes."""
    atoms = DENSITY * prod(brick)
    most = atoms * (prod(parts) - 1)  # each atom of the others is one ghost

    def shell(depth: float) -> float:
        return min(DENSITY * rounded_shell(brick, parts, depth), most)

    layers = range(network.layers)
    reach = network.reach
    depth = reach * network.layers if deep else reach
    rows = [atoms + (shell(reach * (network.layers - 1 - k)) if deep else 0.0) for k in layers]
    near = [min(p, 2 * ceil(depth / side) + 1) for side, p in zip(brick, parts, strict=True)]
    return Load(
        atoms=atoms,
        rows=rows[0],
        edges=tuple(network.neighbours * n for n in rows),
        ghosts=shell(depth),
        messages=prod(near) - 1,
        rounds=0 if deep or prod(parts) == 1 else network.layers - 1,
    )


def sent_bytes(load: Load, network: Network) -> float:
    """Of a rank in a step: positions, and node rows before each layer but the first."""
    return load.ghosts * (POSITION + load.rounds * network.width * NUMBER)


def compute_seconds(load: Load, network: Network, machine: Machine) -> float:
    work = network.basis * load.edges[0] + network.layer * sum(load.edges)
    return work / machine.rate + network.layers * machine.launch


def exchange_seconds(load: Load, network: Network, machine: Machine) -> float:
    if not load.messages:
        return 0.0
    rows = load.ghosts * load.rounds * network.width * NUMBER
    waiting = (load.rounds + 1) * load.messages * machine.latency
    return waiting + sent_bytes(load, network) / machine.bandwidth + 2.0 * rows / machine.copy


def step_seconds(load: Load, network: Network, machine: Machine, n_atoms: float) -> float:
    """Of a system of n_atoms, one rank's share of which is `load`."""
    host = machine.edges * load.rows + machine.root * n_atoms
    computing = compute_seconds(load, network, machine)
    return computing + exchange_seconds(load, network, machine) + host


def fits(load: Load, network: Network, machine: Machine) -> bool:
    """Whether the node rows of two layers fit the device, with a tenth of it left."""
    return 2 * (load.atoms + load.ghosts) * network.width * NUMBER < 0.9 * machine.memory


def efficiency(
    n_atoms: float, n_ranks: int, network: Network, machine: Machine, weak: bool
) -> float:
    """Time on one rank over time on n_ranks, for as many atoms per rank (weak) or in all
    (strong: over n_ranks times it). Ghost rows are exchanged."""

    def seconds(atoms: float, ranks: int) -> float:
        load = block_load(atoms, ranks, network, deep=False)
        return step_seconds(load, network, machine, atoms)

    many = seconds(n_atoms, n_ranks)
    return seconds(n_atoms / n_ranks, 1) / many if weak else seconds(n_atoms, 1) / many / n_ranks


def advantage(atoms: float, network: Network, machine: Machine) -> float:
    """Time with deep ghosts over time with exchanged rows, of a cubic brick of so many atoms in a
    system so large that it is cut on all sides."""
    brick, parts = [(atoms / DENSITY) ** (1 / 3)] * 3, [2**20] * 3
    exchanged, deep = (
        step_seconds(brick_load(brick, parts, network, d), network, machine, 0.0)
        for d in (False, True)
    )
    return deep / exchanged


def crossings(
    network: Network, machine: Machine, low: float = 100.0, high: float = 1e8
) -> Iterator[tuple[float, bool]]:
    """Atoms per rank at which exchange begins (True) or ceases to beat deep ghosts."""
    steps = 240
    at = [low * exp(log(high / low) * k / steps) for k in range(steps + 1)]
    better = [advantage(n, network, machine) > 1.0 for n in at]
    for k in range(steps):
        if better[k] != better[k + 1]:
            yield (at[k] * at[k + 1]) ** 0.5, better[k + 1]
