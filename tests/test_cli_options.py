"""Options that several verbs have mean the same in each of them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import get_type_hints

import pytest

from forcenet_md.cli.evaluate import evaluate
from forcenet_md.cli.ipi import ipi
from forcenet_md.cli.lammps import lammps
from forcenet_md.cli.options import one_by_one
from forcenet_md.cli.relax import relax
from forcenet_md.cli.serve import serve

SHARED = ("committee", "device", "threads", "dtype", "trust", "frames", "align")
OF_RUNS = ("record", "record_every", "record_precision", "guard", "guard_frames")


@pytest.mark.parametrize("verb", [lammps, ipi, evaluate, relax])
def test_options_are_those_of_serve(verb: Callable[..., None]) -> None:
    of_serve = get_type_hints(serve, include_extras=True)
    found = get_type_hints(verb, include_extras=True)
    for option in SHARED + OF_RUNS if verb in (lammps, ipi) else SHARED:
        assert found[option] is of_serve[option]
        assert signature(verb).parameters[option].default == (
            signature(serve).parameters[option].default
        )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a.pt --committee b c --dtype x", "a.pt --committee b --committee c --dtype x"),
        ("--committee b --committee c", "--committee b --committee c"),
        ("--committee b -in c", "--committee b -in c"),
    ],
)
def test_members_follow_one_word(words: str, expected: str) -> None:
    assert one_by_one(words.split()) == expected.split()
