"""benchmarks/truth: the teacher has no heat, a run that was cut goes on, and the page's words."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io.lammpsdata import write_lammps_data

from benchmarks.nvt.files import read_segment
from benchmarks.segments import data, dump, schedule, segment_name
from benchmarks.truth import __main__ as truth
from benchmarks.truth import starts
from benchmarks.truth.dynamics import Made, run_teachers
from benchmarks.truth.heat import energies, heat
from benchmarks.truth.page import write_page
from benchmarks.truth.studies import STUDIES
from forcenet_md.errors import DataError
from forcenet_md.simulation.observables import read_lammps_dump

QUICK = replace(
    STUDIES["small"], ps=0.6, timestep=0.002, every=0.02, segment=0.1, settle=0.1, teachers=2
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts that are not settled."""
    text = starts.FIND_START.replace("run 10000", "run 1000").replace("run 5000", "run 100")
    monkeypatch.setattr(starts, "FIND_START", text.replace("10 1000 10000", "10 100 1000"))
    monkeypatch.setitem(STUDIES, "small", QUICK)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_the_teacher_heats_nothing_and_a_run_that_was_cut_is_the_same(tmp_path: Path) -> None:
    """What is kept is kept to what the timestep leaves; 0.04 eV/ps of heat would be 5 meV here."""
    one = replace(QUICK, teachers=1)
    made = run_teachers(tmp_path, one, QUICK.ps)[0]
    assert made.stopped is None
    _, energy = energies(made, one)
    assert len(energy) == 6
    assert abs(energy - energy[0]).max() < 1e-3
    found = heat(made, one)
    assert found is not None
    assert abs(found.value) < 2e-3
    whole = dump(made.folder, 5).read_text()
    assert whole.count("ITEM: TIMESTEP") == 5  # none twice
    data(made.folder, 5).unlink()
    run_teachers(tmp_path, one, QUICK.ps)
    assert dump(made.folder, 5).read_text() == whole
    with pytest.raises(DataError, match="another temperature"):
        run_teachers(tmp_path, replace(one, temperature=900.0), QUICK.ps)


@pytest.mark.slow
@pytest.mark.usefixtures("short", "plugin")
def test_a_whole_study(tmp_path: Path) -> None:
    found, text = conducted("small", tmp_path)
    assert found["formula"].keys() == {"Ag", "Au", "Cu", "Pd", "Pt"}
    assert all(found["heat"].values())
    assert found["path"]["relative"] < 0.05
    assert found["pairs"].keys() >= {"Ag-Ag", "Au-Cu"}
    assert "- **Ran** all of 0.6 ps." in text


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
def test_a_teacher_of_ase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model and teacher begin alike: with the teacher's last velocities."""
    crystal = tmp_path / "copper.cif"
    bulk("Cu", cubic=True).write(crystal)
    study = replace(
        QUICK, temperature=300.0, teacher="emt", elements=("Cu",), crystal=crystal, teacher_ps=0.4
    )
    monkeypatch.setitem(STUDIES, "small", study)
    monkeypatch.setattr(starts, "WARMED", 0.1)
    found, text = conducted("small", tmp_path)
    assert found["formula"] == {"Cu": 32}
    assert found["heat"]["model"]
    assert not found["heat"]["teacher 1"]  # by ASE nobody counts what the thermostat took
    assert all(found["hours"].values())
    assert "teacher emt, 2 runs of 0.4 ps." in text
    first = read_lammps_dump(tmp_path / "out" / "model" / "segment-0000.dump")[0]
    warm = read_segment(tmp_path / "out" / "start" / "segment-0000.extxyz")[-1]
    np.testing.assert_allclose(first.get_velocities(), warm.get_velocities(), rtol=1e-4, atol=1e-6)


def conducted(name: str, folder: Path) -> tuple[dict[str, Any], str]:
    """The results of a study that ran to its end, and the page."""
    results, page = folder / "results", folder / "docs" / "validation.md"
    results.mkdir()
    page.parent.mkdir()
    words = [name, "--out", str(folder / "out"), "--results", str(results)]
    assert truth.main([*words, "--page", str(page)]) == 0
    found = json.loads((results / f"truth-{name}.json").read_text())
    assert found["stopped"] is None
    assert found["heat"].keys() == {"model", "teacher 1", "teacher 2"}
    assert all(0.0 < noise < 2.0 for one in found["pairs"].values() for noise in one["noise"])
    text = page.read_text()
    assert f"](../results/truth-{name}-pair-distributions.png)" in text
    assert (results / f"truth-{name}-pair-distributions.png").is_file()
    return found, text


