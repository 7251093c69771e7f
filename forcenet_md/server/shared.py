"""What all connections of a server have together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from forcenet_md.inference.interface import Evaluator
from forcenet_md.server.limits import Limits
from forcenet_md.server.monitor import Monitor
from forcenet_md.server.status import Lines

STOPPED = "the server was stopped"


@dataclass
class Shared:
    """streams: those of the simulations that are served now, see `inference.interface.Moment`;
    claims: how many there have been; status: what whoever watches is told (`server/status.py`)"""

    evaluator: Evaluator
    limits: Limits
    secret: bytes | None
    monitor: Monitor
    status: Callable[[], Lines]
    streams: set[int] = field(default_factory=set)
    claims: int = 0

    def claim_stream(self) -> tuple[int, int]:
        """The first that is free, and which claim this is."""
        stream = min(set(range(len(self.streams) + 1)) - self.streams)
        self.streams.add(stream)
        self.claims += 1
        return stream, self.claims
