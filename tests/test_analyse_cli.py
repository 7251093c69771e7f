"""forcenet-md analyse: the same run from every kind of file, what it writes, and real LAMMPS."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import lammps_runs
import numpy as np
import pytest
from ase.io import write
from PIL import Image
from runs_on_disk import EVERY, walk, write_dump, write_h5md

from forcenet_md.cli.main import build_app
from forcenet_md.errors import DataError, ForceNetError
from forcenet_md.simulation import judging
from forcenet_md.simulation.analysis_files import write_analysis
from forcenet_md.simulation.findings import Report
from forcenet_md.simulation.judging import judge
from forcenet_md.simulation.trajectory import Reading, Trajectory

SYMBOLS = ["Ag"] * 8 + ["Cu"] * 4
TIMESTEP = 0.002
FRAME = EVERY * TIMESTEP  # ps
PICTURES = ("pair-distributions.png", "displacements.png", "spectra.png", "temperatures.png")
CURVES = (
    "pair-distributions.csv",
    "displacements.csv",
    "velocity-autocorrelation.csv",
    "spectrum.csv",
    "temperatures.csv",
)


def command(*arguments: object, code: int = 0) -> None:
    """In this process: a start of Python for each would take longer than the rest."""
    with pytest.raises(SystemExit) as end:
        build_app()(["analyse", *map(str, arguments)])
    assert end.value.code == code


def numbers(found: object) -> list[float]:
    """Every number of a JSON, in order."""
    if isinstance(found, dict):
        return [x for value in found.values() for x in numbers(value)]
    if isinstance(found, list):
        return [x for value in found for x in numbers(value)]
    return [float(found)] if isinstance(found, int | float) else []


def test_every_kind_of_file_gives_the_same_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = walk(96, SYMBOLS, step=0.2, tilted=True)
    write(tmp_path / "run.extxyz", frames)
    parts = [
        write_dump(tmp_path / "1.dump", frames[:50]),
        write_dump(tmp_path / "2.dump", frames[49:], "xu", first=49 * EVERY),
    ]
    ways: list[tuple[object, ...]] = [
        (write_h5md(tmp_path / "run.h5", frames, TIMESTEP),),
        (*parts, "--timestep", TIMESTEP),
        (tmp_path / "run.extxyz", "--timestep", FRAME),
        (write_dump(tmp_path / "t.dump", frames, types=("Cu", "Ag")), "--elements", "Cu,Ag",
         "--timestep", TIMESTEP),
    ]  # fmt: skip
    found = []
    for way in ways:
        command(*way, "--json", "--from", 0.1, "--r-max", 5.0)
        found.append(json.loads(capsys.readouterr().out)["run"])
    first = numbers(found[0])
    assert len(first) > 35
    for other in found[1:]:
        np.testing.assert_allclose(numbers(other), first, rtol=1e-5, atol=1e-7)
    assert found[0]["n_frames"] == 86
    assert found[0]["begins"] == pytest.approx(0.1)
    assert found[0]["formula"] == {"Cu": 4, "Ag": 8}


def test_the_folder_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_h5md(tmp_path / "one.h5", walk(128, SYMBOLS, step=0.2), TIMESTEP)
    frames = walk(128, SYMBOLS, step=0.3, seed=1)
    two = [
        write_dump(tmp_path / "2a.dump", frames[:64]),
        write_dump(tmp_path / "2b.dump", frames[64:], first=64 * EVERY),
    ]
    out = tmp_path / "a" / "out"
    command(one, "--against", *two, "--timestep", TIMESTEP, "--out", out, "--fit", "0.02:0.08")
    printed = capsys.readouterr().out
    report = json.loads((out / "analysis.json").read_text())
    assert report["against"]["n_frames"] == 128
    assert report["comparison"]["window"] == pytest.approx([0.02, 0.08])
    ratio = report["comparison"]["figures"]["diffusion of Ag (Å²/ps)"]["ratio"]["value"]
    assert ratio == pytest.approx(4.0 / 9.0, rel=0.4)
    assert "one.h5 against 2a.dump" in printed
    assert "diffusion of Cu (Å²/ps)" in printed
    assert "A thermostat slows diffusion" in printed
    for name in PICTURES:
        with Image.open(out / name) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20, name
    for name in CURVES:
        for prefix in ("", "against-"):
            with (out / f"{prefix}{name}").open() as file:
                header, *rows = csv.reader(file)
            assert len(rows) > 10
            assert {len(row) for row in rows} == {len(header)}
            assert np.isfinite(np.array(rows, dtype=float)).all()
    expected = {"analysis.json", *PICTURES, *CURVES, *(f"against-{name}" for name in CURVES)}
    assert {path.name for path in out.iterdir()} == expected


@pytest.mark.slow
def test_many_elements_have_a_table_and_a_figure_of_some_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    symbols = ["Ag", "Au", "Cu", "Ni", "Pd", "Pt", "Al", "Ti"] * 2
    write(tmp_path / "run.extxyz", walk(12, symbols, step=0.2))
    command(tmp_path / "run.extxyz", "--timestep", FRAME, "--out", tmp_path)
    assert "the first 30 of 36; --out has all" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "analysis.json").read_text())["run"]["pairs"]) == 36
    with Image.open(tmp_path / "pair-distributions.png") as picture:
        rows, columns = 5, 4  # of 20 pairs
        assert picture.size == (150 * 2.3 * columns, 150 * 1.9 * rows)


def test_runs_of_other_timesteps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same steps in half the time are twice the diffusion."""
    one = write_dump(tmp_path / "one.dump", walk(64, ["Ar"] * 6, step=0.2))
    steps = ("--timestep", 0.002, "--against-timestep", 0.004)
    command(one, "--against", one, *steps, "--json", "--fit", "0.04:0.12")
    found = json.loads(capsys.readouterr().out)
    assert found["run"]["ends"] == pytest.approx(0.5 * found["against"]["ends"])
    assert found["run"]["name"] == "one.dump"
    assert found["against"]["name"] == "one.dump (2)"
    ratio = found["comparison"]["figures"]["diffusion of Ar (Å²/ps)"]["ratio"]["value"]
    assert ratio == pytest.approx(2.0, rel=0.3)


