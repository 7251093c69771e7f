"""Requests of several sockets that belong together, as one batch.

i-PI hands the beads of a step to its sockets one after the other, within a fraction of a
millisecond. A batch starts as soon as as many have asked as in the rounds before; if fewer come,
when the last of them is stale. It never waits for a fixed window.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import inf

PATIENCE = 0.001  # s after the last request: what i-PI needs between two
SHARE = 0.05  # of the last evaluation's time, if that is longer: a split batch costs more
LONGEST = 0.02  # s
GIVE_UP = 3  # batches in a row that waited in vain


class Gather:
    """Who has asked, and whether to begin. Times are seconds of one clock.

    expected: how many are waited for; learnt from who asks between two requests of the same
        member: more when some came late, fewer when waiting was in vain.
    """

    def __init__(self, members: int) -> None:
        self.expected = members
        self._complete = False
        self._stale_at = inf
        self._waiting: set[Hashable] = set()
        self._coming: set[Hashable] = set()
        self._round: set[Hashable] = set()  # who has asked since somebody asked twice
        self._in_vain = 0
        self._patience = PATIENCE

    @property
    def released(self) -> bool:
        """The batch is complete. It waits for a request that is half sent: i-PI drops a driver
        that stops reading for 0.1 s."""
        return self._complete and not self._coming

    @property
    def stale_at(self) -> float:
        """When `expire` is to be called; it stays in the past until the batch is answered."""
        return inf if self._coming or not self._waiting else self._stale_at

    def begin(self, member: Hashable) -> None:
        """A member's request has begun to arrive."""
        self._coming.add(member)

    def ask(self, member: Hashable, now: float) -> None:
        """A member has a request."""
        if member in self._round:
            self._round.clear()
        self._round.add(member)
        self._waiting.add(member)
        self._coming.discard(member)
        if len(self._round) > self.expected:
            self.expected = len(self._round)
        self._stale_at = now + self._patience
        if len(self._round) >= self.expected:  # whoever is not waiting has been answered already
            self._complete = True
            self._in_vain = 0

    def leave(self, member: Hashable) -> None:
        """A member is gone, with its request if it has one."""
        self._coming.discard(member)
        self._waiting.discard(member)
        self._round.discard(member)
        if not self._waiting:
            self._complete = False

    def expire(self, now: float) -> None:
        """Begin with those that are here, if the last of them is stale."""
        if self._complete or now < self.stale_at:
            return
        self._complete = True
        self._in_vain += 1
        if self._in_vain >= GIVE_UP:
            self.expected = len(self._waiting)
            self._in_vain = 0

    def answered(self, member: Hashable, seconds: float) -> None:
        """A member has its answer, which took the whole batch that many seconds."""
        self._waiting.discard(member)
        self._patience = min(max(PATIENCE, SHARE * seconds), LONGEST)
        if not self._waiting:
            self._complete = False
