"""What a server tells whoever watches it (`forcenet-md watch`): both ends of STATUS."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from forcenet_md import __version__
from forcenet_md.errors import ProtocolError
from forcenet_md.inference.interface import Capabilities, Evaluator
from forcenet_md.inference.watched import WatchedEvaluator
from forcenet_md.server.monitor import Monitor

Lines = list[tuple[str, str]]  # key and value of each

SILENT = 30.0  # s without a step, from which a simulation is said to be
ROWS = {
    "step": "step",
    "atoms": "atoms",
    "temperature": "temperature, K",
    "heating": "model heats, K/ps",
    "means": "means of the last",
    "force": "largest force, eV/Å",
    "net": "net force, eV/Å per atom",
    "torque": "forces of the torque, eV/Å per atom",
    "distance": "closest pair / known",
    "spread": "spread, eV/Å",
    "warned": "warnings",
}


def status_of(evaluator: Evaluator, monitor: Monitor) -> Lines:
    """The payload of STATUS where one evaluator answers all simulations."""
    figures = evaluator.figures() if isinstance(evaluator, WatchedEvaluator) else {}
    return status_lines(evaluator.capabilities, monitor, figures)


def status_lines(
    model: Capabilities, monitor: Monitor, figures: Mapping[int, Mapping[str, str]]
) -> Lines:
    """The payload of STATUS: counts since the start, and what is seen of each simulation.

    figures: by stream (`interface.Moment`); parts that nobody has measured are left out,
        and a net force that training left free, which means nothing
    """
    nothing = {"net"} if model.net_force_removed else set()
    totals = monitor.totals
    lines = [
        ("server", f"forcenet-md {__version__}"),
        ("model", model.name),
        ("ranks", str(model.ranks)),
        ("clients", str(monitor.clients)),
        ("clock", f"{time.monotonic():.6f}"),
        ("steps", str(totals.steps)),
        ("atoms", str(totals.atoms)),
        *(("part", f"{name} {seconds:.6f}") for name, seconds in totals.parts.items() if seconds),
    ]
    for stream, told in sorted(figures.items()):
        lines += [
            ("simulation", f"{stream + 1} {key} {value}")
            for key, value in told.items()
            if key not in nothing
        ]
    return lines


@dataclass(frozen=True, slots=True)
class Status:
    """STATUS, as who watches reads it.

    clock: seconds of the server's clock; parts: seconds in all, by name
    simulations: what is known of each, by its number from 1
    """

    server: str
    model: str
    ranks: int
    clients: int
    clock: float
    steps: int
    atoms: int
    parts: dict[str, float] = field(default_factory=dict)
    simulations: dict[int, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, lines: dict[str, list[str]]) -> Status:
        """Of a decoded text. Raises ProtocolError."""
        try:
            simulations: dict[int, dict[str, str]] = {}
            for line in lines.get("simulation", ()):
                number, key, value = line.split(" ", 2)
                simulations.setdefault(int(number), {})[key] = value
            return cls(
                server=lines["server"][0],
                model=lines["model"][0],
                ranks=int(lines["ranks"][0]),
                clients=int(lines["clients"][0]),
                clock=float(lines["clock"][0]),
                steps=int(lines["steps"][0]),
                atoms=int(lines["atoms"][0]),
                parts={n: float(t) for n, t in (p.split(" ", 1) for p in lines.get("part", ()))},
                simulations=simulations,
            )
        except (KeyError, ValueError, IndexError) as error:
            raise ProtocolError(f"the server's STATUS is incomplete: {error}.") from None

    def rate(self, before: Status | None) -> str:
        """Steps per second and milliseconds per step since an earlier status."""
        if before is None or self.steps == before.steps:
            return "idle" if before is not None or not self.steps else f"{self.steps} steps"
        steps = self.steps - before.steps
        seconds = max(self.clock - before.clock, 1e-9)
        parts = " ".join(
            f"{name} {1e3 * (t - before.parts.get(name, 0.0)) / steps:.2g}"
            for name, t in self.parts.items()
        )
        return f"{steps / seconds:.3g} steps/s, {1e3 * seconds / steps:.3g} ms a step: {parts}"

    def render(self, before: Status | None = None) -> RenderableType:
        """For a terminal."""
        ranks = f" on {self.ranks} ranks" if self.ranks > 1 else ""
        clients = "1 client" if self.clients == 1 else f"{self.clients} clients"
        head = Text(f"{self.server} serves {self.model}{ranks} to {clients}: {self.rate(before)}")
        if not self.simulations:
            return Group(head, Text("no simulation has asked for forces yet"))
        known = [name for name in ROWS if any(name in each for each in self.simulations.values())]
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_row("simulation", *(str(number) for number in self.simulations))
        for name in known:
            values = (each.get(name, "–") for each in self.simulations.values())
            table.add_row(ROWS[name], *(Text(value) for value in values))
        ages = [float(each.get("age", 0.0)) for each in self.simulations.values()]
        if max(ages) > SILENT:
            silent = (f"for {age:.0f} s" if age > SILENT else "–" for age in ages)
            table.add_row("silent", *silent)
        return Group(head, table)
