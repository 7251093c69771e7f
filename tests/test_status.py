"""What `forcenet-md watch` shows of a status: rates between two, and a row for each figure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from forcenet_md.server.status import Status

# What guards, heat and the last step tell of a simulation, and what a reader finds before it.
SHOWN = {
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
FIRST = {key: f"{k}.25" for k, key in enumerate(SHOWN)}
SECOND = {key: f"{k}.75" for k, key in enumerate(SHOWN)}
BEFORE = Status(
    "forcenet-md 1", "m", 1, 2, clock=100.0, steps=40, atoms=4000, parts={"network": 1.0}
)
# 8 steps within 0.5 s, of which the network took 0.32 s and the graph 0.088 s
NOW = replace(BEFORE, clock=100.5, steps=48, parts={"network": 1.32, "graph": 0.088})


def shown(status: Status, before: Status | None = None) -> list[str]:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(status.render(before))
    return [line.rstrip() for line in capture.get().splitlines()]


def row(lines: list[str], label: str) -> list[str]:
    """The values behind a label."""
    (found,) = (line for line in lines if line.startswith(f"{label} "))
    return found.removeprefix(label).split()


def test_a_rate_is_of_the_steps_between_two_looks() -> None:
    assert NOW.rate(BEFORE) == "16 steps/s, 62.5 ms a step: network 40 graph 11"
    assert BEFORE.rate(BEFORE) == "idle"
    assert BEFORE.rate(None) == "40 steps"  # since when nobody knows
    assert replace(BEFORE, steps=0).rate(None) == "idle"
    assert shown(NOW, BEFORE)[0] == f"forcenet-md 1 serves m to 2 clients: {NOW.rate(BEFORE)}"


def test_every_figure_has_its_row() -> None:
    lines = shown(replace(NOW, simulations={1: FIRST, 3: SECOND}))
    assert row(lines, "simulation") == ["1", "3"]
    for key, label in SHOWN.items():
        assert row(lines, label) == [FIRST[key], SECOND[key]]
    assert len(lines) == 2 + len(SHOWN)


@pytest.mark.parametrize("key", SHOWN)
def test_what_is_not_known_is_not_shown(key: str) -> None:
    known = {name: value for name, value in FIRST.items() if name != key}
    lines = shown(replace(NOW, simulations={1: known}))
    assert len(lines) == 1 + len(SHOWN)
    assert not any(line.startswith(SHOWN[key]) for line in lines)
    lines = shown(replace(NOW, simulations={1: known, 2: SECOND}))
    assert row(lines, SHOWN[key]) == ["–", SECOND[key]]


def test_who_is_silent_is_said_to_be() -> None:
    lines = shown(replace(NOW, simulations={1: {"age": "29"}, 2: {"age": "29.5"}}))
    assert not any(line.startswith("silent") for line in lines)
    lines = shown(replace(NOW, simulations={1: {"age": "29"}, 2: {"age": "31.2"}}))
    assert row(lines, "silent") == ["–", "for", "31", "s"]
