"""The flexible water model that labels what lies around the DFT frames of the water example."""

from __future__ import annotations

import sys
from dataclasses import astuple
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

EXAMPLE = Path(__file__).parents[1] / "examples" / "05-water"


@pytest.fixture
def water(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import flexible_water

    monkeypatch.delitem(sys.modules, "flexible_water")
    return flexible_water


def molecules(seed: int) -> Atoms:
    """Eight molecules on a grid, turned and rattled, one across the boundary; all O, then all H."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(cell=np.full(3, 13.0), pbc=True)
    for corner in np.ndindex(2, 2, 2):
        one = molecule("H2O")
        one.euler_rotate(*rng.uniform(0, 180, 3))
        one.translate(6.5 * np.array(corner) + rng.normal(0.0, 0.2, 3))
        atoms += one
    atoms.rattle(0.04, seed=seed)
    return atoms[np.argsort(-atoms.numbers, kind="stable")]


def test_the_fit_finds_the_bonds_and_angles_that_made_the_labels(water: ModuleType) -> None:
    """LAMMPS makes the labels with one set; the fit, in numpy, starts at another."""
    truth = water.Intramolecular(depth=4.1, alpha=2.5, length=0.97, bend=3.2, angle=1.85)
    frames = [molecules(seed) for seed in range(3)]
    model = water.FlexibleWater(frames[0], truth)
    for atoms in frames:
        forces = model.forces(atoms.positions)
        assert np.abs(forces.sum(axis=0)).max() < 1e-9
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
    model.close()
    assert np.allclose(astuple(water.fit(frames)), astuple(truth), rtol=1e-5)


def test_its_dynamics_starts_where_it_is_put_and_its_molecules_hold(water: ModuleType) -> None:
    atoms = molecules(1)
    model = water.FlexibleWater(atoms, water.Intramolecular())
    hot = atoms.copy()
    hot.positions = model.run(atoms.positions, 3000.0, 50.0, seed=3)
    moved = np.linalg.norm(hot.positions - atoms.positions, axis=1)
    assert 0.2 < moved.max() < 5.0
    assert np.array_equal(water.find_molecules(hot), water.find_molecules(atoms))
    again = model.run(atoms.positions, 3000.0, 50.0, seed=3)
    model.close()
    assert np.allclose(again, hot.positions, atol=1e-9)


def test_a_broken_molecule_is_no_start(water: ModuleType) -> None:
    atoms = molecules(2)
    atoms.positions[-1] = atoms.positions[0] + [0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="broken"):
        water.find_molecules(atoms)
