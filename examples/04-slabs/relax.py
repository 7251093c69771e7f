"""Relaxations with a model beside DFT's: relax.py MODEL IN [steps].

Every relaxation of IN is begun at its first frame, with its held atoms held, by FIRE until no force
on a free atom is above 0.05 eV/Å. Prints how far the free atoms are from DFT's last frame (mean
distance, Å) in the beginning and in the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.geometry import find_mic
from ase.io import iread
from ase.optimize import FIRE

from forcenet_md import ForceNetCalculator, ForcesOnly

FMAX = 0.05


def main(model: str, source: Path, steps: int) -> None:
    ends: dict[str, list[Atoms]] = {}
    for atoms in iread(source):
        ends.setdefault(atoms.info["sid"], [atoms, atoms])[1] = atoms
    calculator = ForceNetCalculator(model)
    table = []
    for sid, (first, last) in ends.items():
        atoms = first.copy()
        free = atoms.arrays["fixed"] == 0
        atoms.set_constraint(FixAtoms(mask=~free))
        atoms.calc = calculator
        optimiser = FIRE(ForcesOnly(atoms), logfile=None)
        converged = optimiser.run(fmax=FMAX, steps=steps)
        before, after = (distance(a, last, free) for a in (first, atoms))
        table.append((before, after, float(converged)))
        print(
            f"{sid} {last.get_chemical_formula()}: {before:.3f} Å, then {after:.3f} Å"
            f" ({optimiser.nsteps} steps{'' if converged else ', not converged'})",
            flush=True,
        )
    before, after, converged = np.mean(table, axis=0)
    nearer = sum(b > a for b, a, _ in table)
    print(
        f"mean: {before:.3f} Å, then {after:.3f} Å; {nearer} of {len(table)} come nearer,"
        f" {round(converged * len(table))} converge"
    )


def distance(a: Atoms, b: Atoms, free: np.ndarray) -> float:
    moved = find_mic(a.positions - b.positions, a.cell, a.pbc)[0][free]
    return float(np.linalg.norm(moved, axis=1).mean())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 200)
