"""Errors of forces: the sums against plain loops, exact models, what is left out and told."""

from __future__ import annotations

import math
import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from models import write_model
from serving import LJ

from forcenet_md import ForceNetCalculator
from forcenet_md.data.labelled import fixed_atoms
from forcenet_md.data.store import Frames, Store, StoreWriter
from forcenet_md.errors import DataError, EvaluationError
from forcenet_md.evaluation import cases
from forcenet_md.evaluation.cases import Cases, evenly
from forcenet_md.evaluation.errors import Sample
from forcenet_md.evaluation.result import Evaluation, Model, for_card
from forcenet_md.evaluation.run import evaluate
from forcenet_md.evaluation.table import remarks
from forcenet_md.evaluation.totals import Outcome, Settings
from forcenet_md.inference.ase_evaluator import AseEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.inference.load import load_evaluator
from forcenet_md.system import Forces

MODEL = Model(name="m", spec="m", sha256=None, dtype="float64")


def labelled(atoms: Atoms, seed: int = 0) -> Atoms:
    """With random labels."""
    rng = np.random.default_rng(seed)
    forces = rng.normal(size=(len(atoms), 3)) * rng.choice([0.01, 1.0], size=(len(atoms), 1))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces)
    return atoms


def crystals(n: int = 5) -> list[Atoms]:
    """Labelled cells of copper and gold of several sizes, some with held atoms."""
    frames = []
    for seed in range(n):
        atoms = bulk("Cu", cubic=True) * (1 + seed % 2, 1, 2)
        atoms.symbols[:: 2 + seed] = "Au"
        atoms.rattle(0.1, seed=seed)
        atoms.info["temperature"] = 300.0 * (1 + seed % 2)
        if seed % 3 == 1:
            atoms.set_constraint(FixAtoms([0, 2, 3]))
        frames.append(labelled(atoms, seed))
    return frames


@contextmanager
def cases_of(frames: Sequence[Atoms]) -> Iterator[Cases]:
    """Through a store on disk, as all data goes."""
    with tempfile.TemporaryDirectory() as folder:
        with StoreWriter(Path(folder) / "a.h5") as writer:
            for k, atoms in enumerate(frames):
                writer.append(atoms, "a.xyz", k)
        opened = Frames([Store(Path(folder) / "a.h5")])
        yield Cases(opened, ["a.xyz"])
        opened.close()


def run(frames: Sequence[Atoms], spec: str | Path, **settings: object) -> Outcome:
    evaluator = load_evaluator(str(spec), dtype="float64")
    given = {"rotations": 0} | settings
    with cases_of(frames) as opened:
        return evaluate(evaluator, opened, MODEL, Settings(**given))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "small.pt")
    return tmp_path / "small.pt"


def predicted(frames: Sequence[Atoms], model: Path) -> list[np.ndarray]:
    """By the ASE calculator, one frame at a time."""
    calculator = ForceNetCalculator(model, dtype="float64")
    out = []
    for atoms in frames:
        twin = atoms.copy()
        twin.calc = calculator
        out.append(twin.get_forces(apply_constraint=False))
    return out


def loop(labels: list[np.ndarray], guesses: list[np.ndarray]) -> dict[str, float]:
    """The figures of forces of single atoms, one component and one atom at a time."""
    errors, sizes, cosines, lengths, within = [], [], [], [], 0
    for label, guess in zip(labels, guesses, strict=True):
        for c in range(3):
            errors.append(guess[c] - label[c])
            sizes.append(abs(label[c]))
        a, b = math.hypot(*label), math.hypot(*guess)
        if a >= 0.03:
            cosines.append(sum(x * y for x, y in zip(label, guess, strict=True)) / (a * b))
        lengths.append(abs(a - b))
        within += all(abs(g - x) < 0.03 for g, x in zip(guess, label, strict=True))
    return {
        "n_atoms": len(labels),
        "mae": sum(abs(e) for e in errors) / len(errors),
        "rmse": math.sqrt(sum(e * e for e in errors) / len(errors)),
        "mean_abs_force": sum(sizes) / len(sizes),
        "cosine": sum(cosines) / len(cosines),
        "n_cosine": len(cosines),
        "magnitude_error": sum(lengths) / len(lengths),
        "within": within / len(labels),
    }


