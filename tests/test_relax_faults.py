"""A relaxation that something unforeseen ends: what was reached is on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.optimize import LBFGS
from relaxing import Field, ring

from forcenet_md.errors import ForceNetError
from forcenet_md.inference.interface import Request
from forcenet_md.relaxation import part_file
from forcenet_md.relaxation.course import Settings
from forcenet_md.relaxation.part_file import Ended, PartFile
from forcenet_md.relaxation.run import relax_into
from forcenet_md.system import Forces

BATCH = 8  # atoms: two structures at once


class Counted(Field):
    """How many structures it has answered for."""

    answered = 0

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        answers = super().evaluate(requests)
        self.answered += len(answers)
        return answers


def structures() -> list[Atoms]:
    """Five of four hydrogen atoms that no law holds together, as near to the ring as they come."""
    rng = np.random.default_rng(3)
    return [Atoms("H4", rng.uniform(-1.5, 1.5, (4, 3))) for _ in range(5)]


def relaxed(path: Path | None, field: Field, given: Sequence[Atoms] = ()) -> list[Ended]:
    with PartFile(path, {}) as part:
        told = (lambda done, steps: None, lambda: False)
        assert relax_into(part, given or structures(), Settings(fmax=1e-4), field, BATCH, *told)
        return list(part.ended())


def failing(function: Callable[..., object], call: int) -> Callable[..., object]:
    """At the end of this call, by number from 1, and of no other."""
    calls = 0

    def fails(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        result = function(*arguments)
        if calls == call:
            raise OSError(28, "No space left on device")
        return result

    return fails


@pytest.mark.parametrize(
    ("where", "name", "call", "again"),
    [
        (Field, "evaluate", 15, False),
        (part_file, "as_text", 2, False),
        (LBFGS, "update", 31, True),
    ],
)
def test_what_was_reached_is_kept(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    where: object,
    name: str,
    call: int,
    again: bool,
) -> None:
    """Then it ends as without the fault, and nothing is evaluated twice but, with `again`, the
    structure that was half a step on."""
    whole = relaxed(None, Field(ring(0.0)))
    field = Counted(ring(0.0))
    monkeypatch.setattr(part_file, "SAVE_EVERY", 0.0 if where is part_file else 1e9)
    monkeypatch.setattr(part_file, "SHARE", np.inf)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, failing(getattr(where, name), call))
        with pytest.raises(OSError, match="No space left"):
            relaxed(tmp_path / "out.part", field)
    assert field.answered > 10
    found = relaxed(tmp_path / "out.part", field)
    for one, other in zip(found, whole, strict=True):
        assert one[:4] == other[:4]  # number, ending, reason, steps
        np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, atol=1e-7)
    twice = field.answered - sum(each.steps + 1 for each in whole)
    assert 0 < twice < max(each.steps for each in whole) if again else twice == 0


def test_what_has_not_made_a_step_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Field, "evaluate", failing(Field.evaluate, 1))
    with pytest.raises(OSError, match="No space left"):
        relaxed(tmp_path / "out.part", Field(ring(0.0)))
    assert not list(tmp_path.iterdir())


def test_what_ended_in_the_round_of_the_fault_has_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = [Atoms("H4", [[0.0, 1.0, 0.0]] * 4), *structures()]
    monkeypatch.setattr(LBFGS, "update", failing(LBFGS.update, 1))
    with pytest.raises(OSError, match="No space left"):
        relaxed(tmp_path / "out.part", Field(ring(0.0)), given)
    with PartFile(tmp_path / "out.part", {}) as part:
        assert part.numbers == {0}
