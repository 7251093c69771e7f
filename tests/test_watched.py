"""Watchers see every answer with its moment, and their fault is one request's."""

from __future__ import annotations

import pytest
from ase.build import bulk

from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.inference.interface import Request
from forcenet_md.inference.load import load_evaluator
from forcenet_md.inference.watched import WatchedEvaluator
from forcenet_md.server.lammps import welcome
from forcenet_md.server.protocol import decode_text
from forcenet_md.system import Forces, System


class Seen:
    """Remembers; refuses the forces of streams in `refused`."""

    def __init__(self, velocities: bool = True, refused: int | None = None) -> None:
        self.velocities = velocities
        self.refused = refused
        self.seen: list[tuple[Request, Forces]] = []

    def see(self, request: Request, forces: Forces) -> None:
        self.seen.append((request, forces))
        if request.system.n_atoms == self.refused:
            raise EvaluationError("enough.")

    def close(self) -> None: ...


def test_a_fault_of_a_watcher_is_the_answer_to_that_request_alone() -> None:
    first, second = Seen(refused=8), Seen()
    evaluator = WatchedEvaluator(load_evaluator("ase:emt"), [first, second])
    systems = [bulk("Cu", cubic=True) * (n, 1, 1) for n in (1, 2, 3)]
    for system in systems:
        system.rattle(0.05, seed=1)
    requests = [Request(evaluator.new_session(), System.from_ase(s)) for s in systems]
    answers = evaluator.evaluate(requests)
    assert [isinstance(answer, ForceNetError) for answer in answers] == [False, True, False]
    assert str(answers[1]) == "enough."
    assert [request.system.n_atoms for request, _ in first.seen] == [4, 8, 12]
    assert [request.system.n_atoms for request, _ in second.seen] == [4, 12]
    assert first.seen[0][1] is answers[0]


@pytest.mark.parametrize("wanted", [True, False])
def test_velocities_are_asked_for_only_where_a_watcher_wants_them(wanted: bool) -> None:
    """What LAMMPS then says of itself is in test_heat.py."""
    watchers = [Seen(velocities=False), Seen(velocities=wanted)]
    evaluator = WatchedEvaluator(load_evaluator("ase:lj"), watchers)
    said = decode_text(welcome(evaluator.capabilities))
    assert said["velocities"] == ["yes" if wanted else "no"]