def matches(figures: object, labels: list[np.ndarray], guesses: list[np.ndarray]) -> None:
    for name, value in loop(labels, guesses).items():
        assert getattr(figures, name) == pytest.approx(value, rel=1e-10, abs=1e-13), name


def test_figures_equal_plain_loops(model: Path) -> None:
    frames = crystals()
    for atoms, guess in zip(frames, predicted(frames, model), strict=True):
        # some atoms are labelled with what the model says, nearly
        atoms.calc.results["forces"][1] = guess[1] + 0.02
    guesses = predicted(frames, model)
    result = run(frames, model, split_by=["temperature"], batch_atoms=20).result

    rows = [
        (z, bool(fixed), atoms.info["temperature"], label, guess)
        for atoms, guess_of in zip(frames, guesses, strict=True)
        for z, fixed, label, guess in zip(
            atoms.symbols, fixed_atoms(atoms), atoms.calc.results["forces"], guess_of, strict=True
        )
    ]

    def check(figures: object, chosen: list[tuple]) -> None:
        matches(figures, [row[3] for row in chosen], [row[4] for row in chosen])

    check(result.all, rows)
    assert 0.0 < result.all.within < 1.0
    assert result.all.n_cosine < result.all.n_atoms
    check(result.free, [row for row in rows if not row[1]])
    check(result.held, [row for row in rows if row[1]])
    assert list(result.by_element) == ["Cu", "Au"]
    for symbol, figures in result.by_element.items():
        check(figures, [row for row in rows if row[0] == symbol])
    assert list(result.by["temperature"]) == ["300", "600"]
    for value, figures in result.by["temperature"].items():
        check(figures, [row for row in rows if row[2] == float(value)])

    labels = np.array([row[3] for row in rows])
    errors = np.abs(np.array([row[4] for row in rows]) - labels)
    np.testing.assert_allclose(result.all.mae_xyz, errors.mean(axis=0))
    np.testing.assert_allclose(result.all.rmse_xyz, np.sqrt((errors**2).mean(axis=0)))
    median = np.median(labels, axis=0)
    np.testing.assert_allclose(result.baseline.median, median)
    assert result.baseline.mae == pytest.approx(np.abs(labels - median).mean())
    assert result.baseline.exact
    assert [result.all.n_frames, result.held.n_frames, result.by_element["Au"].n_frames] == [
        5,
        2,
        5,
    ]


def test_worst_frames_are_named_in_order(model: Path) -> None:
    frames = crystals()
    guesses = predicted(frames, model)
    mae = [
        np.abs(g - a.calc.results["forces"]).mean() for a, g in zip(frames, guesses, strict=True)
    ]
    outcome = run(frames, model, n_worst=3, batch_atoms=9)
    order = np.argsort(mae)[::-1][:3]
    assert [worst.row for worst in outcome.result.worst] == order.tolist()
    for worst, picture in zip(outcome.result.worst, outcome.pictures, strict=True):
        atoms, guess = frames[worst.row], guesses[worst.row]
        error = np.linalg.norm(guess - atoms.calc.results["forces"], axis=1)
        assert worst.mae == pytest.approx(mae[worst.row])
        assert (worst.atom, worst.max_error) == (error.argmax(), pytest.approx(error.max()))
        assert worst.name == f"frame {worst.row} of a.xyz"
        assert worst.formula == atoms.get_chemical_formula()
        assert worst.element == atoms.symbols[worst.atom]
        np.testing.assert_allclose(picture.error, error)
        assert picture.worst is worst


@pytest.mark.parametrize("batch_atoms", [1, 7, 10_000])
def test_the_batch_does_not_matter(model: Path, batch_atoms: int) -> None:
    frames = crystals()
    reference = run(frames, model).result
    result = run(frames, model, batch_atoms=batch_atoms).result
    assert result.all.mae == pytest.approx(reference.all.mae, rel=1e-12)
    assert [w.row for w in result.worst] == [w.row for w in reference.worst]


