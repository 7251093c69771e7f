"""Dynamics of a network until it leaves physics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from forcenet_md import ForceNetCalculator
from forcenet_md.data.frames import shortest_distance
from forcenet_md.data.visiting import heated, langevin
from forcenet_md.engines.prepared import DAMP
from forcenet_md.errors import ForceNetError

LOOK_EVERY = 5  # steps
TIMESTEP = 0.002  # ps
NEAREST, LARGEST, HOTTEST = 1.4, 200.0, 2.0  # Å, eV/Å, times the thermostat's temperature


def run(
    start: Atoms, model: Path, teacher: Calculator, temperature: int, ps: float, seed: int
) -> dict[str, Any]:
    """How long it lasted (ps), why it ended ("" if it did not), the nearest pair before that (Å),
    and the error of the forces on the way, every tenth of a ps (mean over components, eV/Å)."""
    calculator = ForceNetCalculator(str(model))
    lasted, why, nearest = 0.0, "", np.inf
    errors: list[float] = []
    for lasted, atoms, failed in dynamics(start, calculator, temperature, ps, seed):
        why = failed or why_not(atoms, temperature)
        if why:
            break
        nearest = min(nearest, shortest_distance(atoms))
        if round(lasted / TIMESTEP) % 50 == 0:
            label = atoms.copy()
            label.calc = teacher
            errors.append(float(np.abs(atoms.get_forces() - label.get_forces()).mean()))
    return {
        "ps": lasted,
        "why": why,
        "nearest": float(nearest) if np.isfinite(nearest) else None,
        "error": fmean(errors) if errors else None,
    }


def dynamics(
    start: Atoms, calculator: Calculator, temperature: int, ps: float, seed: int
) -> Iterator[tuple[float, Atoms, str]]:
    """(ps, atoms, "") every few steps; the words of the calculator where it fails."""
    rng = np.random.default_rng([seed, temperature])
    plain = Atoms(start.numbers, start.positions, cell=start.cell, pbc=True)
    atoms = heated(plain, temperature, rng, heat=1.0)
    atoms.calc = calculator
    integrator = langevin(atoms, temperature, 1000.0 * TIMESTEP, DAMP, rng)
    for k in range(1, round(ps / (TIMESTEP * LOOK_EVERY)) + 1):
        failed = ""
        try:
            integrator.run(LOOK_EVERY)
        except (ForceNetError, ValueError, FloatingPointError) as error:
            failed = str(error)
        yield k * LOOK_EVERY * TIMESTEP, atoms, failed


def why_not(atoms: Atoms, temperature: int) -> str:
    """Why this is no physics any more; "" where it is."""
    if (near := shortest_distance(atoms)) < NEAREST:
        return f"a pair at {near:.2f} Å"
    if not (force := float(np.linalg.norm(atoms.get_forces(), axis=1).max())) < LARGEST:
        return f"a force of {force:.0f} eV/Å"
    if not (kelvin := atoms.get_temperature()) < HOTTEST * temperature:
        return f"at {kelvin:.0f} K"
    return ""
