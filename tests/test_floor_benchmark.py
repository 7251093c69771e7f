"""benchmarks/floor: when a run has left physics, the sign test, and the whole at its smallest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator

from benchmarks.floor.__main__ import main
from benchmarks.floor.dynamics import dynamics, why_not
from benchmarks.floor.report import survival
from forcenet_md.errors import StructureError


def copper(kelvin: float = 300.0, force: float = 1.0) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    rng = np.random.default_rng(0)
    momenta = rng.normal(size=(4, 3))
    atoms.set_momenta(momenta)
    atoms.set_momenta(momenta * np.sqrt(kelvin / atoms.get_temperature()))
    forces = np.zeros((4, 3))
    forces[2, 1] = force
    atoms.calc = SinglePointCalculator(atoms, forces=forces)
    return atoms


def test_what_is_physics_and_what_is_not() -> None:
    assert why_not(copper(), 300) == ""
    assert why_not(copper(force=-201.0), 300) == "a force of 201 eV/Å"
    assert why_not(copper(kelvin=601.0), 300) == "at 601 K"
    assert why_not(copper(kelvin=601.0), 400) == ""
    near = copper()
    near.positions[1] = near.positions[0] + [1.3, 0.0, 0.0]
    assert why_not(near, 300) == "a pair at 1.30 Å"
    assert why_not(copper(force=np.nan), 300) != ""


class Failing(Calculator):
    """Has forces at first."""

    implemented_properties = ["forces"]  # noqa: RUF012 (as ASE has it)
    calls = 0

    def calculate(self, *arguments: Any, **settings: Any) -> None:
        super().calculate(*arguments, **settings)
        self.calls += 1
        if self.calls > 12:
            raise StructureError("two atoms lie on one another")
        self.results = {"forces": np.zeros((4, 3))}


def test_a_model_that_fails_ends_a_run() -> None:
    seen = []
    for time, _, failed in dynamics(copper(), Failing(), 300, 0.1, seed=1):
        seen.append((round(time, 3), failed))
        if failed:
            break
    assert seen == [(0.01, ""), (0.02, ""), (0.03, "two atoms lie on one another")]


@pytest.mark.parametrize(
    ("none", "zbl", "words"),
    [
        ([1.0] * 6, [2.0] * 6, "6 of 6 lasted longer with the floor, 0 shorter: longer"),
        ([2.0] * 6, [1.0] * 6, "0 of 6 lasted longer with the floor, 6 shorter: shorter"),
        ([1.0] * 5, [2.0] * 5, "5 of 5 lasted longer with the floor, 0 shorter: not resolved"),
        ([1.0, 3.0] * 4, [2.0] * 8, "4 of 8 lasted longer with the floor, 4 shorter: not resolved"),
        ([2.0] * 3, [2.0] * 3, "0 of 3 lasted longer with the floor, 0 shorter, 3 alike: not"),
    ],
)
def test_the_verdict_is_a_sign_test(none: list[float], zbl: list[float], words: str) -> None:
    results = [
        {"runs": {"none 900": {"ps": a}, "zbl 900": {"ps": b}}}
        for a, b in zip(none, zbl, strict=True)
    ]
    assert survival(results, 900).startswith(words)


@pytest.mark.slow
def test_the_whole_at_its_smallest(tmp_path: Path) -> None:
    """The second time nothing is made again, and the page is the same."""
    size = "--seeds 2 --frames 3 --tested 2 --hidden 8 --cutoff 4.0 --steps 20 --ps 0.1"
    words = [*size.split(), "--temperatures", "1200", "--out", str(tmp_path / "out")]
    table = tmp_path / "floor.md"
    assert main([*words, "--table", str(table)]) == 0
    text = table.read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| 1200")]
    assert [row[1] for row in rows[:2]] == ["none", "zbl"]
    assert rows[2][0] == "| 1200 K"
    none, zbl = float(rows[2][1]), float(rows[2][2])
    assert 0.0 < zbl < 5.0
    assert abs(none - zbl) < 0.5 * zbl
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    assert main([*words, "--table", str(table)]) == 0
    assert table.read_text() == text
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
