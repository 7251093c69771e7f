"""benchmarks/truth: the teacher has no heat, a run that was cut goes on, and the page's words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.segments import data, dump
from benchmarks.truth import __main__ as truth
from benchmarks.truth import dynamics
from benchmarks.truth.heat import energies, heat
from benchmarks.truth.page import write_page
from benchmarks.truth.studies import STUDIES
from forcenet_md.errors import DataError

QUICK = replace(
    STUDIES["small"], ps=0.6, timestep=0.002, every=0.02, segment=0.1, settle=0.1, teachers=2
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts that are not settled."""
    text = dynamics.FIND_START.replace("run 10000", "run 1000").replace("run 5000", "run 100")
    monkeypatch.setattr(dynamics, "FIND_START", text.replace("10 1000 10000", "10 100 1000"))
    monkeypatch.setitem(STUDIES, "small", QUICK)


@pytest.mark.usefixtures("short")
def test_the_teacher_heats_nothing_and_a_run_that_was_cut_is_the_same(tmp_path: Path) -> None:
    """What is kept is kept to what the timestep leaves; 0.04 eV/ps of heat would be 5 meV here."""
    made = dynamics.run(tmp_path, QUICK, QUICK.ps, 2)
    assert made.stopped is None
    _, energy = energies(made)
    assert len(energy) == 6
    assert abs(energy - energy[0]).max() < 1e-3
    found = heat(made, QUICK.settle)
    assert found is not None
    assert abs(found.value) < 2e-3
    whole = dump(made.folder, 5).read_text()
    assert whole.count("ITEM: TIMESTEP") == 5  # none twice
    data(made.folder, 5).unlink()
    dynamics.run(tmp_path, QUICK, QUICK.ps, 2)
    assert dump(made.folder, 5).read_text() == whole
    with pytest.raises(DataError, match="another temperature"):
        dynamics.run(tmp_path, replace(QUICK, temperature=900.0), QUICK.ps, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("short", "plugin")
def test_a_whole_study(tmp_path: Path) -> None:
    results, page = tmp_path / "results", tmp_path / "docs" / "validation.md"
    results.mkdir()
    page.parent.mkdir()
    words = ["small", "--out", str(tmp_path / "out"), "--results", str(results)]
    assert truth.main([*words, "--page", str(page)]) == 0
    found = json.loads((results / "truth-small.json").read_text())
    assert found["stopped"] is None
    assert found["formula"].keys() == {"Ag", "Au", "Cu", "Pd", "Pt"}
    assert found["heat"].keys() == {"model", "teacher 1", "teacher 2"}
    assert found["path"]["relative"] < 0.05
    assert found["pairs"].keys() >= {"Ag-Ag", "Au-Cu"}
    assert all(0.0 < noise < 2.0 for one in found["pairs"].values() for noise in one["noise"])
    text = page.read_text()
    assert "- **Ran** all of 0.6 ps." in text
    assert "](../results/truth-small-pair-distributions.png)" in text
    assert (results / "truth-small-pair-distributions.png").is_file()


def estimate(value: float, error: float = 0.1) -> dict[str, float]:
    return {"value": value, "error": error}


def diffusing(coefficient: float) -> dict[str, Any]:
    return {"Cu": {"coefficient": estimate(coefficient), "slope": estimate(1.0)}}


@pytest.mark.parametrize(
    ("deviation", "ratio", "words"),
    [
        (0.03, 1.0, "at most +1.0% beyond the noise, for Cu-Cu (2 % wanted: met)"),
        (0.06, 1.0, "at most +4.0% beyond the noise, for Cu-Cu (2 % wanted: **not met**)"),
        (0.03, 0.9, "farthest off for Cu, 0.90 ± 0.11 times the teacher's (14 % wanted: met)"),
        (0.03, 1.2, "1.20 ± 0.12 times the teacher's (14 % wanted: **not met**)"),
    ],
)
def test_the_page_says_whether_goals_are_met(
    deviation: float, ratio: float, words: str, tmp_path: Path
) -> None:
    teachers = {f"teacher {k}": 0.9 + 0.1 * k for k in range(3)}
    result = {
        "study": "molten", "title": "molten", "model": "m", "model_sha256": "0" * 64,
        "teacher": "t", "steps": 10, "timestep_fs": 2.0, "ps": 1.0, "settle_ps": 0.1,
        "stopped": None, "formula": {"Cu": 500}, "path": None, "test": {},
        "temperatures": {of: {"Cu": estimate(300.0)} for of in ("model", *teachers)},
        "diffusion": {"model": diffusing(ratio)}
        | {of: diffusing(value) for of, value in teachers.items()},
        "pairs": {"Cu-Cu": {"model": deviation, "noise": [0.01, 0.03]}},
        "heat": {"model": {"ev": estimate(0.001), "kelvin": estimate(3.0)}},
        "hours": {"model": 1.0}, "hardware": "a processor",
    }  # fmt: skip
    (tmp_path / "truth-molten.json").write_text(json.dumps(result))
    write_page(tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert words in text
    assert "1.0000 ± 100.0000 meV" in text