def test_a_run_without_times_or_velocities_has_its_g(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = walk(20, SYMBOLS, step=0.2)
    for atoms in frames:
        del atoms.arrays["momenta"]
    write(tmp_path / "run.extxyz", frames)
    command(tmp_path / "run.extxyz", "--out", tmp_path / "out")
    printed = " ".join(capsys.readouterr().out.split())
    assert "give --timestep PS" in printed
    assert "There are no velocities" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "analysis.json",
        "pair-distributions.png",
        "pair-distributions.csv",
    }


def test_faults_come_before_the_work_or_are_told(tmp_path: Path) -> None:
    run = write_dump(tmp_path / "run.dump", walk(12, SYMBOLS, step=0.2))
    other = write_dump(tmp_path / "other.dump", walk(12, ["Ag"] * 12, step=0.2))
    (tmp_path / "file").write_text("")
    for arguments, sentence in (
        ((run, "--against", other), "same elements"),
        ((run, "--from", "1"), "--timestep"),
        ((run, "--from", "1", "--timestep", TIMESTEP), "no whole frame from 1 ps on"),
        ((run, "--out", tmp_path / "file" / "out"), "is a file"),
        ((run, "--elements", "Xy"), "no element"),
        ((run, "--units", "lj"), "no physical scale"),
        ((run, "--fit", "3:1"), "--fit 2:10"),
    ):
        with pytest.raises(ForceNetError, match=sentence):
            build_app()(["analyse", *map(str, arguments)])
    command(run, "--fit", "3", code=2)


