"""The exchange: ghost rows are made equal to the rows of the ranks that own them.

Forward only, since forces are read off the nodes and nothing flows back.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forcenet_md.graph.frame import Array
from forcenet_md.graph.ghosts import Rows
from forcenet_md.graph.pieces import Division
from forcenet_md.mpi import Ranks, World, wait

if TYPE_CHECKING:
    from mpi4py.MPI import Prequest


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rows go where, in ascending order of the other rank.

    send: own rows for each rank that has ghosts of them
    receive: how many ghost rows each rank fills; the ghosts are in this order
    """

    send: dict[int, Rows]
    receive: dict[int, int]

    @property
    def n_ghosts(self) -> int:
        return sum(self.receive.values())

    @property
    def n_sent(self) -> int:
        return sum(len(rows) for rows in self.send.values())


def make_plan(division: Division, ranks: Ranks) -> Plan:
    """Every rank asks the owners for the rows that it has ghosts of. Collective."""
    asked = {}
    for rank in np.unique(division.ghost_rank):
        asked[int(rank)] = division.ghost_row[division.ghost_rank == rank]
    send = dict(sorted(ranks.swap(asked).items()))
    return Plan(send, {rank: len(rows) for rank, rows in asked.items()})


class Exchange(Protocol):
    """Refreshes ghost rows, in rounds that all ranks have alike.

    A rank that cannot go on calls `give_up`: the others get NaN rows in its stead and come to the
    end of their step.

    bytes: that this rank has sent; waited: seconds in `finish`
    """

    bytes: int
    waited: float

    def open(self, rounds: int) -> None:
        """A step begins that has so many rounds."""

    def start(self, rows: Tensor) -> None:
        """Send what the others need of rows [n_owned, width]."""

    def finish(self) -> Tensor:
        """The ghost rows [n_ghosts, width], on the device and in the precision of `start`'s."""

    def refresh(self, positions: Array) -> Array:
        """Of own positions [n_owned, 3] Å those of the ghosts [n_ghosts, 3], exactly."""

    def give_up(self) -> None:
        """Take part in what is left of the step's rounds, without anything to say."""

    def close(self) -> None:
        """Free what is held; no round may follow."""


class NoExchange:
    """Of a rank that has no ghosts."""

    bytes = 0
    waited = 0.0

    def open(self, rounds: int) -> None:
        """Nothing is sent."""

    def start(self, rows: Tensor) -> None:
        self._none = rows[:0]

    def finish(self) -> Tensor:
        return self._none

    def refresh(self, positions: Array) -> Array:
        return positions[:0]

    def give_up(self) -> None:
        """Nobody waits."""

    def close(self) -> None:
        """Nothing is held."""


class Buffers:
    """Memory and persistent requests for rows of one width and precision."""

    def __init__(self, plan: Plan, comm: World, width: int, dtype: torch.dtype) -> None:
        self.out = torch.empty((plan.n_sent, width), dtype=dtype)
        self.into = torch.empty((plan.n_ghosts, width), dtype=dtype)
        size = self.out.element_size() * width
        self.bytes = plan.n_sent * size
        self.requests: list[Prequest] = []
        out, into = _bytes(self.out), _bytes(self.into)
        start = 0
        for rank, count in plan.receive.items():
            end = start + count * size
            self.requests.append(comm.comm.Recv_init(into[start:end], rank))
            start = end
        start = 0
        for rank, rows in plan.send.items():
            end = start + len(rows) * size
            self.requests.append(comm.comm.Send_init(out[start:end], rank))
            start = end

    def free(self) -> None:
        for request in self.requests:
            request.Free()


def _bytes(rows: Tensor) -> NDArray[np.uint8]:
    return rows.view(torch.uint8).reshape(-1).numpy() if rows.numel() else np.empty(0, np.uint8)


class MpiExchange:
    """Neighbour to neighbour; rows of a GPU go through the host's memory.

    like: [0, width], the precision and the device of the rows
    wire: the precision in which they travel, if not their own

    rounds: how many there have been
    """

    def __init__(
        self, plan: Plan, ranks: World, like: Tensor, wire: torch.dtype | None = None
    ) -> None:
        self.plan = plan
        self.rounds = 0
        self.bytes = 0
        self.waited = 0.0
        self._ranks = ranks
        self._like = like
        self._left = 0
        self._flying = False
        self._nodes = Buffers(plan, ranks, like.shape[1], wire or like.dtype)
        self._positions: Buffers | None = None
        rows = np.concatenate([np.empty(0, np.int64), *plan.send.values()])
        self._rows = torch.from_numpy(rows)
        self._device_rows = self._rows.to(like.device)

    def open(self, rounds: int) -> None:
        self._left = rounds

    def start(self, rows: Tensor) -> None:
        self._nodes.out.copy_(rows.index_select(0, self._device_rows))
        self._go()

    def finish(self) -> Tensor:
        start = perf_counter()
        wait(self._nodes.requests)
        self.waited += perf_counter() - start
        self._flying = False
        return self._nodes.into.to(device=self._like.device, dtype=self._like.dtype, copy=True)

    def give_up(self) -> None:
        if self._flying:
            self.finish()
        while self._left:
            self._nodes.out.fill_(torch.nan)
            self._go()
            self.finish()

    def refresh(self, positions: Array) -> Array:
        """Of own positions [n_owned, 3] those of the ghosts [n_ghosts, 3]."""
        if self._positions is None:
            self._positions = Buffers(self.plan, self._ranks, 3, torch.float64)
        buffers = self._positions
        torch.index_select(torch.from_numpy(positions), 0, self._rows, out=buffers.out)
        start_all(buffers.requests)
        wait(buffers.requests)
        self.bytes += buffers.bytes
        return buffers.into.numpy()

    def close(self) -> None:
        """Free the requests; no round may follow."""
        for buffers in (self._nodes, self._positions):
            if buffers is not None:
                buffers.free()

    def _go(self) -> None:
        start_all(self._nodes.requests)
        self._flying = True
        self._left -= 1
        self.rounds += 1
        self.bytes += self._nodes.bytes


def start_all(requests: list[Prequest]) -> None:
    from mpi4py import MPI

    if requests:
        MPI.Prequest.Startall(requests)
