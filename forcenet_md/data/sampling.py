"""Structures a force field for fcc alloys should have seen, from a LAMMPS teacher.

Every function takes its random generator, so a data set is made again from its seed. What comes
out is unlabelled and carries its origin in `info`: config_type, temperature (K), trajectory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111
from ase.neighborlist import neighbor_list

from forcenet_md.data.eam import metal
from forcenet_md.data.lammps_box import LammpsBox

Rng = np.random.Generator


@dataclass(frozen=True)
class Dynamics:
    """One trajectory of the teacher: what is run and how often a structure is kept.

    temperature: K
    pressure: bar; None keeps the cell (slabs)
    melt: run at `melt_temperature` first, so that the liquid forgets the lattice
    """

    temperature: float
    pressure: float | None = 0.0
    melt: bool = False
    melt_temperature: float = 3200.0
    equilibration_ps: float = 2.0
    spacing_ps: float = 0.2
    frames: int = 10
    timestep_ps: float = 0.002


def random_counts(elements: Sequence[str], n_atoms: int, rng: Rng) -> list[int]:
    """Atoms of each element: Dirichlet over a random subset; half the draws use all elements."""
    n_present = len(elements) if rng.random() < 0.5 else int(rng.integers(1, len(elements) + 1))
    present = rng.choice(len(elements), n_present, replace=False)
    share = np.zeros(len(elements))
    share[present] = rng.dirichlet(np.ones(n_present))
    return [int(n) for n in rng.multinomial(n_atoms, share)]


def random_alloy(
    elements: Sequence[str], rng: Rng, *, repeat: int = 3, scale: float = 1.0
) -> Atoms:
    """Random fcc solid solution of 4·repeat³ atoms, lattice constant by Vegard's rule × scale."""
    n_atoms = 4 * repeat**3
    counts = random_counts(elements, n_atoms, rng)
    symbols = _shuffled(elements, counts, rng)
    a = _lattice_constant(elements, counts) * scale
    atoms = bulk(elements[0], "fcc", a=a, cubic=True) * (repeat, repeat, repeat)
    atoms.set_chemical_symbols(symbols)
    return atoms


def random_slab(elements: Sequence[str], rng: Rng, *, layers: int = 5) -> Atoms:
    """Random alloy slab, fcc (111), orthogonal cell, 14 Å of vacuum along z."""
    size = (4, 4, layers)
    n_atoms = int(np.prod(size))
    counts = random_counts(elements, n_atoms, rng)
    a = _lattice_constant(elements, counts)
    atoms = fcc111(elements[0], size, a=a, vacuum=7.0, orthogonal=True, periodic=True)
    atoms.set_chemical_symbols(_shuffled(elements, counts, rng))
    atoms.set_tags(None)
    atoms.set_constraint()
    return atoms


def run_teacher(box: LammpsBox, start: Atoms, plan: Dynamics, seed: int) -> Iterator[Atoms]:
    """Structures along one trajectory of the teacher."""
    box.load(start)
    box.commands(
        f"timestep {plan.timestep_ps}",
        "neighbor 1.0 bin",
        "neigh_modify delay 0 every 2 check yes",
    )
    if plan.melt:
        hot = plan.melt_temperature
        box.commands(f"velocity all create {2 * hot} {seed} dist gaussian")
        _run(box, plan, hot, 2.0)
        box.commands(f"velocity all scale {plan.temperature}")
    else:
        box.commands(f"velocity all create {2 * plan.temperature} {seed} dist gaussian")
    _run(box, plan, plan.temperature, plan.equilibration_ps)
    for _ in range(plan.frames):
        _run(box, plan, plan.temperature, plan.spacing_ps)
        yield box.snapshot()


def _run(box: LammpsBox, plan: Dynamics, temperature: float, time_ps: float) -> None:
    thermostat = f"temp {temperature} {temperature} 0.1"
    if plan.pressure is None:
        ensemble = f"nvt {thermostat}"
    else:
        ensemble = f"npt {thermostat} iso {plan.pressure} {plan.pressure} 0.5"
    box.commands(
        f"fix sampling all {ensemble}",
        f"run {round(time_ps / plan.timestep_ps)} post no",
        "unfix sampling",
    )


def strained(atoms: Atoms, largest: float, rng: Rng) -> Atoms:
    """A copy under a random symmetric strain with components up to `largest`."""
    strain = rng.uniform(-largest, largest, (3, 3))
    out = atoms.copy()
    deformation = np.eye(3) + 0.5 * (strain + strain.T)
    out.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return out


def rattled(atoms: Atoms, amplitude: float, rng: Rng) -> Atoms:
    """A copy with Gaussian displacements of `amplitude` Å per component."""
    out = atoms.copy()
    out.positions += rng.normal(0.0, amplitude, atoms.positions.shape)
    return out


def with_short_pairs(atoms: Atoms, n_pairs: int, low: float, high: float, rng: Rng) -> Atoms:
    """A copy in which n_pairs random neighbours are pushed together to low…high Å."""
    out = atoms.copy()
    first, second, vectors = neighbor_list("ijD", out, 3.3)
    for k in rng.choice(len(first), min(n_pairs, len(first)), replace=False):
        length = float(np.linalg.norm(vectors[k]))
        target = rng.uniform(low, high)
        if length > target:
            move = 0.5 * (1.0 - target / length) * vectors[k]
            out.positions[first[k]] += move
            out.positions[second[k]] -= move
    return out


def _lattice_constant(elements: Sequence[str], counts: Sequence[int]) -> float:
    lengths = [np.sqrt(2.0) * metal(element).re for element in elements]
    return float(np.average(lengths, weights=counts))


def _shuffled(elements: Sequence[str], counts: Sequence[int], rng: Rng) -> list[str]:
    symbols = np.repeat(list(elements), counts)
    rng.shuffle(symbols)
    return [str(symbol) for symbol in symbols]
