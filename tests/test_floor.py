"""The repulsive pair force under the network, against formulas and against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from models import write_model
from training_runs import write_config

from forcenet_md.artifact.export import load_model, read_card
from forcenet_md.artifact.fold import fold
from forcenet_md.artifact.trainable import read_trainable
from forcenet_md.errors import ModelFileError
from forcenet_md.graph.neighbours import build_edges
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.models.floor import INNER, NoFloor, PairFloor
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig
from forcenet_md.system import System
from forcenet_md.training.config_file import load_config
from forcenet_md.training.finish import export
from forcenet_md.training.fused import can_fuse, fused_forces
from forcenet_md.training.loop import Trainer

CUTOFF, OUTER = 5.0, 0.9
FIRST_VERSION = Path(__file__).parent / "data" / "models" / "version-0.1.0.pt"


def zbl(z1: int, z2: int) -> Callable[[float], float]:
    """The universal repulsion in eV, r in Å, as printed in LAMMPS's manual of pair_style zbl."""
    a = 0.46850 / (z1**0.23 + z2**0.23)
    c, d = (0.18175, 0.50986, 0.28022, 0.02817), (3.19980, 0.94229, 0.40290, 0.20162)
    return lambda r: (
        14.399645
        * z1
        * z2
        / r
        * sum(c_i * np.exp(-d_i * r / a) for c_i, d_i in zip(c, d, strict=True))
    )


def forces_of(atoms: Atoms, cutoff: float = CUTOFF) -> np.ndarray:
    edges = build_edges(System.from_ase(atoms), cutoff)
    arrays = (edges.source, edges.target, edges.vector)
    source, target, vector = (torch.from_numpy(np.ascontiguousarray(x)) for x in arrays)
    species = torch.from_numpy(atoms.numbers.astype(np.int64))
    return PairFloor(cutoff, OUTER)(species, source, target, vector, len(atoms)).numpy()


def energy_of(atoms: Atoms) -> float:
    """A loop over pairs, without the code under test."""
    total = 0.0
    edges = build_edges(System.from_ase(atoms), CUTOFF)
    for s, t, vector in zip(edges.source, edges.target, edges.vector, strict=True):
        z_s, z_t = int(atoms.numbers[s]), int(atoms.numbers[t])
        r, end = np.linalg.norm(vector), OUTER * (covalent_radii[z_s] + covalent_radii[z_t])
        if r < end:
            u = max(0.0, (r - INNER * end) / (end - INNER * end))
            total += 0.5 * zbl(z_s, z_t)(r) * (1 - 10 * u**3 + 15 * u**4 - 6 * u**5)
    return total


def crowded() -> Atoms:
    """Periodic, in a cell thinner than the cutoff, with pairs from 0.9 Å on."""
    atoms = bulk("NaCl", "rocksalt", a=4.0, cubic=True)
    atoms.rattle(0.35, seed=3)
    return atoms


@pytest.mark.parametrize(("one", "other"), [("H", "O"), ("Cu", "Au"), ("Li", "S")])
def test_near_in_it_is_the_universal_repulsion(one: str, other: str) -> None:
    end = OUTER * sum(covalent_radii[Atoms([one, other]).numbers])
    for r in np.linspace(0.2, 0.99, 5) * INNER * end:
        v, h = zbl(*Atoms([one, other]).numbers), 1e-5
        expected = -(v(r + h) - v(r - h)) / (2 * h)
        forces = forces_of(Atoms([one, other], [[0, 0, 0], [0, 0, r]]))
        assert forces[1, 2] == pytest.approx(expected, rel=1e-6)
        assert forces[0, 2] == pytest.approx(-expected, rel=1e-6)


def test_it_is_the_gradient_of_an_energy() -> None:
    atoms, h = crowded(), 1e-5
    forces = forces_of(atoms)
    assert np.abs(forces).max() > 1.0
    for row, axis in [(0, 0), (3, 1), (7, 2)]:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[row, axis] += sign * h
            energies.append(energy_of(moved))
        slope = (energies[0] - energies[1]) / (2 * h)
        assert forces[row, axis] == pytest.approx(-slope, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-10)


def test_it_ends_smoothly() -> None:
    end = OUTER * 2 * covalent_radii[29]
    at = [
        forces_of(Atoms("Cu2", [[0, 0, 0], [0, 0, r]]))[1, 2] for r in end - np.logspace(-4, -1, 4)
    ]
    assert 0.0 < at[0] < 1e-5 * at[3]
    assert not forces_of(Atoms("Cu2", [[0, 0, 0], [0, 0, end + 1e-9]])).any()


def test_a_shorter_cutoff_ends_it() -> None:
    """No jump where the edges end."""
    pair = Atoms("Cu2", [[0, 0, 0], [0, 0, 1.5 - 1e-4]])
    assert 0.0 < forces_of(pair, cutoff=1.5)[1, 2] < 1e-4
    assert forces_of(pair)[1, 2] > 1.0


