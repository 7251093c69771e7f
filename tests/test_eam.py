"""The alloy teacher: its formulae, its table in LAMMPS, and that a network can learn it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from forcenet_md.data import eam
from forcenet_md.data.frames import forces_of
from forcenet_md.data.teachers import LammpsTeacher, open_teacher
from forcenet_md.errors import DataError

ELEMENTS = ["Ag", "Au", "Cu", "Pd", "Pt"]

# Lattice constant (Å) and cohesive energy (eV/atom): the measured values that embedded-atom
# potentials of these metals are fitted to; Foiles, Baskes, Daw, Phys. Rev. B 33, 7983 (1986).
PUBLISHED = {
    "Cu": (3.615, 3.54),
    "Ag": (4.090, 2.85),
    "Au": (4.080, 3.93),
    "Pd": (3.890, 3.91),
    "Pt": (3.920, 5.77),
}


@pytest.fixture(scope="module")
def teacher() -> Iterator[LammpsTeacher]:
    with open_teacher("zhou2004", ELEMENTS) as opened:
        assert isinstance(opened, LammpsTeacher)
        yield opened


def alloy(seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("Pd", "fcc", a=3.95, cubic=True) * (2, 2, 2)
    atoms.set_chemical_symbols(rng.choice(ELEMENTS, len(atoms)).tolist())
    atoms.positions += rng.normal(0.0, 0.12, atoms.positions.shape)
    return atoms


def direct_energy(atoms: Atoms) -> float:
    """Σ F(ρ) + ½ Σ φ from the formulae alone."""
    first, second, r = neighbor_list("ijd", atoms, eam.CUTOFF)
    rho = np.zeros(len(atoms))
    pairs = 0.0
    symbols = np.array(atoms.get_chemical_symbols())
    for a in set(symbols):
        for b in set(symbols):
            chosen = (symbols[first] == a) & (symbols[second] == b)
            np.add.at(rho, first[chosen], eam.density(eam.metal(b), r[chosen]))
            pairs += 0.5 * float(eam.pair(eam.metal(a), eam.metal(b), r[chosen]).sum())
    embedded = [eam.embedding(eam.metal(s), x) for s, x in zip(symbols, rho, strict=True)]
    return pairs + float(np.sum(embedded))


@pytest.mark.parametrize("element", sorted(PUBLISHED))
def test_lattice_constant_and_cohesive_energy(teacher: LammpsTeacher, element: str) -> None:
    a0, cohesive = PUBLISHED[element]
    lengths = np.linspace(0.98, 1.02, 9) * a0
    energies = [teacher.label(bulk(element, "fcc", a=a)).get_potential_energy() for a in lengths]
    fit = np.polynomial.Polynomial.fit(lengths, energies, 5)
    stationary = fit.deriv().roots()
    real = stationary[np.abs(stationary.imag) < 1e-9].real
    minimum = real[np.argmin(np.abs(real - a0))]
    assert minimum == pytest.approx(a0, abs=0.002)
    assert fit(minimum) == pytest.approx(-cohesive, abs=0.002)


@pytest.mark.parametrize("seed", [0, 1])
def test_table_agrees_with_the_formulae(teacher: LammpsTeacher, seed: int) -> None:
    atoms = alloy(seed)
    table = teacher.label(atoms).get_potential_energy()
    assert table == pytest.approx(direct_energy(atoms), abs=2e-5 * len(atoms))


def test_forces_are_the_gradient_of_the_direct_energy(teacher: LammpsTeacher) -> None:
    atoms = alloy(2)
    forces = forces_of(teacher.label(atoms))
    step = 1e-4
    for row, axis in [(0, 0), (7, 1), (25, 2)]:
        energies = []
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions[row, axis] += sign * step
            energies.append(direct_energy(moved))
        gradient = (energies[0] - energies[1]) / (2.0 * step)
        assert forces[row, axis] == pytest.approx(-gradient, abs=2e-3)


def test_embedding_is_continuous_where_its_branches_meet() -> None:
    for element in ELEMENTS:
        m = eam.metal(element)
        for edge in (m.rhol * m.rhoe, m.rhoe, m.rhoh * m.rhoe):
            below, above = eam.embedding(m, [edge - 1e-6, edge + 1e-6])
            assert above == pytest.approx(below, abs=1e-5)


@pytest.mark.parametrize(
    "element",
    [e if e == "Cu" else pytest.param(e, marks=pytest.mark.slow) for e in ELEMENTS],
)
def test_forces_are_smooth_enough_to_learn(teacher: LammpsTeacher, element: str) -> None:
    """One atom along a line in 61 steps of 0.01 Å: second over first differences of its force.

    A smooth potential gives 0.015 to 0.05; one that no network learned, 0.4 to 1.
    """
    atoms = alloy(3)
    row = atoms.get_chemical_symbols().index(element)
    direction = np.array([0.6, 0.64, 0.48])
    along = []
    for k in range(61):
        moved = atoms.copy()
        moved.positions[row] += (k - 30) * 0.01 * direction
        along.append(forces_of(teacher.label(moved))[row])
    force = np.array(along)
    first = np.abs(np.diff(force, axis=0)).max()
    second = np.abs(np.diff(force, 2, axis=0)).max()
    assert second / first < 0.06


def test_an_element_without_parameters_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Fe"):
        eam.write_setfl(["Cu", "Fe"], tmp_path / "x")


def test_triclinic_cells_turn_there_and_back(teacher: LammpsTeacher) -> None:
    """A rotated and sheared description of the same crystal has the rotated forces."""
    atoms = alloy(4)
    angle = 0.7
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]]
    )
    other = atoms.copy()
    cell = atoms.cell.array.copy()
    cell[1] += cell[0]
    other.set_cell(cell @ turn.T)
    other.positions = atoms.positions @ turn.T + 3.0 * (cell[2] @ turn.T)
    expected = forces_of(teacher.label(atoms)) @ turn.T
    np.testing.assert_allclose(forces_of(teacher.label(other)), expected, atol=1e-7)
