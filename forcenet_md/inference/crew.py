"""Many ranks as one evaluator: rank 0 is asked, and all compute their part of each structure.

Rank 0 divides a structure into bricks of equal numbers of atoms (graph/domains.py) and sends each
rank the atoms that it owns, at every step their positions; all else ranks tell one another. Atoms
migrate where neighbours are searched anew. Ranks that wait for an order sleep.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.graph.capacity import check_capacity
from forcenet_md.graph.domains import bisect, imbalance
from forcenet_md.graph.frame import Array, Frame
from forcenet_md.graph.ghosts import surroundings
from forcenet_md.graph.neighbours import SLACK, Reference
from forcenet_md.graph.pieces import most_pairs
from forcenet_md.inference.contacts import NONE, closest_of
from forcenet_md.inference.domain import Domain
from forcenet_md.inference.graph_evaluator import failure, warm_up
from forcenet_md.inference.interface import Request, Timings
from forcenet_md.inference.ranks import SKIN, Sharing, make_domain, rank_failure
from forcenet_md.mpi import Ranks
from forcenet_md.system import Contact, Forces, System

if TYPE_CHECKING:
    from forcenet_md.inference.evaluator import ModelEvaluator


class Order(IntEnum):
    """What rank 0 tells the others to do."""

    STOP = 0
    LOAD = 1
    BUILD = 2  # divide a structure anew, and compute
    STEP = 3  # compute
    FORGET = 4


@dataclass(slots=True)
class Brick:
    """One simulation on one rank; frame: of its last division."""

    domain: Domain
    frame: Frame
    counts: list[int]


class Crew:
    """One rank's bricks of all simulations, and its side of what ranks do together."""

    def __init__(
        self, network: ModelEvaluator, ranks: Ranks, sharing: Sharing | None = None
    ) -> None:
        self.network = network
        self.ranks = ranks
        self.sharing = sharing or Sharing()
        self.bricks: dict[int, Brick] = {}

    def build(
        self, number: int, frame: Frame, counts: list[int], labels: Array, positions: Array
    ) -> None:
        """Divide simulation `number` anew: labels [n_owned, 2] are ids and atomic numbers.

        Collective.
        """
        self.forget(number)
        ids, numbers = labels.astype(np.int64).T
        network, ranks, sharing = self.network, self.ranks, self.sharing
        reach = network.card.cutoff + SKIN + SLACK
        shell = sharing.shell(network, reach)
        around = surroundings(ids, numbers, positions, frame, shell, ranks)
        domain = make_domain(network, around, reach, ranks, sharing)
        self.bricks[number] = Brick(domain, frame, counts)

    def forces(self, number: int, positions: Array) -> Array | ForceNetError:
        """The forces [n_owned, 3] eV/Å on this rank's atoms, or its fault. Collective."""
        brick = self.bricks[number]
        try:
            return brick.domain.forces_of(positions, brick.frame.rows)
        except ForceNetError as fault:
            return fault
        except (RuntimeError, MemoryError) as error:
            return rank_failure(self.network, error, len(positions), self.ranks.rank)

    def close(self) -> None:
        """Free what all bricks hold."""
        for number in list(self.bricks):
            self.forget(number)

    def forget(self, number: int) -> None:
        brick = self.bricks.pop(number, None)
        if brick is not None:
            brick.domain.exchange.close()


def follow(crew: Crew) -> None:
    """What the ranks but 0 do: obey until rank 0 stops."""
    while True:
        order, number = next_order(crew.ranks)
        if order is Order.STOP:
            crew.close()
            return
        if order is Order.FORGET:
            crew.forget(number)
        else:
            with contextlib.suppress(ForceNetError):  # rank 0 says it
                take_part(crew, order, number)


def take_part(crew: Crew, order: Order, number: int) -> None:
    """One step of a simulation. Collective; raises the fault of a division on all ranks."""
    ranks = crew.ranks
    if order is Order.BUILD:
        frame, counts = ranks.bcast()
        labels = ranks.scatter(None, counts, 2)
        positions = ranks.scatter(None, counts, 3)
        crew.build(number, frame, counts, labels, positions)
    else:
        counts = crew.bricks[number].counts
        positions = ranks.scatter(None, counts, 3)
    _collect(ranks, crew.bricks[number], crew.forces(number, positions))


def next_order(ranks: Ranks, order: Order = Order.STOP, number: int = 0) -> tuple[Order, int]:
    """Rank 0's order on all ranks, and the simulation that it is about."""
    words = np.array([order, number], dtype=np.int64)
    ranks.share(words)
    return Order(int(words[0])), int(words[1])


class _Told(NamedTuple):
    """The most work of a rank over the mean, and the closest pair: for `Forces`."""

    imbalance: float | None = None
    contact: Contact | None = None


