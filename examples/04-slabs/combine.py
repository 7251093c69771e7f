"""Labels of displaced structures: combine.py TRAIN.extxyz LABELLED.extxyz OUT.extxyz.

LABELLED is what a teacher says of the frames of TRAIN and of structures around them (column
`origin`, the row in TRAIN). The new label of a structure is the force of its frame in TRAIN (DFT)
plus the change of the teacher's force on the way: a teacher that is wrong about a surface may still
know how stiff it is. Structures whose forces the teacher changes by more than 5 eV/Å are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import iread, read, write

LARGEST = 5.0  # eV/Å


def main(source: Path, labelled: Path, out: Path) -> None:
    frames = read(source, ":")
    told: dict[int, np.ndarray] = {}  # the teacher's forces on the frames themselves
    around: list[Atoms] = []
    for atoms in iread(labelled):
        if "origin" in atoms.info:
            around.append(atoms)
        else:
            told[len(told)] = atoms.get_forces(apply_constraint=False)
    if len(told) != len(frames):
        sys.exit(f"{labelled} has {len(told)} frames without an origin, {source} {len(frames)}")
    made = []
    for atoms in around:
        origin = int(atoms.info["origin"])
        change = atoms.get_forces(apply_constraint=False) - told[origin]
        if np.abs(change).max() > LARGEST:
            continue
        forces = frames[origin].get_forces(apply_constraint=False) + change
        new = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        new.arrays["fixed"] = frames[origin].arrays["fixed"]
        new.info = {"sid": frames[origin].info["sid"], "origin": origin}
        new.calc = SinglePointCalculator(new, forces=forces)
        made.append(new)
    write(out, made)
    print(f"{len(made)} of {len(around)} structures")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
