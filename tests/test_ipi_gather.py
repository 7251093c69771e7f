"""How requests of several sockets become one batch, with a simulated clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forcenet_md.server.gather import GIVE_UP, LONGEST, PATIENCE, SHARE, Gather

SOON = PATIENCE / 4  # between two requests of one step
COST = 0.004  # s of an evaluation


@dataclass
class Clock:
    """The loop and i-PI: requests come when they come, a batch begins as soon as it may.

    batches: the members of each; waits: seconds from the last request of each to its beginning
    """

    gather: Gather
    cost: float = COST
    now: float = 0.0
    batches: list[list[int]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    last: float = 0.0

    def ask(self, member: int, gap: float = 0.0) -> None:
        """One more request, that many seconds after the last thing that happened."""
        self.pass_until(self.now + gap)
        self.gather.begin(member)
        self.gather.ask(member, self.now)
        self.waiting.append(member)
        self.last = self.now
        self._evaluate()

    def pass_until(self, then: float) -> None:
        """Time goes on, and wakes the loop when it wished so."""
        while self.gather.stale_at <= then:
            self.now = max(self.now, self.gather.stale_at)
            self.gather.expire(self.now)
            self._evaluate()
        self.now = max(self.now, then)

    def step(self, members: list[int], gap: float = SOON) -> list[int]:
        """Requests of one step, as many at once as there are members; the sizes of its batches."""
        before = len(self.batches)
        for member in members:
            self.ask(member, gap)
        self.pass_until(self.now + 2 * LONGEST)
        assert self.waiting == []
        return [len(batch) for batch in self.batches[before:]]

    def _evaluate(self) -> None:
        if not self.gather.released:
            return
        batch, self.waiting = self.waiting, []
        assert batch
        self.batches.append(batch)
        self.waits.append(self.now - self.last)
        for member in batch:
            self.gather.answered(member, self.cost)


def full(count: int) -> list[int]:
    return list(range(count))


@pytest.mark.parametrize("count", [1, 2, 4, 16, 32])
def test_batches_are_full_and_begin_with_the_last_request(count):
    clock = Clock(Gather(count))
    for _ in range(5):
        assert clock.step(full(count)) == [count]
    assert clock.waits == [0.0] * 5


@given(st.integers(1, 8), st.integers(1, 8), st.randoms())
def test_fewer_beads_than_sockets_are_waited_for_in_vain_only_at_first(sockets, beads, random):
    sockets, beads = max(sockets, beads), min(sockets, beads)
    clock = Clock(Gather(sockets))
    members = random.sample(range(sockets), beads)
    for _ in range(GIVE_UP):
        assert clock.step(members) == [beads]
    assert all(wait <= LONGEST for wait in clock.waits)
    for _ in range(5):
        random.shuffle(members)
        assert clock.step(members) == [beads]
    assert clock.waits[GIVE_UP:] == [0.0] * 5


@given(st.integers(1, 6), st.integers(1, 6))
def test_more_beads_than_sockets(sockets, rounds):
    """Each socket gets its next bead with its answer."""
    clock = Clock(Gather(sockets))
    for _ in range(4):
        for _ in range(rounds):
            assert clock.step(full(sockets)) == [sockets]
    assert set(clock.waits) == {0.0}


@given(st.integers(2, 6), st.integers(1, 5))
def test_a_remainder_does_not_spoil_the_full_rounds(sockets, remainder):
    remainder = min(remainder, sockets - 1)
    clock = Clock(Gather(sockets))
    for _ in range(2 * GIVE_UP):
        assert clock.step(full(sockets)) == [sockets]
        assert clock.step(full(remainder)) == [remainder]
    assert max(clock.waits) <= LONGEST


def test_late_ones_are_waited_for_from_the_next_step_on():
    clock = Clock(Gather(1))
    assert clock.step(full(4)) == [1, 1, 1, 1]
    for _ in range(3):
        assert clock.step(full(4)) == [4]


def test_a_bead_that_i_pi_hands_out_a_round_later_is_not_waited_for_twice():
    """i-PI sends three, reads their answers, and only then sends the fourth."""
    clock = Clock(Gather(4))
    for _ in range(5):
        assert clock.step([0, 1, 2]) == [3]
        assert clock.step([3]) == [1]
        assert clock.waits[-1] == 0.0
        assert clock.waits[-2] <= LONGEST


@given(st.lists(st.floats(0.0, 3 * PATIENCE), min_size=1, max_size=40), st.integers(1, 6))
def test_whatever_comes_whenever_is_answered_soon(gaps, sockets):
    clock = Clock(Gather(sockets))
    asked = 0
    for k, gap in enumerate(gaps):
        if k % sockets in clock.waiting:
            continue  # it has no answer yet
        clock.ask(k % sockets, gap)
        asked += 1
    clock.pass_until(clock.now + LONGEST)
    assert clock.waiting == []
    assert sum(len(batch) for batch in clock.batches) == asked
    assert max(clock.waits) <= PATIENCE * 1.01
    assert clock.gather.stale_at == inf  # nothing wakes the loop for nothing


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["ask", "leave", "half"]), st.integers(0, 4)), max_size=40),
)
def test_members_that_leave_at_any_time_block_nobody(sockets, events):
    clock = Clock(Gather(sockets))
    half: set[int] = set()
    for what, member in events:
        if what == "half" and member not in clock.waiting:
            clock.gather.begin(member)
            half.add(member)
        elif what == "leave":
            clock.gather.leave(member)
            half.discard(member)
            if member in clock.waiting:
                clock.waiting.remove(member)
            clock.pass_until(clock.now)
        elif what == "ask" and member not in clock.waiting:
            half.discard(member)
            clock.ask(member, SOON)
        assert not (half and clock.gather.released)
    for member in half:
        clock.gather.leave(member)
    clock.pass_until(clock.now + 2 * LONGEST)
    assert clock.waiting == []
    for _ in range(GIVE_UP + 1):  # others join, and are learnt
        clock.step([7, 8])
    assert clock.step([7, 8]) == [2]
    assert clock.waits[-1] == 0.0


def test_a_half_sent_request_holds_the_batch():
    gather = Gather(3)
    for member in (0, 1):
        gather.begin(member)
        gather.ask(member, 0.0)
    gather.begin(2)
    assert gather.stale_at == inf
    gather.expire(1.0)
    assert not gather.released
    gather.ask(2, 1.0)
    assert gather.released


def test_a_complete_batch_waits_for_a_half_sent_request():
    gather = Gather(1)
    gather.begin(0)
    gather.begin(1)
    gather.ask(0, 0.0)
    assert not gather.released
    gather.ask(1, 1.0)
    assert gather.released


def test_a_half_sent_request_that_is_given_up_holds_nothing():
    gather = Gather(3)
    gather.begin(0)
    gather.ask(0, 0.0)
    gather.begin(1)
    gather.leave(1)
    assert gather.stale_at == PATIENCE
    gather.expire(0.5 * PATIENCE)
    assert not gather.released
    gather.expire(PATIENCE)
    assert gather.released
    assert gather.stale_at <= PATIENCE  # the loop is awake until it has begun


def test_patience_grows_with_what_a_split_batch_costs():
    for cost, patience in ((0.0, PATIENCE), (0.1, 0.1 * SHARE), (60.0, LONGEST)):
        clock = Clock(Gather(2), cost)
        clock.step([0, 1])
        clock.step([0])
        assert clock.waits[-1] == pytest.approx(patience)


def test_two_that_never_come_together_are_no_longer_waited_for():
    """Two i-PIs' worth of requests, out of step: nobody pays for the other for ever."""
    clock = Clock(Gather(2))
    for _ in range(GIVE_UP):
        clock.step([0])
    clock.step([0])
    assert clock.waits[-1] == 0.0