@pytest.mark.parametrize("spec", ["ase:emt", LJ])
def test_an_exact_model_has_no_error(spec: str) -> None:
    evaluator = load_evaluator(spec)
    frames = []
    for atoms in crystals():
        calculator = evaluator.new_session().calculator  # type: ignore[attr-defined]
        twin = atoms.copy()
        twin.set_constraint()
        twin.calc = calculator
        energy, forces = twin.get_potential_energy(), twin.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    result = run(frames, spec, rotations=3, axis="so3").result
    assert result.all.mae < 1e-12
    assert result.all.cosine == pytest.approx(1.0)
    assert (result.all.within, result.frames_within) == (1.0, 1.0)
    assert result.net_force.model == "kept"
    assert result.energy.mae < 1e-10
    assert result.energy.n_frames == len(frames)
    assert result.rotation.standard_deviation < 1e-12  # covariant by construction


def test_frames_within_ask_every_free_atom(model: Path) -> None:
    frames = crystals(3)
    for atoms, guess in zip(frames, predicted(frames, model), strict=True):
        atoms.calc.results["forces"] = guess.copy()
    frames[0].calc.results["forces"][0, 2] += 0.04  # one component of a free atom
    frames[1].calc.results["forces"][0, 2] += 0.04  # of a held one
    frames[2].calc.results["forces"][0] += 0.029  # within
    result = run(frames, model).result
    assert result.frames_within == pytest.approx(2 / 3)
    assert result.all.within == pytest.approx(1 - 2 / result.all.n_atoms)


def test_net_force_of_labels_goes_where_the_model_was_trained_so(tmp_path: Path) -> None:
    write_model(tmp_path / "m.pt", net_force_removed=True)
    frames = crystals(2)
    guesses = predicted(frames, tmp_path / "m.pt")
    labels = [a.calc.results["forces"] for a in frames]
    kept = run(frames, tmp_path / "m.pt").result
    removed = run(frames, tmp_path / "m.pt", remove_net_force=True).result
    flat = [g for guess in guesses for g in guess]
    matches(kept.all, [f for label in labels for f in label], flat)
    matches(removed.all, [f for label in labels for f in label - label.mean(axis=0)], flat)
    assert (kept.net_force.labels, removed.net_force.labels) == ("kept", "removed")
    assert kept.net_force.model == "removed where no atom is held"
    net = np.mean([np.linalg.norm(label.mean(axis=0)) for label in labels])
    assert removed.net_force.label_per_atom == pytest.approx(net)


def test_free_only_leaves_held_atoms_out(model: Path) -> None:
    frames = crystals()
    every = run(frames, model).result
    free = run(frames, model, free_only=True).result
    assert free.counted == "free"
    assert free.all == every.all
    assert sum(f.n_atoms for f in free.by_element.values()) == every.free.n_atoms
    assert all(not fixed_atoms(frames[w.row])[w.atom] for w in free.worst)


@pytest.mark.parametrize("free_only", [False, True])
def test_frames_whose_atoms_are_all_held_are_told(model: Path, free_only: bool) -> None:
    frames = crystals(3)
    assert not [line for line in remarks(run(frames, model).result) if "Every atom" in line]
    for atoms in frames:
        atoms.set_constraint(FixAtoms(range(len(atoms))))
    result = run(frames, model, free_only=free_only).result
    (said,) = [line for line in remarks(result) if "Every atom" in line]
    assert "is held: all figures are of atoms that do not move" in said
    assert for_card(result)["atoms"] == "held"
    assert not [line for line in remarks(result) if "free atoms alone" in line]


def test_frames_without_forces_are_told_and_left_out(model: Path) -> None:
    strange = labelled(bulk("Fe", cubic=True))
    frames = [*crystals(2), strange, labelled(bulk("Al", cubic=True))]
    result = run(frames, model).result
    assert (result.data.n_frames, result.data.refused.n_frames) == (2, 2)
    assert "frame 2 of a.xyz" in result.data.refused.first[0]
    assert "does not know Fe" in result.data.refused.first[0]
    assert result.all == run(crystals(2), model).result.all
    with pytest.raises(EvaluationError, match=r"for any frame: frame 0 of a\.xyz.*Fe"):
        run([strange], model)


def test_a_limit_takes_frames_evenly_spread(model: Path) -> None:
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly(3, 4).tolist() == [0, 1, 2]
    frames = crystals()
    result = run(frames, model, limit=2).result
    assert (result.data.n_available, result.data.n_asked, result.data.n_frames) == (5, 2, 2)
    assert {w.row for w in result.worst} == {0, 2}


