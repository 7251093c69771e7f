"""The evaluator: batches, guards, symmetries, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk
from models import ALLOY, write_model
from vectors import FOLDER, NAMES, model, system

from forcenet_md.artifact.export import export_model
from forcenet_md.errors import EvaluationError, ModelFileError, UnknownElementError
from forcenet_md.inference import graph_evaluator as module
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.system import Forces, System

# Perfect crystals tie at the 50th neighbour, where the reference's choice is arbitrary.
TIED = ("nacl_perfect", "cu_prim", "fecr_2atom")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("m") / "small.pt"
    write_model(path)
    return path


@pytest.fixture(scope="module")
def evaluator(path):
    return ModelEvaluator(path, dtype="float64")


def alloy(n: int = 2, seed: int = 0, a: float = 3.9):
    atoms = bulk("Cu", "fcc", a=a, cubic=True) * (n, n, n)
    rng = np.random.default_rng(seed)
    atoms.numbers = rng.choice(ALLOY, len(atoms))
    atoms.rattle(0.15, rng=rng)
    return atoms


def forces(evaluator, atoms, **options) -> np.ndarray:
    request = Request(evaluator.new_session(), System.from_ase(atoms), **options)
    answer = evaluator.evaluate([request])[0]
    assert isinstance(answer, Forces), answer
    return answer.forces


def close(a: np.ndarray, b: np.ndarray) -> None:
    assert np.abs(a - b).max() < 1e-11 * np.abs(a).max()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in TIED])
def test_reference_structures_from_our_own_edges(tmp_path, name):
    """Model file, neighbour list with the cap and stages together give the reference's forces.

    Structures in TIED have their stored edges tested in test_forcenet_parity.py.
    """
    export_model(
        model(FOLDER / "sph_swish.npz"), tmp_path / "m.pt", name="m",
        numbers=sorted({int(z) for n in NAMES for z in system(n).numbers}),
        augmentation="none", test_errors={},
        training_data={"description": "d", "licence": "l", "citation": "c"},
    )  # fmt: skip
    evaluator = ModelEvaluator(tmp_path / "m.pt", dtype="float64")
    request = Request(evaluator.new_session(), system(name), keep_net_force=True)
    answer = evaluator.evaluate([request])[0]
    assert isinstance(answer, Forces), answer
    expected = np.load(FOLDER / "sph_swish.npz")[f"out64/{name}/forces"]
    assert np.abs(answer.forces - expected).max() < 1e-11 * np.abs(expected).max()
    assert any("nearest" in w for w in evaluator.capabilities.warnings)


def test_translation_wrapping_permutation_supercell(evaluator):
    atoms = alloy()
    f = forces(evaluator, atoms)
    moved = atoms.copy()
    moved.positions += [0.3, -7.1, 100.0]
    close(f, forces(evaluator, moved))
    shifted = atoms.copy()
    rng = np.random.default_rng(1)
    shifted.positions += rng.integers(-3, 4, (len(atoms), 3)) @ atoms.cell.array
    close(f, forces(evaluator, shifted))
    order = rng.permutation(len(atoms))
    close(f[order], forces(evaluator, atoms[order]))
    close(np.tile(f, (2, 1)), forces(evaluator, atoms * (2, 1, 1)))


def test_batch_equals_single_in_any_company(evaluator):
    systems = [alloy(1, 1), alloy(2, 2), alloy(1, 3), alloy(3, 4)]
    single = [forces(evaluator, a) for a in systems]
    requests = [Request(evaluator.new_session(), System.from_ase(a)) for a in systems]
    for answer, expected in zip(evaluator.evaluate(requests), single, strict=True):
        close(expected, answer.forces)


def test_net_force_is_taken_out_and_told(evaluator):
    atoms = alloy()
    session = evaluator.new_session()
    system = System.from_ase(atoms)
    free, held = evaluator.evaluate(
        [Request(session, system), Request(session, system, keep_net_force=True)]
    )
    net = held.forces.sum(axis=0)
    assert np.abs(net).max() > 1e-3
    assert np.abs(free.forces.sum(axis=0)).max() < 1e-10
    np.testing.assert_allclose(free.net_force, net, rtol=1e-12)
    np.testing.assert_allclose(held.forces - net / len(atoms), free.forces, atol=1e-12)
    assert free.energy is None
    assert free.stress is None


def test_one_fault_does_not_touch_another(evaluator):
    good = System.from_ase(alloy())
    foreign = alloy()
    foreign.numbers[3] = 26
    piled = alloy(1)
    piled.positions[:] = piled.positions[0]
    expected = evaluator.evaluate([Request(evaluator.new_session(), good)])[0].forces
    answers = evaluator.evaluate(
        [
            Request(evaluator.new_session(), System.from_ase(foreign)),
            Request(evaluator.new_session(), good),
            Request(evaluator.new_session(), System.from_ase(piled)),
        ]
    )
    assert isinstance(answers[0], UnknownElementError)
    assert "does not know Fe" in str(answers[0])
    assert np.array_equal(answers[1].forces, expected)
    assert isinstance(answers[2], Exception)


def test_failing_batch_is_evaluated_one_by_one(evaluator, monkeypatch):
    """Out of memory for the big one only: the small one keeps its forces."""
    real = ModelEvaluator.run_stages

    def run_stages(self, batch):
        if len(batch.species) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch)

    monkeypatch.setattr(ModelEvaluator, "run_stages", run_stages)
    small, big = System.from_ase(alloy(2)), System.from_ase(alloy(3))
    answers = evaluator.evaluate(
        [Request(evaluator.new_session(), big), Request(evaluator.new_session(), small)]
    )
    assert isinstance(answers[0], EvaluationError)
    assert "not enough memory for 108 atoms" in str(answers[0])
    assert np.isfinite(answers[1].forces).all()


def test_forces_that_are_not_finite_are_an_error(tmp_path):
    torch.manual_seed(0)
    from forcenet_md.models.forcenet import ForceNet, ForceNetConfig

    net = ForceNet(ForceNetConfig(hidden=8))
    with torch.no_grad():
        net.decoder[0].weight.fill_(1e38)
        net.decoder[2].weight.fill_(1e38)
    export_model(
        net, tmp_path / "bad.pt", name="bad", numbers=ALLOY, augmentation="none", test_errors={},
        training_data={"description": "d", "licence": "l", "citation": "c"},
    )  # fmt: skip
    evaluator = ModelEvaluator(tmp_path / "bad.pt")
    answer = evaluator.evaluate([Request(evaluator.new_session(), System.from_ase(alloy()))])[0]
    assert isinstance(answer, EvaluationError)
    assert "not finite on atom" in str(answer)
    with pytest.raises(EvaluationError, match="fails on a small test system"):
        evaluator.warm_up()


def test_large_batches_are_split(evaluator, monkeypatch):
    monkeypatch.setattr(module, "MAX_BATCH_EDGES", 3000)
    systems = [System.from_ase(alloy(2, s)) for s in range(5)]
    together = evaluator.evaluate([Request(evaluator.new_session(), s) for s in systems])
    for s, answer in zip(systems, together, strict=True):
        alone = evaluator.evaluate([Request(evaluator.new_session(), s)])[0]
        assert np.array_equal(alone.forces, answer.forces)


def test_isolated_and_single_atoms(evaluator):
    from ase import Atoms

    lone = Atoms("Cu", positions=[[0, 0, 0]])
    assert forces(evaluator, lone, keep_net_force=True).shape == (1, 3)
    far = Atoms("CuAg", positions=[[0, 0, 0], [0, 0, 50.0]])
    alone = forces(evaluator, lone, keep_net_force=True)
    close(alone[0], forces(evaluator, far, keep_net_force=True)[0])
    assert isinstance(
        evaluator.evaluate([Request(evaluator.new_session(), System.from_ase(Atoms()))])[0],
        EvaluationError,
    )


def test_the_bound_on_edges_can_be_set(path):
    system = System.from_ase(alloy(3))
    small = ModelEvaluator(path, max_edges=1000)
    answer = small.evaluate([Request(small.new_session(), system)])[0]
    assert "at most 1000 are allowed" in str(answer)
    large = ModelEvaluator(path, max_edges=100_000)
    assert isinstance(large.evaluate([Request(large.new_session(), system)])[0], Forces)


def test_devices_that_are_not_there(path):
    with pytest.raises(ModelFileError, match="is unknown: use cpu"):
        ModelEvaluator(path, device="gpu")
    n = torch.cuda.device_count()
    with pytest.raises(ModelFileError, match="is not there"):
        ModelEvaluator(path, device=f"cuda:{n}")


def test_warm_up(path):
    for dtype in ("float32", "float64"):
        ModelEvaluator(path, dtype=dtype).warm_up()


def test_smooth_at_the_cutoff(evaluator):
    """A pair drawn through the cutoff: with the default envelope the force's slope goes to 0."""
    from ase import Atoms

    def f(r):
        pair = Atoms("CuAg", positions=[[0, 0, 0], [r, 0, 0]])
        return forces(evaluator, pair, keep_net_force=True)[0]

    c = evaluator.card.cutoff
    h = 1e-4
    alone = f(c + 1)
    inside = (f(c - h) - alone) / h
    further = (f(c - 1.0) - alone) / 1.0
    assert np.abs(inside).max() < 1e-3 * np.abs(further).max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_equals_cpu(path):
    atoms = alloy(3)
    cpu = ModelEvaluator(path, dtype="float64")
    gpu = ModelEvaluator(path, device="cuda:0", dtype="float64")
    close(forces(cpu, atoms), forces(gpu, atoms))