def _collect(ranks: Ranks, brick: Brick, mine: Array | ForceNetError) -> tuple[Array | None, _Told]:
    """All forces behind one another on rank 0, which raises a fault of any rank; and what ranks
    told."""
    failed = isinstance(mine, ForceNetError)
    contact = brick.domain.contact or NONE
    said = ranks.allgather(np.array([failed, sum(brick.domain.edges), *contact], dtype=np.float64))
    if said[:, 0].any():
        faults = ranks.swap({0: mine} if failed else {})
        if ranks.rank == 0:
            raise faults[min(faults)]
        return None, _Told()
    assert not isinstance(mine, ForceNetError)
    closest = closest_of(Contact(*row) for row in said[:, 2:])
    if closest is not None:  # ids count from 1
        closest = closest._replace(a=closest.a - 1, b=closest.b - 1)
    told = _Told(imbalance(said[:, 1]) if ranks.size > 1 else None, closest)
    return ranks.gather(mine, brick.counts), told


@dataclass(slots=True, weakref_slot=True)
class DividedSession:
    """One simulation, as rank 0 knows it. order: [n_atoms] the atoms rank by rank."""

    number: int
    reference: Reference | None = None
    order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    counts: list[int] = field(default_factory=list)


class DividedEvaluator:
    """An `Evaluator` on rank 0, for a model file; the other ranks `follow`."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.capabilities = replace(crew.network.capabilities, ranks=crew.ranks.size)
        self.timings = Timings()
        self._count = 0
        self._gone: deque[int] = deque()

    def new_session(self) -> DividedSession:
        self._count += 1
        session = DividedSession(self._count)
        weakref.finalize(session, self._gone.append, self._count)
        return session

    def warm_up(self) -> None:
        """See `graph_evaluator.warm_up`."""
        warm_up(self)

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        """One answer per request, in order, each by all ranks; see `inference/interface.py`."""
        self.timings = Timings()
        while self._gone:
            number = self._gone.popleft()
            if number in self.crew.bricks:
                next_order(self.crew.ranks, Order.FORGET, number)
                self.crew.forget(number)
        try:
            return [self._answer(request) for request in requests]
        except BaseException:
            self.crew.ranks.lose_step()
            raise

    def _answer(self, request: Request) -> Forces | ForceNetError:
        system, session, network = request.system, request.session, self.crew.network
        assert isinstance(session, DividedSession)
        try:
            if not system.n_atoms:
                raise EvaluationError("there are no atoms to compute forces for.")
            network.check_elements(system.numbers)
            forces, told = self._forces(session, system)
            answer = network.finish(request, forces)
            if isinstance(answer, Forces):
                answer.imbalance, answer.contact = told
            return answer
        except ForceNetError as fault:
            return fault

    def _forces(self, session: DividedSession, system: System) -> tuple[Array, _Told]:
        """[n_atoms, 3] eV/Å, and what ranks told beside them."""
        start = perf_counter()
        crew, ranks, number = self.crew, self.crew.ranks, session.number
        positions = None if session.reference is None else session.reference.near(system)
        if positions is None:
            reference = self._place(session, system)
            frame, counts, order = reference.frame, session.counts, session.order
            next_order(ranks, Order.BUILD, number)
            ranks.bcast((frame, counts))
            labels = np.stack([order + 1, system.numbers[order]], axis=1).astype(np.float64)
            mine = ranks.scatter(labels, counts, 2)
            owned = ranks.scatter(reference.positions[order], counts, 3)
            crew.build(number, frame, counts, mine, owned)
            session.reference = reference
        else:
            next_order(ranks, Order.STEP, number)
            owned = ranks.scatter(positions[session.order], session.counts, 3)
        self.timings.graph += perf_counter() - start
        start = perf_counter()
        rows, told = _collect(ranks, crew.bricks[number], crew.forces(number, owned))
        self.timings.network += perf_counter() - start
        assert rows is not None
        forces = np.empty((system.n_atoms, 3))
        forces[session.order] = rows
        return forces, told

    def _place(self, session: DividedSession, system: System) -> Reference:
        """Who owns which atom from now on."""
        session.reference = None
        network, n_ranks = self.crew.network, self.crew.ranks.size
        reach = network.card.cutoff + SKIN + SLACK
        try:
            reference, placement = Reference.of(system, SKIN, reach)
            most = network.max_edges or most_pairs(system.n_atoms)
            check_capacity(placement, reach, most)
            owner = bisect(placement.along, n_ranks)
            session.order = np.argsort(owner, kind="stable")
        except MemoryError as error:
            raise failure(error, system.n_atoms) from None
        session.counts = np.bincount(owner, minlength=n_ranks).tolist()
        return reference