@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.slow), 12])
def test_an_interrupt_gives_what_there_is(
    n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_dump(tmp_path / "run.dump", walk(30, SYMBOLS, step=0.2))
    plain = judging.analyse

    def interrupted(*arguments: object) -> object:
        trajectory, settings, progress, _stopped = arguments
        asked = iter([*[False] * (n - 1), *[True] * 20])
        return plain(trajectory, settings, progress, lambda: next(asked))  # type: ignore[arg-type]

    monkeypatch.setattr(judging, "analyse", interrupted)
    found = judge(Trajectory([run], Reading(timestep=TIMESTEP)), "run", stopped=lambda: True)
    assert found.findings.n_frames == n
    assert not found.findings.complete
    write_analysis(tmp_path, Report(run=found.findings), found, None)
    assert f"INTERRUPTED: the figures are over the first {n} frames." in found.findings.remarks


ARGON = """
pair_style lj/cut 8.0
pair_coeff 1 1 0.0104 3.4
neigh_modify delay 0 every 1
velocity all scale 240
timestep 0.004
fix 1 all nve
run 300
reset_timestep 0
compute moved all msd com yes
compute pairs all rdf 120 cutoff 6.0
thermo_style custom step temp pe c_moved[4]
thermo_modify format float %.12g
thermo 10
fix rdf all ave/time 10 32 320 c_pairs[*] mode vector file rdf.txt
dump d all custom 10 run.dump id element x y z vx vy vz
dump_modify d element Ar format float %.12g units yes time yes
run 320
"""


def test_a_real_run_is_judged_as_lammps_does(tmp_path: Path) -> None:
    """compute temp, compute msd and compute rdf of the same frames."""
    script = lammps_runs.crystal(cells=4, temperature=240.0).replace("fcc 5.3", "fcc 5.9") + ARGON
    done = lammps_runs.run(script, tmp_path)
    assert done.returncode == 0, done.output
    run = judge(Trajectory([tmp_path / "run.dump"]), "argon")
    thermo = done.thermo()[-1]
    assert run.findings.n_frames == len(thermo) == 33
    assert run.findings.spacing == pytest.approx(0.04)
    assert run.findings.centre_at_rest
    np.testing.assert_allclose(run.curves.temperatures["all"], thermo[:, 1], rtol=1e-5)
    # At the longest lag there is one origin, the first frame, which is LAMMPS's.
    moved = run.sums.displacements.result()
    assert moved.lag[-1] == 32
    assert moved.total[-1, 0] == pytest.approx(thermo[-1, 3], rel=1e-6)
    assert thermo[-1, 3] > 1.0
    table = np.loadtxt(tmp_path / "rdf.txt", skiprows=4)
    averaged = judge(Trajectory([tmp_path / "run.dump"], Reading(begins=0.04)), "argon")
    g = averaged.curves.g  # of the frames that LAMMPS averages over
    assert g is not None
    assert len(table) == 120
    np.testing.assert_allclose(g.r, table[:, 1], atol=1e-9)
    np.testing.assert_allclose(g.g["Ar-Ar"], table[:, 2], atol=2e-4)
    radius = averaged.findings.pairs["Ar-Ar"].first_minimum
    assert radius is not None
    near = averaged.neighbours("Ar-Ar", radius)["Ar around Ar"].value
    assert near == pytest.approx(np.interp(radius, g.r + 0.025, table[:, 3]), rel=1e-3)


def test_other_elements_are_named(tmp_path: Path) -> None:
    one = write_dump(tmp_path / "one.dump", walk(12, SYMBOLS, step=0.2))
    two = write_dump(tmp_path / "two.dump", walk(12, ["Pd"] * 3, step=0.2))
    with pytest.raises(DataError, match=r"one.dump has Cu, Ag, two.dump has Pd"):
        build_app()(["analyse", str(one), "--against", str(two)])