def test_stopping_gives_the_figures_so_far(model: Path) -> None:
    frames = crystals()
    evaluator = load_evaluator(str(model), dtype="float64")
    seen: list[tuple[int, int]] = []
    with cases_of(frames) as opened:
        outcome = evaluate(
            evaluator,
            opened,
            MODEL,
            Settings(batch_atoms=1),
            progress=lambda done, total: seen.append((done, total)),
            stopped=lambda: len(seen) == 2,
        )
    assert seen == [(1, 5), (2, 5)]
    assert not outcome.result.complete
    assert outcome.result.rotation is None
    matches(
        outcome.result.all,
        [f for atoms in frames[:2] for f in atoms.calc.results["forces"]],
        [f for forces in predicted(frames[:2], model) for f in forces],
    )


def test_columns_that_cannot_be_used(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = crystals(2)
    with pytest.raises(DataError, match=r"no column 'colour'.*temperature"):
        run(frames, model, split_by=["colour"])
    frames[0].info["pressure"] = "high"
    result = run(frames, model, split_by=["pressure"]).result
    assert set(result.by["pressure"]) == {"high", "none stated"}
    monkeypatch.setattr(cases, "MAX_VALUES", 1)
    with pytest.raises(DataError, match="2 values"):
        run(frames, model, split_by=["pressure"])


def test_no_frames_are_an_error(model: Path) -> None:
    with pytest.raises(DataError, match="no frames"):
        run([], model)


def test_a_single_atom_and_labels_of_zero(model: Path) -> None:
    atoms = Atoms("Cu", positions=[[0.0, 0.0, 0.0]])
    atoms.calc = SinglePointCalculator(atoms, forces=np.zeros((1, 3)))
    result = run([atoms], model, rotations=2).result
    assert (result.all.cosine, result.all.relative, result.energy) == (None, None, None)
    assert Evaluation.model_validate_json(result.model_dump_json()) == result


def test_a_sample_is_whole_or_fair() -> None:
    small = Sample(2, capacity=10)
    small.add(np.arange(12.0).reshape(6, 2))
    small.add(np.arange(8.0).reshape(4, 2))
    assert small.complete
    assert small.rows[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 0, 2, 4, 6]
    large = Sample(1, capacity=2000)
    for first in range(0, 20_000, 700):
        large.add(np.arange(first, min(first + 700, 20_000), dtype=float)[:, None])
    values = large.rows[:, 0]
    assert (large.n_seen, len(values), large.complete) == (20_000, 2000, False)
    assert len(np.unique(values)) == 2000
    # Each quarter of the stream has its share: 500, with a standard deviation of 19.
    shares = np.bincount((values // 5000).astype(int))
    assert np.abs(shares - 500).max() < 90


def test_emt_labels_against_a_network_are_far_off(model: Path) -> None:
    """A model that knows nothing is no better than the median, and the figures say so."""
    frames = []
    for atoms in crystals(3):
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    result = run(frames, model).result
    assert result.energy is None  # the network has none
    assert result.all.mae > 0.5 * result.baseline.mae


class Noise:
    """An evaluator that costs nothing."""

    capabilities = AseEvaluator("ase:lj").capabilities

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def new_session(self) -> None:
        return None

    def evaluate(self, requests: Sequence[Request]) -> list[Forces]:
        return [Forces(self._rng.normal(size=(r.system.n_atoms, 3))) for r in requests]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """Four times the atoms, beyond what the sample holds; 128 bytes an atom would show."""
    atoms = labelled(bulk("Cu", cubic=True) * (5, 5, 5))
    with StoreWriter(tmp_path / "a.h5") as writer:
        for _ in range(20):
            writer.append(atoms)
    store = Store(tmp_path / "a.h5")
    peaks = []
    for n_frames in (500, 500, 2000):  # the first fills what is kept anyway
        frames = Frames([store], np.arange(n_frames) % 20)
        tracemalloc.start()
        outcome = evaluate(Noise(), Cases(frames, ["a"]), MODEL, Settings(rotations=0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert outcome.result.all.n_atoms == 1_000_000
    assert not outcome.result.baseline.exact
    assert peaks[2] < peaks[1] + 5_000_000