@pytest.mark.parametrize("ps", ["2", "0", "-1"])
def test_runs_no_longer_than_what_is_left_out_are_refused(
    ps: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert truth.main(["lips-600", "--out", str(tmp_path / "out"), "--ps", ps]) == 1
    assert f"--ps {ps}: the first 2 ps of each run are left out" in capsys.readouterr().err
    assert not (tmp_path / "out" / "settings.json").exists()  # nothing was begun


def test_what_is_expected_of_a_perfect_model() -> None:
    """Of means over normal noise, 500 bins of them."""
    rng = np.random.default_rng(3)
    model, teacher, n = 50.0, 8.0, 3
    mine = rng.normal(size=(200, 500)) / np.sqrt(model)
    theirs = rng.normal(size=(n, 200, 500)) / np.sqrt(teacher)
    away = np.abs(mine - theirs.mean(axis=0)).sum(axis=1).mean()
    noise = np.abs(theirs[0] - theirs[1:].mean(axis=0)).sum(axis=1).mean()
    assert away == pytest.approx(truth.noise_scale(model, teacher, n) * noise, rel=0.01)
    assert truth.noise_scale(1.0, 1.0, 4) == pytest.approx((1.25 / (4 / 3)) ** 0.5)


def estimate(value: float, error: float | None = 0.1) -> dict[str, float | None]:
    return {"value": value, "error": error}


NONE = {"coefficient": None, "slope": {"value": 0.3, "error": 0.1}}


def diffusing(coefficient: float) -> dict[str, Any]:
    return {
        "Cu": {"coefficient": estimate(coefficient), "slope": estimate(1.0)},
        "Ag": NONE,
    }


def outcome(deviation: float, model: dict[str, Any]) -> dict[str, Any]:
    teachers = {f"teacher {k}": 0.9 + 0.1 * k for k in range(3)}
    return {
        "study": "molten", "title": "molten", "model": "m", "model_sha256": "0" * 64,
        "teacher": "t", "steps": 10, "timestep_fs": 2.0, "ps": 1.0, "settle_ps": 0.1,
        "teacher_ps": 1.0, "stopped": None, "formula": {"Cu": 500}, "path": None, "test": {},
        "diffusion_window": [1.0, 2.0],
        "temperatures": {of: {"Cu": estimate(300.0)} for of in ("model", *teachers)},
        "diffusion": {"model": model}
        | {of: diffusing(value) for of, value in teachers.items()},
        "pairs": {"Cu-Cu": {"model": deviation, "noise": [0.01, 0.03], "expected": 0.02}},
        "heat": {
            "model": {"ev": estimate(0.001), "kelvin": estimate(3.0)},
            "teacher 0": {"ev": estimate(0.0, None), "kelvin": estimate(0.0, None)},
        },
        "hours": {"model": 1.0}, "hardware": "a processor",
    }  # fmt: skip


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
    result = outcome(deviation, diffusing(ratio))
    (tmp_path / "truth-molten.json").write_text(json.dumps(result))
    write_page(tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert words in text
    assert "- **No diffusion** in any of the teacher's runs: Ag." in text
    assert "| Ag |" not in text.split("of lags from 1 to 2 ps:")[1]
    assert "1.0000 ± 100.0000 meV" in text
    assert "of the teacher's runs 0.0000 ± ? meV (0.00 ± ? K)." in text


@pytest.mark.parametrize(
    ("model", "teachers", "words", "row"),
    [
        (False, 3, "none of Cu by the model (**not met**)", "– | 1.0000 ± 0.0577 | –"),
        (
            True, 1, "of Cu: seen in 1 of the teacher's 3 runs, which are too short to tell (14 %"
            " wanted: **not judged**)", "1.0000 ± 0.1000 | 0.9000 ± 0.1000 (1 of 3 runs) | –",
        ),
        (True, 0, "runs: Cu, Ag, but by the model: Cu (**not met**).", "1.0000 ± 0.1000 | – | –"),
        (False, 0, "in any of the teacher's runs: Cu, Ag.", None),
    ],
)  # fmt: skip
def test_diffusion_that_only_some_runs_have(
    model: bool, teachers: int, words: str, row: str | None, tmp_path: Path
) -> None:
    result = outcome(0.03, diffusing(1.0) if model else {"Cu": NONE, "Ag": NONE})
    for k in range(teachers, 3):
        result["diffusion"][f"teacher {k}"]["Cu"] = NONE
    (tmp_path / "truth-molten.json").write_text(json.dumps(result))
    write_page(tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert words in text
    assert ("of lags from" in text) == bool(row)
    assert row is None or f"| Cu | {row} |" in text


def test_the_page_is_that_of_the_results(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    results = root / "benchmarks" / "results"
    write_page(results, tmp_path / "docs" / "validation.md")
    text = (tmp_path / "docs" / "validation.md").read_text(encoding="utf-8")
    text = text.replace(os.path.relpath(results, tmp_path / "docs"), "../benchmarks/results")
    assert text == (root / "docs" / "validation.md").read_text(encoding="utf-8")


def test_heat_that_is_known(tmp_path: Path) -> None:
    """Of a run that was written by hand: the teacher's energies of its positions are ASE's."""
    rate, n = 0.02, 32  # eV per atom and ps
    study = replace(QUICK, teacher="emt", elements=("Cu",), settle=0.15)
    made = Made(tmp_path, schedule(300.0, 0.6, 0.1, 0.002, every=10), [], 0.0, None)
    rng = np.random.default_rng(1)
    kept, taken = 5.0, 0.0
    for k in range(made.plan.segments):
        atoms = bulk("Cu", cubic=True) * 2
        atoms.rattle(0.1, seed=k)
        with open(data(tmp_path, k), "w", encoding="ascii") as file:
            atoms.set_velocities(rng.normal(size=(n, 3)))
            write_lammps_data(file, atoms, specorder=["Cu"], masses=True, velocities=True)
        atoms.calc = EMT()
        bath = float(rng.normal())
        taken += bath
        kept += n * rate * 0.1 * (k + 1 > 1)  # none within the time that is left out
        kinetic = kept - atoms.get_potential_energy() - taken
        row = f"Step KinEng f_bath\n0 9 9\n50 {kinetic:.12g} {bath:.12g}\nLoop time of 1"
        (tmp_path / f"{segment_name(k)}.log").write_text(row, encoding="ascii")
    found = heat(made, study)
    assert found is not None
    assert found.value == pytest.approx(rate, rel=1e-5)
