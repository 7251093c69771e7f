"""Guards: the closest pair, what warns, what stops, which frames are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols
from models import ALLOY, write_model

from forcenet_md.artifact.archive import read, write
from forcenet_md.artifact.card import TrainingRange
from forcenet_md.errors import EvaluationError, ModelFileError, NotFiniteError, RequestError
from forcenet_md.inference.committee import CommitteeEvaluator
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Capabilities, Kind, Moment, Request
from forcenet_md.inference.load import load_evaluator
from forcenet_md.server.status import ROWS
from forcenet_md.system import Contact, Forces, System
from forcenet_md.watching.guard_limits import NAMES, Limits
from forcenet_md.watching.guards import KEEP_EVERY, MOST_KEPT, GuardOptions, Guards
from forcenet_md.watching.watching import Watching

MODEL = Capabilities("m", frozenset(ALLOY), 5.0, False, False, False)
SHORTEST = {"Ag-Ag": 2.5, "Ag-Cu": 2.2, "Cu-Cu": 2.0, "Cu-Pd": 1.0}


def with_range(folder: Path, **shortest: float) -> Path:
    """A small model whose card tells of its training."""
    path = folder / "m.pt"
    write_model(path)
    found = read(path)
    told = TrainingRange(shortest=SHORTEST | shortest, largest_force=4.0)
    write(path, found.members, found.card.model_copy(update={"training_range": told}))
    return path


def random_cell(seed: int, n: int = 40, a: float = 8.0) -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms(rng.choice([29, 46, 47], n), rng.uniform(0, a, (n, 3)), cell=[a, a, a], pbc=True)


def closest(atoms: Atoms) -> tuple[float, float, int, int, bool]:
    """By all distances of ASE: of each pair of elements against SHORTEST, else 0.7 of the radii."""
    from ase.data import covalent_radii

    distance = atoms.get_all_distances(mic=True)
    best = (np.inf, np.inf, 0, 0, False)
    for i in range(len(atoms)):
        for j in range(i + 1, len(atoms)):
            z = atoms.numbers[i], atoms.numbers[j]
            pair = "-".join(sorted(chemical_symbols[k] for k in z))
            known = SHORTEST.get(pair, 0.7 * (covalent_radii[z[0]] + covalent_radii[z[1]]))
            found = (distance[i, j] / known, distance[i, j], i, j, pair in SHORTEST)
            best = min(best, found)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_closest_pair_is_that_of_all_distances(tmp_path: Path, seed: int) -> None:
    evaluator = ModelEvaluator(with_range(tmp_path), dtype="float64")
    atoms = random_cell(seed)
    (answer,) = evaluator.evaluate([Request(evaluator.new_session(), System.from_ase(atoms))])
    assert isinstance(answer, Forces)
    assert answer.contact == pytest.approx(closest(atoms), rel=1e-9)


def test_no_pair_is_looked_for_where_none_is_near(tmp_path: Path) -> None:
    evaluator = ModelEvaluator(with_range(tmp_path))
    atoms = bulk("Ag", cubic=True) * 2
    (answer,) = evaluator.evaluate([Request(evaluator.new_session(), System.from_ase(atoms))])
    assert isinstance(answer, Forces)
    assert answer.contact is None


def test_a_committee_tells_its_closest_pair(tmp_path: Path) -> None:
    write_model(tmp_path / "b.pt", seed=1)
    evaluator = CommitteeEvaluator([with_range(tmp_path), tmp_path / "b.pt"])
    assert evaluator.capabilities.training_range is not None
    atoms = random_cell(1)
    (answer,) = evaluator.evaluate([Request(evaluator.new_session(), System.from_ase(atoms))])
    assert isinstance(answer, Forces)
    assert answer.contact == pytest.approx(closest(atoms), rel=1e-9)


@pytest.mark.parametrize("pair", ["Ag", "Ag-Xx", "Ag-Cu-Au"])
def test_a_card_with_a_foreign_pair_is_refused(pair: str, tmp_path: Path) -> None:
    with pytest.raises((ModelFileError, ValueError), match="is no pair of elements"):
        with_range(tmp_path, **{pair: 2.0})


# What guards do with what they see ---------------------------------------------------------------


def ask(step: int | None = 7, kind: Kind = Kind.RUN, stream: int = 0) -> Request:
    atoms = bulk("Cu", cubic=True)
    atoms.numbers[1] = 47
    moment = Moment(stream=stream, step=step, kind=kind, ids=np.array([11, 12, 13, 14]))
    return Request(object(), System.from_ase(atoms), moment=moment)


def forces(largest: float = 1.0, **seen: Any) -> Forces:
    found = np.zeros((4, 3))
    found[1, 2] = -largest
    return Forces(found, **seen)


def guards(
    keep: Path | None = None, changes: Sequence[str] = (), model: Capabilities = MODEL
) -> tuple[Guards, list[str]]:
    said: list[str] = []
    return Guards(Limits.of_model(model).changed(changes), keep, said.append), said


WORDS = {
    "force": (forces(60.0), "the force on atom 12 (Ag) is 60 eV/Å"),
    "distance": (
        forces(contact=Contact(0.9, 1.5, 0, 1, False)),
        "atom 11 (Cu) and atom 12 (Ag) are 1.5 Å apart, 0.90 of the shortest that is usual",
    ),
    "spread": (
        forces(force_spread=np.array([0.1, 0.2, 0.7, 0.1])),
        "the committee is 0.7 eV/Å apart on atom 13 (Cu)",
    ),
    "net": (
        forces(net_force=np.array([0.0, 1.2, 0.0])),
        "a net force of 0.3 eV/Å per atom was taken out",
    ),
    "torque": (
        forces(torque_force=0.3),
        "a torque with forces of 0.3 eV/Å per atom was taken out",
    ),
}
FATAL = {
    "force": forces(600.0),
    "distance": forces(contact=Contact(0.5, 1.0, 0, 1, False)),
    "spread": forces(force_spread=np.array([0.1, 0.2, 70.0, 0.1])),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_first_limit_warns_and_keeps_the_frame(name: str, tmp_path: Path) -> None:
    watcher, said = guards(tmp_path / "kept.frames")
    watcher.see(ask(), forces())
    assert said == []
    answer, words = WORDS[name]
    watcher.see(ask(), answer)
    assert said == [f"guard: step 7: {words} (the frame is kept in {tmp_path}/kept.frames)"]
    kept = ase.io.read(tmp_path / "kept.frames", format="extxyz")
    np.testing.assert_allclose(kept.positions, ask().system.positions, atol=1e-7)
    np.testing.assert_array_equal(kept.numbers, [29, 47, 29, 29])
    assert (kept.info["guard"], kept.info["step"]) == (name, 7)
    assert watcher.figures(0)[name] == f"{kept.info['seen']:.4g}"
    assert kept.calc is None


@pytest.mark.parametrize("name", FATAL)
def test_a_second_limit_stops_a_run_and_nothing_else(name: str, tmp_path: Path) -> None:
    watcher, said = guards(tmp_path / "kept.frames")
    for kind in (Kind.SETUP, Kind.MINIMISE):
        watcher.see(ask(kind=kind), FATAL[name])
    assert len(said) == 1
    with pytest.raises(EvaluationError, match=rf"kept in .*kept\.frames.*--guard {name}=off"):
        watcher.see(ask(), FATAL[name])
    assert len(ase.io.read(tmp_path / "kept.frames", index=":", format="extxyz")) == 2


@pytest.mark.parametrize("name", WORDS)
def test_what_is_off_is_silent(name: str, tmp_path: Path) -> None:
    watcher, said = guards(tmp_path / "kept.frames", [f"{name}=off"])
    watcher.see(ask(), WORDS[name][0])
    watcher.see(ask(), FATAL.get(name, WORDS[name][0]))
    assert said == []
    assert not (tmp_path / "kept.frames").exists()


def test_a_frame_that_the_model_fails_on_is_kept(tmp_path: Path) -> None:
    """Two atoms of EMT on one point: nothing is left of their forces; kept in any call."""
    watching = Watching(GuardOptions(keep=tmp_path / "kept.extxyz"), heat=False)
    system = System.make(np.zeros((2, 3)), [29, 29], np.eye(3) * 9, False)
    with watching.over(lambda: load_evaluator("ase:emt"), lambda _: None) as evaluator:
        moment = Moment(step=3, kind=Kind.SETUP)
        asked = [Request(evaluator.new_session(), system, moment=moment)]
        asked.append(Request(evaluator.new_session(), replace(system, numbers=np.array([99, 99]))))
        of_forces, other = evaluator.evaluate(asked)
    assert isinstance(of_forces, NotFiniteError)
    assert str(of_forces).endswith(f"(the frame is kept in {tmp_path}/kept.extxyz).")
    assert isinstance(other, EvaluationError)
    [kept] = ase.io.read(tmp_path / "kept.extxyz", ":")
    assert (kept.info["guard"], kept.info["step"], len(kept)) == ("finite", 3, 2)


def test_limits_can_be_given() -> None:
    watcher, said = guards(None, ["force=2,3", "distance=0.99,never"])
    watcher.see(ask(), forces(2.5))
    watcher.see(ask(), forces(contact=Contact(0.01, 0.02, 0, 1, False)))
    assert len(said) == 2
    with pytest.raises(EvaluationError):
        watcher.see(ask(), forces(3.5))


def test_stops_can_be_taken_away_and_given_alone() -> None:
    watcher, said = guards(None, ["warn", "net=never,0.2"])
    for answer in FATAL.values():
        watcher.see(ask(), answer)
    assert len(said) == len(FATAL)
    for kind in (Kind.SETUP, Kind.MINIMISE):
        watcher.see(ask(kind=kind), WORDS["net"][0])
    assert len(said) == len(FATAL)
    with pytest.raises(EvaluationError, match="net force"):
        watcher.see(ask(), WORDS["net"][0])


def test_an_engine_that_does_not_say_what_it_does_is_stopped_as_a_run() -> None:
    watcher, _ = guards()
    with pytest.raises(EvaluationError, match=r"--guard force=off; of a relaxation, --guard warn"):
        watcher.see(ask(kind=Kind.UNKNOWN), FATAL["force"])


def test_the_models_training_is_the_measure(tmp_path: Path) -> None:
    evaluator = ModelEvaluator(with_range(tmp_path))
    watcher, said = guards(model=evaluator.capabilities)
    assert watcher.limits.force == (6.0, 40.0)
    watcher.see(ask(), forces(contact=Contact(0.9, 1.5, 0, 1, True)))
    assert said[0].endswith("0.90 of the shortest of training")


def test_a_net_force_that_training_left_free_means_nothing() -> None:
    """But a torque, which no training takes out."""
    watcher, said = guards(model=replace(MODEL, net_force_removed=True))
    watcher.see(ask(), WORDS["net"][0])
    assert said == []
    watcher.see(ask(), WORDS["torque"][0])
    assert said == [f"guard: step 7: {WORDS['torque'][1]}"]


def test_all_that_guards_look_at_is_shown() -> None:
    assert set(NAMES) == WORDS.keys() <= ROWS.keys()


@pytest.mark.parametrize(
    "text",
    ["force", "force=5", "force=a,b", "force=5,4", "distance=0.7,0.9", "speed=1,2", "force=-1,5",
     "force=nan,5", "force=1,2,3", ""],
)  # fmt: skip
def test_a_guard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"give \w+=WARN,STOP"):
        Limits().changed([text])


def test_a_flood_of_warnings_is_few_lines_and_few_frames(tmp_path: Path) -> None:
    watcher, said = guards(tmp_path / "kept.frames")
    for step in range(1000):
        watcher.see(ask(step), forces(60.0))
    assert [line.split(":")[1] for line in said] == [" step 0", " step 9", " step 99", " step 999"]
    assert said[2].endswith("(100 times by now)")
    assert (
        len(ase.io.read(tmp_path / "kept.frames", index=":", format="extxyz")) == 1000 // KEEP_EVERY
    )


def test_there_is_an_end_to_kept_frames(tmp_path: Path) -> None:
    watcher, _ = guards(tmp_path / "kept.frames")
    for stream in range(MOST_KEPT + 50):
        watcher.see(ask(stream=stream), forces(60.0))
    assert len(ase.io.read(tmp_path / "kept.frames", index=":", format="extxyz")) == MOST_KEPT


def test_simulations_are_told_apart() -> None:
    watcher, said = guards()
    watcher.see(ask(step=None), forces())
    watcher.see(ask(step=None), forces(60.0))
    watcher.see(ask(step=None, stream=1), forces(60.0))
    assert [line.split(": the")[0] for line in said] == [
        "guard: step 2",
        "guard: simulation 2, step 1",
    ]


def test_a_simulation_that_begins_again_is_another_one() -> None:
    watcher, said = guards()
    for step in (8, 9, 3):
        watcher.see(ask(step), forces(60.0))
    assert [line.split(": the")[0] for line in said] == ["guard: step 8", "guard: step 3"]
    assert watcher.figures(0)["warned"] == "1"


def test_a_file_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    watcher, said = guards(tmp_path / "nowhere" / "kept.frames")
    for _ in range(300):
        watcher.see(ask(), forces(60.0))
    assert [line for line in said if "cannot be written" in line] == [
        f"guard: {tmp_path}/nowhere/kept.frames cannot be written (No such file or directory):"
        " no frame is kept"
    ]
    assert "kept in" not in "".join(said)
