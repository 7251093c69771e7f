"""Writes alloy.data and slab.data: random solid solutions of Ag Au Cu Pd Pt, 100 atoms of each.

    python make_structures.py

The same files every time: the shuffles are seeded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111
from ase.io.lammpsdata import write_lammps_data

ELEMENTS = ("Ag", "Au", "Cu", "Pd", "Pt")
HERE = Path(__file__).parent


def write(atoms: Atoms, name: str, seed: int) -> None:
    symbols = np.resize(ELEMENTS, len(atoms))
    np.random.default_rng(seed).shuffle(symbols)
    atoms.symbols = symbols
    atoms.set_tags(None)
    with open(HERE / name, "w", encoding="ascii") as file:
        write_lammps_data(file, atoms, specorder=list(ELEMENTS), masses=True)


def main() -> None:
    # no pressure at 1000 K with the embedded-atom potential of Zhou, Johnson and Wadley (2004)
    write(bulk("Cu", "fcc", a=3.975, cubic=True) * (5, 5, 5), "alloy.data", seed=1)
    slab = fcc111("Cu", (5, 6, 6), a=3.92, vacuum=8.0, orthogonal=True, periodic=True)
    write(slab, "slab.data", seed=2)


if __name__ == "__main__":
    main()
