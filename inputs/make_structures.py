"""Writes the structures of lammps/ and ipi/: random solid solutions of Ag Au Cu Pd Pt, and argon.

    python make_structures.py

The same files every time: the shuffles are seeded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111
from ase.io import write
from ase.io.lammpsdata import write_lammps_data

ELEMENTS = ("Ag", "Au", "Cu", "Pd", "Pt")
# Å: no pressure at 1000 K, and little of it between 0 and 300 K, with the potential of Zhou,
# Johnson and Wadley (2004)
HOT, COLD = 3.975, 3.92
ARGON = 5.78  # Å: 1.37 g/cm³, the density of A. Rahman's liquid (1964)
HERE = Path(__file__).parent


def alloy(atoms: Atoms, seed: int) -> Atoms:
    """The same lattice with as many atoms of each element, shuffled."""
    symbols = np.resize(ELEMENTS, len(atoms))
    np.random.default_rng(seed).shuffle(symbols)
    atoms.symbols = symbols
    atoms.set_tags(None)
    return atoms


def write_data(atoms: Atoms, path: Path) -> None:
    with open(path, "w", encoding="ascii") as file:
        write_lammps_data(file, atoms, specorder=list(ELEMENTS), masses=True)


def main() -> None:
    crystal = alloy(bulk("Cu", "fcc", a=HOT, cubic=True) * 5, seed=1)
    slab = fcc111("Cu", (5, 6, 6), a=COLD, vacuum=8.0, orthogonal=True, periodic=True)
    write_data(crystal, HERE / "lammps" / "alloy.data")
    write_data(alloy(slab, seed=2), HERE / "lammps" / "slab.data")

    small = alloy(bulk("Cu", "fcc", a=COLD, cubic=True) * 3, seed=3)
    vacancy = small[1:]
    argon = bulk("Ar", "fcc", a=ARGON, cubic=True) * 3
    structures = {"alloy": crystal, "small": small, "vacancy": vacancy, "argon": argon}
    for name, atoms in structures.items():
        write(HERE / "ipi" / f"{name}.xyz", atoms, format="extxyz")


if __name__ == "__main__":
    main()
