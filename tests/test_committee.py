"""A committee: mean forces, spread, faults of one member, what members may differ in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from models import ALLOY, write_model

from forcenet_md import ForceNetCalculator
from forcenet_md.artifact.export import export_model, load_weights, read_card
from forcenet_md.errors import EvaluationError, ModelFileError, UnknownElementError
from forcenet_md.inference import committee as module
from forcenet_md.inference.committee import CommitteeEvaluator, joint_sha256
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.graph_evaluator import GraphEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.inference.load import load_evaluator, read_capabilities
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig
from forcenet_md.system import Forces, System

# Of the largest force. A basis that is shared rounds otherwise: in float32 a model alone is off its
# forces in float64 by as much.
ACCURACY = {"float64": 1e-12, "float32": 5e-6}
KINDS: dict[str, list[dict[str, object]]] = {
    "alike": [{}, {}, {}],
    "of other widths and depths": [{}, {"hidden": 24, "n_layers": 3}, {"edge_basis": "sine"}],
    "of other cutoffs and caps": [{"cutoff": 5.0}, {}, {"neighbour_cap": 30}, {"cutoff": 5.0}],
    "of other scales": [{"mean_neighbours": None}, {"envelope": "switch"}],
    "of other distances": [{"clamp": True, "ablation": "no_radii"}, {"ablation": "no_radii"}],
    "with and without a net force": [{"net_force_removed": True}, {}],
}


def alloy(n: int = 2, seed: int = 0, numbers: Sequence[int] = ALLOY) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.9, cubic=True) * (n, n, n)
    rng = np.random.default_rng(seed)
    atoms.numbers = rng.choice(numbers, len(atoms))
    atoms.rattle(0.15, rng=rng)
    return atoms


def write_members(folder: Path, settings: Sequence[dict[str, object]]) -> list[Path]:
    paths = [folder / f"m{k}.pt" for k in range(len(settings))]
    for k, (path, own) in enumerate(zip(paths, settings, strict=True)):
        write_model(path, seed=k, **own)  # type: ignore[arg-type]
    return paths


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_members(tmp_path_factory.mktemp("members"), [{}, {}, {}])


def answer(evaluator: GraphEvaluator, atoms: Atoms, keep: bool = False) -> Forces:
    request = Request(evaluator.new_session(), System.from_ase(atoms), keep_net_force=keep)
    [found] = evaluator.evaluate([request])
    assert isinstance(found, Forces), found
    return found


@cache
def alone(path: Path, dtype: str) -> ModelEvaluator:
    return ModelEvaluator(path, dtype=dtype)


def expected(paths: Sequence[Path], atoms: Atoms, dtype: str, keep: bool) -> np.ndarray:
    """[n_members, n_atoms, 3]: every member served alone."""
    return np.stack([answer(alone(path, dtype), atoms, keep).forces for path in paths])


def assert_mean_and_spread(found: Forces, members: np.ndarray, accuracy: float) -> None:
    mean = sum(members) / len(members)
    spread = np.sqrt(sum(((f - mean) ** 2).sum(axis=1) for f in members) / len(members))
    largest = np.abs(members).max()
    assert np.abs(found.forces - mean).max() <= accuracy * largest
    assert found.force_spread is not None
    assert found.force_spread.shape == (len(mean),)
    assert np.abs(found.force_spread - spread).max() <= accuracy * largest
    assert spread.min() > 1e3 * accuracy * largest
    assert found.seen()["force_spread_max"] == found.force_spread.max()
    assert found.seen()["force_spread_mean"] == pytest.approx(found.force_spread.mean())


@pytest.mark.parametrize(
    ("kind", "dtype"), [("alike", "float32"), *((kind, "float64") for kind in KINDS)]
)
def test_mean_and_spread_are_those_of_the_members(tmp_path: Path, kind: str, dtype: str) -> None:
    paths = write_members(tmp_path, KINDS[kind])
    committee = CommitteeEvaluator(paths, dtype=dtype)
    committee.warm_up()
    for keep in (False, True):
        members = expected(paths, alloy(), dtype, keep)
        assert_mean_and_spread(answer(committee, alloy(), keep), members, ACCURACY[dtype])


@pytest.mark.parametrize(
    ("settings", "shared"),
    [
        ({}, True),
        ({"mean_neighbours": None, "envelope": "switch", "hidden": 8}, True),
        ({"n_radial": 3}, False),
        ({"clamp": True}, False),
        ({"edge_basis": "sine"}, False),
    ],
)
def test_edge_bases_that_differ_by_weights_alone_are_shared(
    tmp_path: Path, settings: dict[str, object], shared: bool
) -> None:
    [basis] = CommitteeEvaluator(write_members(tmp_path, [{}, settings])).bases.values()
    assert (basis is not None) == shared


def test_a_shared_basis_that_is_not_the_members_own_is_not_used(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_other_weights(path: Path, *rest: object, **options: object) -> dict[str, torch.Tensor]:
        weights = load_weights(path, *rest, **options)  # type: ignore[arg-type]
        if path == paths[1]:
            weights["basis.radial.bias"][0] += 1e-3
        return weights

    monkeypatch.setattr(module, "load_weights", load_other_weights)
    committee = CommitteeEvaluator(paths, dtype="float64")
    assert list(committee.bases.values()) == [None]
    members = expected(paths, alloy(), "float64", False)
    assert_mean_and_spread(answer(committee, alloy()), members, 1e-12)


def test_a_batch_and_a_trajectory(paths: list[Path]) -> None:
    """Several sessions at once, each with one neighbour list that is kept from step to step."""
    committee = CommitteeEvaluator(paths, dtype="float64")
    sessions = [committee.new_session() for _ in range(3)]
    for step in range(3):
        systems = [alloy(n, seed=n) for n in (1, 2, 3)]
        for atoms in systems:
            atoms.positions += 0.02 * step
            atoms.positions[0] += 0.03 * step
        requests = [
            Request(session, System.from_ase(atoms))
            for session, atoms in zip(sessions, systems, strict=True)
        ]
        for found, atoms in zip(committee.evaluate(requests), systems, strict=True):
            assert isinstance(found, Forces)
            assert_mean_and_spread(found, expected(paths, atoms, "float64", False), 1e-12)
    assert [session.neighbours.rebuilds for session in sessions] == [1, 1, 1]


def test_symmetries(paths: list[Path]) -> None:
    """Translation, wrapping and permutation; random networks are not rotation invariant."""
    committee = CommitteeEvaluator(paths, dtype="float64")
    atoms = alloy()
    plain = answer(committee, atoms)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(atoms))
    moved = atoms[order]
    moved.positions += rng.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array + [0.3, -7.0, 50.0]
    found = answer(committee, moved)
    np.testing.assert_allclose(found.forces, plain.forces[order], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.force_spread, plain.force_spread[order], rtol=0, atol=1e-12)


def test_members_that_agree_have_no_spread_and_share_their_elements(tmp_path: Path) -> None:
    """The same network exported for other elements."""
    paths = [tmp_path / "all.pt", tmp_path / "two.pt"]
    write_model(paths[0])
    write_model(paths[1], numbers=(29, 47))
    committee = CommitteeEvaluator(paths, dtype="float64")
    assert committee.capabilities.numbers == {29, 47}
    [warning] = [w for w in committee.capabilities.warnings if "also knows" in w]
    assert warning.startswith(f"{paths[0]} also knows Au, Pd, Pt,")
    atoms = alloy(numbers=(29, 47))
    found = answer(committee, atoms)
    alone = answer(ModelEvaluator(paths[0], dtype="float64"), atoms)
    assert found.force_spread.max() < 1e-14 * np.abs(alone.forces).max()
    np.testing.assert_allclose(found.forces, alone.forces, rtol=1e-12)
    request = Request(committee.new_session(), System.from_ase(alloy()))
    [refused] = committee.evaluate([request])
    assert isinstance(refused, UnknownElementError)
    assert f"{paths[1]} refuses: model two does not know Pd, Pt, Au" in str(refused)


def test_what_it_says_of_itself(paths: list[Path]) -> None:
    cards = [read_card(path) for path in paths]
    found = CommitteeEvaluator(paths).capabilities
    assert found == read_capabilities(str(paths[0]), [str(path) for path in paths[1:]])
    assert found.name == "committee of 3 (m0, m1, m2)"
    assert found.spread
    assert found.cutoff == 6.0
    assert found.numbers == set(ALLOY)
    assert found.sha256 == joint_sha256(cards[::-1])
    assert len(found.warnings) == 1
    assert "committee of 3 (m0, m1, m2) are not a gradient" in found.warnings[0]
    CommitteeEvaluator(paths, sha256=found.sha256)
    with pytest.raises(ModelFileError, match=f"has the joint sha256 {found.sha256}, not "):
        CommitteeEvaluator(paths, sha256=cards[0].sha256)


def test_members_that_make_no_committee(tmp_path: Path, paths: list[Path]) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(paths[0].read_bytes())
    other = tmp_path / "other.pt"
    write_model(other, numbers=(13,))
    cut = tmp_path / "cut.pt"
    cut.write_bytes(paths[1].read_bytes()[:2000])
    first = str(paths[0])
    for member, words in [
        (copy, f"{copy} and {first} are the same model"),
        (paths[0], f"{first} and {first} are the same model"),
        (other, f"no element is known to all of {first}, {other}"),
        (cut, f"{cut} is truncated"),
        (tmp_path / "none.pt", f"{tmp_path}/none.pt does not exist"),
        ("ase:emt", "ase:emt is an ASE calculator: a committee"),
    ]:
        for load in (load_evaluator, read_capabilities):
            with pytest.raises(ModelFileError) as fault:
                load(first, committee=[str(member)])
            assert words in str(fault.value)


def test_a_member_without_finite_forces_fails_all(tmp_path: Path, paths: list[Path]) -> None:
    torch.manual_seed(0)
    net = ForceNet(ForceNetConfig(hidden=8))
    with torch.no_grad():
        net.decoder[0].weight.fill_(1e38)
        net.decoder[2].weight.fill_(1e38)
    bad = tmp_path / "bad.pt"
    export_model(
        net, bad, name="bad", numbers=ALLOY, augmentation="none", test_errors={},
        training_data={"description": "d", "licence": "l", "citation": "c"},
    )  # fmt: skip
    committee = CommitteeEvaluator([*paths, bad])
    [found] = committee.evaluate([Request(committee.new_session(), System.from_ase(alloy()))])
    assert isinstance(found, EvaluationError)
    assert f"the committee's member {bad} gives a force that is not finite on atom" in str(found)
    with pytest.raises(EvaluationError, match=f"small test system: the committee's member {bad}"):
        committee.warm_up()


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def other_fault() -> None:
    raise RuntimeError("a first line\nthe reason")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (out_of_memory, "not enough memory for 108 atoms in the committee's member {}: use fewer"),
        (other_fault, "the committee's member {} failed on 108 atoms: the reason"),
    ],
)
def test_a_fault_of_one_member_is_told_with_its_file(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, fault: Callable[[], None], sentence: str
) -> None:
    """It fails its structure, and no other of the batch."""
    committee = CommitteeEvaluator(paths, dtype="float64")
    small = answer(committee, alloy(2))
    real = ModelEvaluator.run_stages

    def run_stages(self, batch, *rest):
        if self.path == paths[1] and len(batch.species) > 40:
            fault()
        return real(self, batch, *rest)

    monkeypatch.setattr(ModelEvaluator, "run_stages", run_stages)
    requests = [Request(committee.new_session(), System.from_ase(alloy(n))) for n in (3, 2)]
    told, found = committee.evaluate(requests)
    assert isinstance(told, EvaluationError)
    assert sentence.format(paths[1]) in str(told)
    assert isinstance(found, Forces)
    np.testing.assert_allclose(found.forces, small.forces, rtol=0, atol=1e-12)


def test_ase(paths: list[Path]) -> None:
    atoms = alloy()
    atoms.set_constraint(FixAtoms([0, 1]))
    members = expected(paths, atoms, "float64", keep=True)
    atoms.calc = ForceNetCalculator(paths[0], committee=paths[1:], dtype="float64")
    forces = atoms.get_forces(apply_constraint=False)
    spread = atoms.calc.results["force_spread"]
    np.testing.assert_array_equal(atoms.calc.get_property("force_spread", atoms), spread)
    assert_mean_and_spread(Forces(forces, force_spread=spread), members, 1e-12)
    alone = ForceNetCalculator(paths[0])
    alone.calculate(atoms)
    assert "force_spread" not in alone.results
