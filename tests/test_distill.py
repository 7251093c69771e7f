"""Distillation, part by part: what is asked, how time is shared out, what is visited and taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from typer.testing import CliRunner

from forcenet_md.cli.main import build_app
from forcenet_md.data.frames import forces_of, write_frames
from forcenet_md.data.visiting import Visit
from forcenet_md.distill.clock import Clock, words
from forcenet_md.distill.explore import (
    beginning,
    explore,
    off_the_path,
    read_start,
    set_apart,
    squeezed,
    supercell,
)
from forcenet_md.distill.files import Files, read_some
from forcenet_md.distill.finish import judgement
from forcenet_md.distill.plan import (
    EXPLORE,
    FIRST,
    LATER,
    Plan,
    Run,
    make_plan,
    path_steps,
    plan_runs,
)
from forcenet_md.distill.rounds import good
from forcenet_md.distill.run import distill, next_training
from forcenet_md.distill.settings import (
    Settings,
    check_overrides,
    parse_budget,
    parse_temperatures,
)
from forcenet_md.distill.visit import choose, nearest_pair, visit
from forcenet_md.distill.work import Work
from forcenet_md.errors import DataError


def settings(**changes: Any) -> Settings:
    base: dict[str, Any] = {
        "structure": Path("cu.cif"),
        "structure_sha256": "0",
        "teacher": "emt",
        "low": 300.0,
        "high": 900.0,
        "budget": 3600.0,
        "timestep": 2.0,
    }
    return Settings(**{**base, **changes})


def copper(repeat: int = 2) -> Atoms:
    return bulk("Cu", cubic=True) * (repeat, repeat, repeat)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90min", 5400), ("1h30min", 5400), ("1.5 h", 5400), ("45s", 45), ("1d", 86400)],
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "2", "0h", "2h and", "2 hours", "-1h"])
def test_a_budget_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="write 2h"):
        parse_budget(text)


def test_temperatures() -> None:
    assert parse_temperatures("300-1200") == (300.0, 1200.0)
    assert parse_temperatures("300 – 1200 K") == (300.0, 1200.0)
    assert parse_temperatures("600") == (600.0, 600.0)
    with pytest.raises(DataError, match="upside down: write 300-1200"):
        parse_temperatures("1200-300")
    for text in ("hot", "300-", "0-300", "-300"):
        with pytest.raises(DataError):
            parse_temperatures(text)


def test_a_folder_is_of_one_distillation(tmp_path: Path) -> None:
    settings().check(tmp_path)
    settings().write(tmp_path)
    settings(budget=9e9, workers=3, structure=Path("there/cu.cif")).check(tmp_path)
    with pytest.raises(DataError, match="with another structure, teacher, temperature:"):
        settings(structure_sha256="1", teacher="lj", low=200.0, high=800.0).check(tmp_path)
    assert Settings.read(tmp_path) == settings()
    for damaged in ("{", "[1]", '{"version": 2}'):
        (tmp_path / "settings.json").write_text(damaged)
        with pytest.raises(DataError, match="damaged"):
            settings().check(tmp_path)
    for other in (settings().model_dump_json(), '{"version": 9, "new": 1}'):
        (tmp_path / "settings.json").write_text(other)
        with pytest.raises(DataError, match="by another version of forcenet-md: end it with that"):
            settings().check(tmp_path)


def test_the_clock_adds_up_sittings_and_survives_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("forcenet_md.distill.clock.time.monotonic", lambda: now)
    path = tmp_path / "clock.json"
    clock = Clock(path, 100.0)
    with clock.stage("exploring"):
        now = 30.0
    assert Clock(path, 100.0).left == 70.0
    with Clock(path, 100.0).stage("exploring"):
        now = 40.0
    killed = Clock(path, 100.0)
    assert killed.spent == {"exploring": 40.0}
    stage = killed.stage("training")
    stage.__enter__()
    for later in (45.0, 50.0, 56.0):  # and no end
        now = later
        killed.tick()
    assert Clock(path, 100.0).spent["training"] >= 10.0
    assert Clock(path, 20.0).left == 0.0
    assert [words(s) for s in (40, 200, 720, 3900)] == [
        "40 s",
        "3 min 20 s",
        "12 min",
        "1 h 05 min",
    ]


@pytest.mark.parametrize("seconds", [0.001, 0.03, 0.5])
def test_the_plan_keeps_to_the_budget(seconds: float) -> None:
    asked = settings(budget=7200.0, workers=2)
    plan = make_plan(asked, seconds)
    used = seconds * (len(plan.runs) * plan.steps + plan.n_off_path) / asked.workers
    assert used <= EXPLORE * asked.budget
    most = len(plan.runs) * plan.steps / plan.spacing
    assert 2000 >= most >= min(1500, 0.5 * EXPLORE * asked.budget / seconds / plan.spacing)
    assert plan.steps % plan.spacing == 0


def test_every_process_has_a_trajectory() -> None:
    assert len(make_plan(settings(workers=40), 0.5).runs) == 40
    assert len(make_plan(settings(workers=12), 20.0).runs) == 12


def test_a_budget_too_small_for_the_teacher_is_refused_with_one_that_is_enough() -> None:
    with pytest.raises(DataError, match=r"--budget of at least (\d+) min") as error:
        make_plan(settings(budget=60.0), 1.0)
    minutes = int(str(error.value).split("at least ")[1].split(" min")[0])
    make_plan(settings(budget=60.0 * minutes), 1.0)


def test_runs_cover_the_temperatures_and_so_do_those_for_the_test() -> None:
    runs = plan_runs(300.0, 1200.0, 20, seed=3)
    test = sorted(run.temperature for run in runs if run.held_out)
    assert len(test) == 4
    assert all(300 + 225 * k < t < 300 + 225 * (k + 1) for k, t in enumerate(test))
    taught = [run.temperature for run in runs if not run.held_out]
    assert min(taught) < 400
    assert max(taught) == pytest.approx(1.3 * 1200)
    assert {run.shear > 0 for run in runs if run.held_out} == {True, False}
    assert len({run.seed for run in runs}) == 20
    assert all(run.temperature <= 1200 for run in plan_runs(300, 1200, 6, seed=3, hot=False))


def test_paths_go_as_far_as_there_is_time_and_a_picosecond_at_least() -> None:
    asked = settings(budget=7200.0)
    plan = make_plan(asked, 0.1)
    assert path_steps(asked, plan, 0.02) == pytest.approx(0.06 * 7200 / 6 / 0.02, rel=0.01)
    assert path_steps(asked, plan, 5.0) * plan.timestep >= 1000.0
    assert path_steps(asked, plan, 1e-5) == 20_000


def work_in(folder: Path, asked: Settings) -> Work:
    return Work(asked, Files(folder), Clock(folder / "clock.json", asked.budget), 0, lambda _: None)


def end_round(
    files: Files, number: int, ratio: float | None = 1.0, whole: int = 6, relative: float = 0.02
) -> None:
    figures = {"ratio": ratio, "whole_paths": whole, "paths": 6, "test": {"relative": relative}}
    files.round(number).figures.write_text(json.dumps(figures))


def test_rounds_follow_until_one_is_good_or_the_budget_is_used(tmp_path: Path) -> None:
    work = work_in(tmp_path, settings(budget=1000.0))
    work.clock.spent["exploring"] = 200.0
    assert next_training(work) == FIRST * 1000
    work.clock.spent["exploring"] = 290.0
    assert next_training(work) == FIRST * 1000  # the round is not over: the same again
    work.clock.spent["exploring"] = 200.0
    end_round(work.files, 0, ratio=2.0)
    work.clock.spent["rounds"] = 370.0
    assert next_training(work) == LATER * 1000
    end_round(work.files, 1, whole=5)
    work.clock.spent["rounds"] = 580.0
    last = next_training(work)
    assert last == pytest.approx(220 - 90)  # what is left, without the time for its paths
    end_round(work.files, 2, ratio=None)
    work.clock.spent["rounds"] = 790.0
    assert next_training(work) is None
    more = work_in(tmp_path, settings(budget=2000.0))
    more.clock.spent = work.clock.spent
    assert next_training(more) == LATER * 2000
    end_round(work.files, 3, relative=0.051)
    assert next_training(more) == LATER * 2000
    end_round(work.files, 4, relative=0.049)
    assert next_training(more) is None


def test_what_exploring_took_too_long_the_first_training_gives_back(tmp_path: Path) -> None:
    work = work_in(tmp_path, settings(budget=1000.0))
    work.clock.spent["exploring"] = 700.0
    assert next_training(work) == pytest.approx(300 - 90)
    late = work_in(tmp_path / "late", settings(budget=1000.0))
    late.clock.spent["exploring"] = 1200.0
    assert next_training(late) == FIRST * 500


def test_the_criterion() -> None:
    test = {"relative": 0.04}
    figures = {"paths": 6, "whole_paths": 6, "ratio": 1.5, "path_ps": 3.0, "test": test}
    assert good(figures)
    assert judgement(figures, 0.05).endswith("The test error is 4.0 % of the mean force.")
    assert "where 3 % is wanted" in judgement(figures, 0.03)
    assert "is wanted" not in judgement(figures, 0.0)  # 0: all of the budget, whatever comes
    for wrong in ({"ratio": 1.51}, {"whole_paths": 5}, {"ratio": None}):
        assert not good({**figures, **wrong})
        assert "It fell short" in judgement({**figures, **wrong}, 0.05)


def test_cells_are_repeated_where_they_are_thin_and_periodic() -> None:
    assert len(supercell(bulk("Cu", cubic=True), 128)) == 108
    assert len(supercell(bulk("Cu", cubic=True), 20)) == 16
    assert len(supercell(copper(4), 128)) == 256
    slab = supercell(fcc111("Cu", (1, 1, 3), vacuum=6.0), 128)
    assert not slab.pbc[2]
    assert slab.cell.lengths()[2] == fcc111("Cu", (1, 1, 3), vacuum=6.0).cell.lengths()[2]
    assert len(slab) > 40
    assert len(supercell(molecule("H2O"), 128)) == 3


def test_runs_begin_strained_but_not_across_vacuum() -> None:
    run = Run(number=0, temperature=300.0, scale=1.05, shear=0.04, seed=1)
    crystal = beginning(copper(), run)
    assert crystal.get_volume() != pytest.approx(copper().get_volume(), rel=0.03)
    assert np.abs(crystal.cell.array - np.diag(crystal.cell.array.diagonal())).max() > 0.01
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    pressed = beginning(slab, run)
    assert pressed.cell.lengths() == pytest.approx(slab.cell.lengths() * [1.05, 1.05, 1.0])
    assert np.ptp(pressed.positions[:, 2]) == pytest.approx(np.ptp(slab.positions[:, 2]))


def test_squeezed_pairs_are_short_and_nothing_else_moves() -> None:
    atoms = copper()
    short = squeezed(atoms, 1, np.random.default_rng(0))
    moved = np.flatnonzero(np.linalg.norm(short.positions - atoms.positions, axis=1) > 1e-9)
    assert len(moved) == 2
    length = short.get_distance(int(moved[0]), int(moved[1]), mic=True) / (2 * covalent_radii[29])
    assert 0.75 <= length <= 0.95
    assert nearest_pair(short) == pytest.approx(length)
    assert nearest_pair(atoms) > length


def test_frames_beside_dynamics() -> None:
    made = off_the_path([copper()], 30, seed=0)
    kinds = [atoms.info["config_type"] for atoms in made]
    assert kinds.count("short") == 10
    assert kinds.count("rattled") == 20
    assert len({atoms.info["trajectory"] for atoms in made}) == 30


def test_frames_of_exploring_have_the_labels_of_where_they_are() -> None:
    run = Run(number=4, temperature=500.0, scale=1.0, shear=0.0, seed=1, held_out=True)
    steps = Visit(500.0, time_ps=0.08, spacing_ps=0.02, timestep_fs=4.0)
    frames = list(explore(copper(), run, EMT(), steps))
    assert len(frames) == 4
    assert {atoms.info["trajectory"] for atoms in frames} == {"md-4"}
    again = frames[-1].copy()
    again.calc = EMT()
    assert forces_of(frames[-1]) == pytest.approx(again.get_forces(), abs=1e-9)
    assert frames[-1].get_potential_energy() == pytest.approx(again.get_potential_energy())


class Attraction(Calculator):
    """Neighbours fall into one another."""

    implemented_properties = ["forces"]  # noqa: RUF012 (as ASE has it)

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = ()) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] = -EMT().get_forces(atoms)


def path_of(calculator: Calculator, doubt: float = 0.1) -> Any:
    start = bulk("Cu", cubic=True)
    plan = Visit(600.0, time_ps=0.4, spacing_ps=0.02, timestep_fs=5.0)
    return visit(start, calculator, lambda _: doubt, plan, 1, nearest_pair(start) * 0.9, wanted=10)


def test_a_sound_path_is_whole_and_has_even_and_doubtful_frames() -> None:
    path = path_of(EMT())
    assert path.whole
    assert len(path.spread) == len(path.near) == 20
    why = [atoms.info["why"] for atoms in path.frames]
    assert why.count("even") == 6
    assert 2 <= why.count("doubtful") <= 4
    assert all("model_forces" in atoms.arrays for atoms in path.frames)
    assert not [atoms for atoms in path_of(EMT(), doubt=0.0).frames if atoms.info["why"] != "even"]


def test_a_path_that_leaves_physics_is_not_whole() -> None:
    path = path_of(Attraction())
    assert not path.whole
    assert len(path.near) < 20
    assert path.frames[-1].info["why"] == "even"  # where it ended counts in the average


def test_what_is_chosen_on_a_path() -> None:
    spread, near = [0.1] * 40, [1.0] * 40
    spread[11] = spread[12] = 0.9
    spread[25] = 0.5
    near[30] = 0.5
    why = choose(spread, near, nearest=0.9, wanted=10)
    even = [k for k, reason in why.items() if reason == "even"]
    assert len(even) == 6
    assert np.ptp(np.diff(even)) <= 1
    assert len(why) <= 10
    assert why[30] == "strange"
    assert sum(k in why for k in (11, 12)) == 1  # neighbours are nearly the same
    assert 25 in why
    assert choose([], [], 0.9, 10) == {}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda a: [a, a], "holds 2 structures"),
        (lambda a: [Atoms(a.numbers, a.positions, cell=a.cell)], "not periodic"),
        (lambda a: [a + Atoms("Cu", positions=[[0.01, 0, 0]])], "nearer than"),
        (lambda a: [Atoms("Cu", pbc=True)], "no volume"),
    ],
)
def test_structures_that_cannot_be_meant_are_refused(tmp_path: Path, make: Any, match: str) -> None:
    path = tmp_path / "a.extxyz"
    write_frames(path, make(bulk("Cu", cubic=True)))
    with pytest.raises(DataError, match=match):
        read_start(path)


CIF = """data_x
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
A Cu 0 0 0 {share}
"""


def test_sites_that_are_partly_occupied_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.cif"
    path.write_text(CIF.format(share=1.0))
    assert len(read_start(path)) == 1
    path.write_text(CIF.format(share=0.5))
    with pytest.raises(DataError, match=r"a\.cif: .* a site that is occupied in part"):
        read_start(path)


def test_a_path_without_frames_leaves_an_empty_file(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.extxyz", [])
    assert read_some(tmp_path / "a.extxyz") == []


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--teacher", "nope"], "no teacher 'nope'"),
        (["--budget", "soon"], "is no time"),
        (["--temperature", "900-300"], "upside down"),
        (["--config", "huge"], "no file huge"),
        (["training.nope=1"], "no such setting"),
        (["training.seconds=9"], "planned from --budget"),
    ],
)
def test_mistakes_are_said_before_anything_is_made(
    tmp_path: Path, words: list[str], match: str
) -> None:
    write_frames(tmp_path / "cu.extxyz", [copper()])
    out = tmp_path / "out"
    usual = {"--teacher": "emt", "--budget": "1h", "--temperature": "300-900", "--out": str(out)}
    given = [word for key, value in usual.items() if key not in words for word in (key, value)]
    command = ["distill", str(tmp_path / "cu.extxyz"), *given, *words]
    result = CliRunner().invoke(build_app(), command)
    assert isinstance(result.exception, DataError)
    assert match in str(result.exception)
    assert not out.exists()


@pytest.mark.parametrize(
    ("metal", "budget", "match"),
    [
        ("Fe", 3600.0, "cannot label"),
        pytest.param("Cu", 0.001, r"give a --budget of at least", marks=pytest.mark.slow),
    ],
)
def test_a_refused_distillation_leaves_nothing(
    tmp_path: Path, metal: str, budget: float, match: str
) -> None:
    """Where the teacher must be asked to know."""
    write_frames(tmp_path / "a.extxyz", [bulk(metal, cubic=True)])
    asked = settings(structure=tmp_path / "a.extxyz", elements=(metal,), budget=budget, atoms=4)
    for there in (False, True):
        with pytest.raises(DataError, match=match):
            distill(asked, tmp_path / "out")
        assert [path.name for path in tmp_path.glob("out/*")] == (["lock"] if there else [])
        assert (tmp_path / "out").exists() == there  # what was there before stays
        (tmp_path / "out").mkdir(exist_ok=True)


@pytest.mark.parametrize(("symbols", "fs"), [("H2O", 0.5), ("CO", 1.0), ("Cu2", 2.0)])
def test_the_timestep_is_that_of_prepared_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symbols: str, fs: float
) -> None:
    asked: list[Settings] = []

    def note(settings: Settings, *_: Any) -> None:
        asked.append(settings)
        raise DataError("enough")

    monkeypatch.setattr("forcenet_md.distill.run.distill", note)
    positions = [[2.0 * k, 0.0, 0.0] for k in range(len(Atoms(symbols)))]
    write_frames(tmp_path / "a.extxyz", [Atoms(symbols, positions)])
    words = ["--teacher", "emt", "--budget", "1h", "--temperature", "300"]
    for more in ([], ["--timestep", "0.7"]):
        CliRunner().invoke(build_app(), ["distill", str(tmp_path / "a.extxyz"), *words, *more])
    assert [one.timestep for one in asked] == [fs, 0.7]


def test_one_atom_has_nothing_to_learn(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.extxyz", [bulk("Cu")])
    with pytest.raises(DataError, match="one atom, on which no force acts: give more --atoms"):
        distill(settings(structure=tmp_path / "a.extxyz", atoms=1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("box", [{}, {"cell": [20.0, 20.0, 20.0], "pbc": True}])
def test_one_atom_that_no_repeat_helps_needs_others(tmp_path: Path, box: dict[str, Any]) -> None:
    write_frames(tmp_path / "a.extxyz", [Atoms("Cu", **box)])
    with pytest.raises(DataError, match="no force acts: give a structure with more atoms"):
        distill(settings(structure=tmp_path / "a.extxyz"), tmp_path / "out")


def test_what_the_distillation_sets_for_the_trainings_is_not_for_the_user() -> None:
    assert check_overrides(["model.hidden=64", "data.max_force=9", "card.licence=CC0"]) == []
    for key in ("seed", "output", "data.train", "training.seconds", "training.initial"):
        with pytest.raises(DataError, match=f"{key} is set by the distillation .*leave it away"):
            check_overrides([f"{key}=1"])
    (warning,) = check_overrides(["training.steps=400"])
    assert "the budget may not be kept" in warning


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = make_plan(settings(), 0.02)
    plan.write(tmp_path)
    assert Plan.read(tmp_path) == plan


def test_a_tenth_of_dynamics_is_watched_in_pieces() -> None:
    lengths = [20, 45, 0, 3, 4, 28]
    trajectories = [[(k, place) for place in range(n)] for k, n in enumerate(lengths)]
    taught, watched = set_apart(cast(Any, trajectories), seed=1)
    assert len(watched) == 10
    every = [frame for frames in trajectories for frame in frames]
    assert sorted(cast(Any, [*taught, *watched])) == every
    for k in (0, 1, 5):
        places = [place for number, place in cast(Any, watched) if number == k]
        assert abs(len(places) - lengths[k] / 10) < 1
        assert np.ptp(places) == len(places) - 1
    assert set_apart([[copper()] * 3] * 3, seed=1)[1] == []


def test_the_start_of_li3ps4_has_whole_tetrahedra() -> None:
    atoms = read_start(Path(__file__).parents[1] / "examples" / "03-lips" / "li3ps4.cif")
    assert atoms.get_chemical_formula() == "Li6P2S8"
    first, second, lengths = neighbor_list("ijd", atoms, 2.7)
    symbols = np.array(atoms.get_chemical_symbols())
    for centre, low, high in (("P", 2.0, 2.1), ("Li", 2.3, 2.6)):
        of_centre = symbols[first] == centre
        assert set(symbols[second[of_centre]]) == {"S"}
        assert of_centre.sum() == 4 * (symbols == centre).sum()
        assert low < lengths[of_centre].min() < lengths[of_centre].max() < high
    assert len(supercell(atoms, 128)) == 128


class Doubting(EMT):
    """As a committee in ASE, it has more results than labels."""

    def calculate(self, *arguments: Any) -> None:
        super().calculate(*arguments)
        self.results["force_spread"] = np.zeros(4)


def test_paths_of_a_calculator_that_gives_its_spread() -> None:
    assert path_of(Doubting()).whole