def test_atoms_apart_feel_nothing() -> None:
    assert not forces_of(bulk("Cu", cubic=True)).any()


# Under a network ---------------------------------------------------------------------------------


def short_alloy() -> Atoms:
    atoms = bulk("Cu", a=2.9, cubic=True) * (2, 2, 1)
    atoms.symbols[::3] = "Au"
    atoms.rattle(0.2, seed=1)
    return atoms


def inputs(atoms: Atoms, cutoff: float) -> tuple[torch.Tensor, ...]:
    edges = build_edges(System.from_ase(atoms), cutoff)
    arrays = (atoms.numbers.astype(np.int64), edges.source, edges.target, edges.vector)
    return tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in arrays)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_is_added_to_the_network_of_a_file(tmp_path: Path, dtype: str) -> None:
    """The same weights with and without it differ by it alone."""
    atoms = short_alloy()
    settings = {"seed": 5, "cutoff": CUTOFF, "floor_outer": OUTER}
    answers = []
    for kind in ("zbl", "none"):
        path = tmp_path / f"{kind}.pt"
        card = write_model(path, floor=kind, **settings)
        assert card.pair_floor == (kind == "zbl")
        assert read_card(path).settings["floor"] == kind
        evaluator = ModelEvaluator(path, dtype=dtype)
        request = Request(evaluator.new_session(), System.from_ase(atoms), keep_net_force=True)
        answers.append(evaluator.evaluate([request])[0].forces)
    expected = forces_of(atoms)
    assert np.abs(expected).max() > 1.0
    scale = np.abs(expected).max()
    tolerance = (1e-5 if dtype == "float32" else 1e-12) * scale
    np.testing.assert_allclose(answers[0] - answers[1], expected, rtol=0, atol=tolerance)


def test_trained_served_and_folded_are_one() -> None:
    torch.manual_seed(2)
    config = ForceNetConfig(
        hidden=16, n_frequencies=8, n_hidden_edge=1, cutoff=CUTOFF, floor="zbl", floor_outer=OUTER
    )
    model = ForceNet(config).double().eval()
    arrays = inputs(short_alloy(), CUTOFF)
    whole = model(*arrays)["forces"]
    assert can_fuse(model)
    torch.testing.assert_close(fused_forces(model, *arrays), whole, rtol=1e-10, atol=1e-10)
    folded = fold(model, [29, 79])(*arrays)["forces"]
    torch.testing.assert_close(folded, whole.detach(), rtol=1e-10, atol=1e-10)


def test_a_training_run_puts_it_under_its_network(labelled: Path, tmp_path: Path) -> None:
    """Near in, the file's forces are the formula's on top of the network's."""
    config = load_config(write_config(tmp_path, labelled), ["model.floor=zbl", "training.steps=5"])
    trainer = Trainer(config)
    trainer.run()
    assert export(trainer).pair_floor
    r, v, h = 0.9, zbl(29, 79), 1e-5
    atoms = Atoms("CuAuCu", [[0, 0, 0], [0, 0, r], [3.0, 0.4, 0.2]])
    assert r < INNER * ForceNetConfig.floor_outer * covalent_radii[[29, 79]].sum()

    network = read_trainable(config.output).double().eval()
    network.floor = NoFloor()
    with torch.no_grad():
        expected = network(*inputs(atoms, network.cutoff))["forces"].numpy()
    expected -= expected.mean(axis=0)  # it was trained without the net force, and is served so
    push = -(v(r + h) - v(r - h)) / (2 * h)
    assert push > 100.0
    expected[:2, 2] += -push, push

    evaluator = ModelEvaluator(config.output, dtype="float64")
    request = Request(evaluator.new_session(), System.from_ase(atoms), keep_net_force=True)
    found = evaluator.evaluate([request])[0].forces  # with its torque
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


def test_files_of_the_first_version_still_serve() -> None:
    """They have neither this stage nor trainable weights; the forces are those of that version."""
    model, card = load_model(FIRST_VERSION)
    assert not card.pair_floor
    assert not hasattr(model, "pair_forces")
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Au"
    atoms.positions[1, 0] += 0.3
    evaluator = ModelEvaluator(FIRST_VERSION, dtype="float64")
    request = Request(evaluator.new_session(), System.from_ase(atoms))
    found = evaluator.evaluate([request])[0].forces
    expected = [0.002732253149639305, 0.001087762498873844, 3.566134030507208e-05]
    np.testing.assert_allclose(found[0], expected, rtol=1e-9)
    with pytest.raises(ModelFileError, match="without its trainable weights"):
        read_trainable(FIRST_VERSION)
