"""The water model that ships with the package does what its card says, and says what it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from forcenet_md import ForceNetCalculator
from forcenet_md.artifact.export import read_card
from forcenet_md.data.frames import forces_of, read_frames
from forcenet_md.data.visiting import Visit, follow, trajectory
from forcenet_md.inference.load import model_path

# 64 molecules on the model's own path, with the forces the shipped file gave when it was made.
CHECK = Path(__file__).parent / "data" / "shipped" / "water.extxyz"
IN_DFT = {"H-H": 1.34, "H-O": 0.89, "O-O": 2.35}  # Å, the nearest there (examples/05-water)
LENGTH = 0.98  # Å, of an O–H bond at rest in the liquid


def test_its_card_is_complete_and_its_file_small() -> None:
    path = Path(model_path("water"))
    card = read_card(path)
    assert path.stat().st_size < 5_000_000
    assert card.elements == ["H", "O"]
    assert card.net_force_removed
    assert card.test_errors["held_out"] == "test"
    assert card.test_errors["relative"] <= 0.145
    assert "LGPL-3.0" in card.training_data.licence
    assert "not independent" in card.notes
    assert "Not for" in card.notes
    range_ = card.training_range
    assert range_ is not None
    assert range_.shortest.keys() == IN_DFT.keys()
    # frames around those of DFT bring atoms nearer, and none through an O–H bond
    assert all(0.7 * far < range_.shortest[pair] < far for pair, far in IN_DFT.items())
    assert 10.0 < range_.largest_force < 20.0


def test_its_range_is_not_left_on_its_own_path() -> None:
    """By all distances of ASE: guards have nothing to say of the check structure."""
    range_ = read_card(model_path("water")).training_range
    assert range_ is not None
    atoms = read_frames(CHECK)[0]
    distances = atoms.get_all_distances(mic=True)
    for pair, shortest in range_.shortest.items():
        first, second = (atoms.symbols == symbol for symbol in pair.split("-"))
        between = distances[np.ix_(first, second)]
        assert shortest < between[between > 0.0].min() < 1.6 * shortest
    assert np.linalg.norm(forces_of(atoms), axis=1).max() < range_.largest_force


def test_its_forces_on_a_check_structure() -> None:
    atoms = read_frames(CHECK)[0]
    kept = forces_of(atoms)
    atoms.calc = ForceNetCalculator("water")
    assert np.abs(atoms.get_forces() - kept).max() < 1e-3
    assert np.abs(kept).mean() > 0.3


@pytest.mark.parametrize("stretch", [-0.12, 0.12, 0.25])
def test_a_bond_that_is_stretched_or_pressed_goes_back(stretch: float) -> None:
    """By what an O–H bond is known for, 3600 1/cm or 45 eV/Å² near its length, in the liquid."""
    atoms = read_frames(CHECK)[0]
    hydrogen, direction, length = bond(atoms)
    atoms.positions[hydrogen] += (LENGTH - length) * direction
    calculator = ForceNetCalculator("water")
    before = calculator.get_forces(atoms)[hydrogen] @ direction
    atoms.positions[hydrogen] += stretch * direction
    after = calculator.get_forces(atoms)[hydrogen] @ direction
    assert 20.0 < (before - after) / stretch < 90.0


def test_the_torque_of_its_clusters_is_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    """Of three molecules as they lie in the liquid, on their path at 300 K."""
    liquid = read_frames(CHECK)[0]
    oxygen = np.flatnonzero(liquid.numbers == 8)
    near = oxygen[liquid.get_distances(oxygen[0], oxygen, mic=True).argsort()[:3]]
    cluster = Atoms()
    for atom in near:
        place = liquid.get_distance(oxygen[0], atom, mic=True, vector=True)
        vectors = liquid.get_distances(atom, range(len(liquid)), mic=True, vector=True)
        own = np.linalg.norm(vectors, axis=1) < 1.4
        cluster += Atoms(liquid.numbers[own], place + vectors[own])
    assert cluster.get_chemical_formula() == "H6O3"
    calculator = ForceNetCalculator("water")
    plan = Visit(300.0, time_ps=0.025, spacing_ps=0.005, timestep_fs=0.5)
    assert len(list(trajectory(cluster, calculator, plan, seed=5))) == 5
    assert calculator.torque is not None
    assert np.linalg.norm(calculator.torque) > 1e-3
    assert [said for said in caplog.messages if "torque" in said] == []


def bond(atoms: Atoms) -> tuple[int, np.ndarray, float]:
    """A hydrogen atom of the first molecule, the direction to it from the oxygen, its length."""
    oxygen = int(np.flatnonzero(atoms.numbers == 8)[0])
    vectors = atoms.get_distances(oxygen, range(len(atoms)), mic=True, vector=True)
    lengths = np.where(atoms.numbers == 1, np.linalg.norm(vectors, axis=1), np.inf)
    hydrogen = int(lengths.argmin())
    length = float(lengths[hydrogen])
    return hydrogen, vectors[hydrogen] / length, length


@pytest.mark.slow
def test_its_molecules_hold_in_dynamics() -> None:
    """Trained on the DFT frames alone, they break within a quarter of a picosecond."""
    start = read_frames(CHECK)[0]
    plan = Visit(300.0, time_ps=0.5, spacing_ps=0.05, timestep_fs=0.5)
    path = list(follow(start, ForceNetCalculator("water"), plan, seed=5))
    assert len(path) == 10
    for atoms in path:
        distances = atoms.get_all_distances(mic=True)
        distances = distances[np.ix_(atoms.numbers == 1, atoms.numbers == 8)]
        assert distances.min(axis=1).max() < 1.4
        assert (np.bincount(distances.argmin(axis=1), minlength=64) == 2).all()
