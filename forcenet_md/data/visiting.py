"""Where a model's own dynamics goes: the structures to label next, and the error along the path.

A model that fails in dynamics looks right by its temperature; the teacher's forces on the path,
the smallest distance and the largest true force show it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin

from forcenet_md.data.frames import forces_of, largest_label, shortest_distance
from forcenet_md.force_error import force_error, pool

log = logging.getLogger(__name__)

LABELS = ("energy", "forces")
MODEL_FORCES = "model_forces"


@dataclass(frozen=True)
class Visit:
    """Langevin dynamics at constant volume.

    temperature: K; time and spacing of the kept structures: ps; relaxation: of the thermostat, ps
    heat: of the velocities at the start, times the temperature; a crystal at rest takes half of it
    """

    temperature: float
    time_ps: float = 4.0
    spacing_ps: float = 0.2
    timestep_fs: float = 2.0
    relaxation_ps: float = 0.1
    heat: float = 1.0


def trajectory(start: Atoms, calculator: Calculator, plan: Visit, seed: int) -> Iterator[Atoms]:
    """Structures along the path of Langevin dynamics, each with the calculator's labels.

    The path ends early where the calculator fails (atoms on one point, overflow).
    """
    rng = np.random.default_rng(seed)
    atoms = heated(start, plan.temperature, rng, plan.heat)
    atoms.calc = calculator
    dynamics = langevin(atoms, plan.temperature, plan.timestep_fs, plan.relaxation_ps, rng)
    stride = max(1, round(plan.spacing_ps * 1000.0 / plan.timestep_fs))
    for _ in range(round(plan.time_ps / plan.spacing_ps)):
        try:
            dynamics.run(stride)
            atoms.get_forces()
        except Exception:  # whatever a calculator has against a structure that fell apart
            log.debug("the path ends", exc_info=True)
            return
        frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        frame.info.update(start.info)
        labels = {name: value for name, value in calculator.results.items() if name in LABELS}
        frame.calc = SinglePointCalculator(frame, **labels)
        yield frame


def heated(start: Atoms, temperature: float, rng: np.random.Generator, heat: float) -> Atoms:
    """A copy with random velocities. temperature: K; heat: of them, times the temperature"""
    atoms = start.copy()
    width = np.sqrt(atoms.get_masses() * units.kB * heat * temperature)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * width[:, None])
    return atoms


def langevin(
    atoms: Atoms,
    temperature: float,
    timestep_fs: float,
    relaxation_ps: float,
    rng: np.random.Generator,
) -> Langevin:
    """Dynamics at constant volume. temperature: K; relaxation_ps: of the thermostat"""
    return Langevin(
        atoms,
        timestep_fs * units.fs,
        temperature_K=temperature,
        friction=1.0 / (relaxation_ps * 1000.0 * units.fs),
        fixcm=False,  # every atom has a thermostat of its own
        rng=rng,
    )


def follow(start: Atoms, calculator: Calculator, plan: Visit, seed: int) -> Iterator[Atoms]:
    """Structures along a model's path with its forces in arrays['model_forces'] (eV/Å)."""
    for frame in trajectory(start, calculator, plan, seed):
        frame.arrays[MODEL_FORCES] = frame.get_forces()
        frame.calc = None
        yield frame


def path_errors(frames: Sequence[Atoms]) -> dict[str, Any]:
    """Of labelled frames with model forces: those of `ForceError`, smallest_distance (Å),
    largest_force (true, eV/Å)."""
    error = pool(force_error(forces_of(a), a.arrays[MODEL_FORCES]) for a in frames)
    return {
        **error.as_dict(),
        "smallest_distance": min(map(shortest_distance, frames)),
        "largest_force": max(largest_label(atoms) for atoms in frames),
    }
