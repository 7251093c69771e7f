"""Jumps against a cut potential whose jump is known, a smooth one, and a neighbour cap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms
from models import write_model

from forcenet_md.inference.load import load_evaluator
from forcenet_md.simulation.jumps import at_cap, at_cutoff, find_jumps
from forcenet_md.simulation.probed import Asker, Structure, moved

RC = 4.1


def structure_of(atoms: Atoms, spec: str = "ase:emt") -> Structure:
    return Structure.of(atoms, "it", load_evaluator(spec).capabilities)


def alloy() -> Atoms:
    atoms = bulk("Cu", cubic=True, a=3.95) * (2, 2, 2)
    rng = np.random.default_rng(0)
    atoms.numbers = rng.choice([29, 47, 79], len(atoms))
    atoms.rattle(0.1, rng=rng)
    return atoms


def lj_force(r: float) -> float:
    """-dV/dr of 4 ε (r⁻¹² − r⁻⁶) with ε = 0.4 eV, σ = 2 Å."""
    s = 2.0 / r
    return 24.0 * 0.4 / r * (2.0 * s**12 - s**6)


@pytest.mark.parametrize("distance", [RC - 0.3, RC + 0.3])
def test_a_cut_potential_jumps_by_its_force_at_the_cutoff(distance: float) -> None:
    pair = Atoms("Cu2", [[0, 0, 0], [0, 0, distance]])
    asker = Asker(load_evaluator(f"ase:lj,epsilon=0.4,sigma=2,rc={RC}"))
    found = find_jumps(asker, [structure_of(pair)], [(RC, None)])
    assert found.n_places == 1
    assert found.largest == pytest.approx(abs(lj_force(RC)), rel=1e-3)
    assert found.seen
    assert found.where == f"Cu–Cu at {RC} Å (it)"


def test_in_a_crystal_each_pair_of_elements_is_looked_at() -> None:
    structure = structure_of(alloy())
    asker = Asker(load_evaluator(f"ase:lj,epsilon=0.4,sigma=2,rc={RC}"))
    found = find_jumps(asker, [structure], [(RC, None)])
    assert found.n_places == 6
    assert found.largest == pytest.approx(abs(lj_force(RC)), rel=1e-2)
    smooth = Asker(load_evaluator(f"ase:lj,epsilon=0.4,sigma=2,rc={RC},smooth=true"))
    none = find_jumps(smooth, [structure], [(RC, None)])
    assert none.n_places == 6
    assert not none.seen
    assert none.largest < 1e-3 * none.change


def test_the_shipped_model_does_not_jump() -> None:
    evaluator = load_evaluator("alloy", dtype="float64")
    structure = Structure.of(alloy(), "it", evaluator.capabilities)
    found = find_jumps(Asker(evaluator), [structure], [(evaluator.capabilities.cutoff, None)])
    assert found.n_places == 6
    assert not found.seen


def test_a_neighbour_cap_jumps(tmp_path: Path) -> None:
    """By what the forces differ at the two sides of the place, as the model itself says."""
    write_model(tmp_path / "m.pt", neighbour_cap=14)
    evaluator = load_evaluator(str(tmp_path / "m.pt"), dtype="float64")
    structure = Structure.of(alloy(), "it", evaluator.capabilities)
    asker = Asker(evaluator)
    reach = evaluator.capabilities.cutoff
    found = find_jumps(asker, [structure], [(reach, 14)])
    assert found.seen
    assert found.where.startswith("among the 14 nearest of ")
    places = at_cap(structure, reach, 14)
    assert found.n_places == len(places) + len(at_cutoff(structure, reach))
    largest = 0.0
    for place in places:
        x = structure.system.positions
        sides = [moved(x, place.atom, (place.by + d) * place.along) for d in (-3e-6, 3e-6)]
        here, there = asker.forces(structure, sides)
        largest = max(largest, float(np.linalg.norm(there - here, axis=1).max()))
    assert found.largest == pytest.approx(largest, rel=1e-2)
    write_model(tmp_path / "free.pt")
    free = Asker(load_evaluator(str(tmp_path / "free.pt"), dtype="float64"))
    assert not find_jumps(free, [structure], [(reach, None)]).seen


def test_held_atoms_are_not_moved() -> None:
    slab = fcc111("Cu", (2, 2, 3), vacuum=5.0)
    slab.set_constraint(FixAtoms(range(8)))
    places = at_cutoff(structure_of(slab), RC)
    assert places
    assert all(place.atom >= 8 for place in places)


def test_no_pair_near_the_cutoff_is_no_place() -> None:
    pair = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]])
    found = find_jumps(Asker(load_evaluator("ase:emt")), [structure_of(pair)], [(6.0, None)])
    assert found.n_places == 0
    assert not found.seen
