"""Structures around those of relaxations: displace.py TRAIN.extxyz OUT.extxyz [copies] [seed].

Free atoms of each frame move; held atoms stay. Half of the copies move by normal noise of 0.02 to
0.1 Å, half along the way to the next frame of TRAIN's relaxation, or to the one before. OUT's
column `origin` is the row of the frame in TRAIN.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from ase.io import read, write

NOISE = (0.02, 0.1)  # Å, drawn evenly in its logarithm
LONGEST = 0.15  # Å, mean of the free atoms, along the way to the next frame


def main(source: Path, out: Path, copies: int, seed: int) -> None:
    frames = read(source, ":")
    rng = np.random.default_rng(seed)
    made = []
    for row, atoms in enumerate(frames):
        others = [
            frames[k]
            for k in (row - 1, row + 1)
            if 0 <= k < len(frames) and frames[k].info["sid"] == atoms.info["sid"]
        ]
        for copy in range(copies):
            step = noise(atoms, rng) if copy % 2 == 0 or not others else way(atoms, others, rng)
            moved = Atoms(atoms.numbers, atoms.positions + step, cell=atoms.cell, pbc=True)
            moved.arrays["fixed"] = atoms.arrays["fixed"]
            moved.info = {"sid": atoms.info["sid"], "origin": row}
            made.append(moved)
    write(out, made)
    print(f"{len(made)} structures around {len(frames)} frames")


def noise(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    width = np.exp(rng.uniform(*np.log(NOISE)))
    return rng.normal(scale=width, size=(len(atoms), 3)) * free(atoms)


def way(atoms: Atoms, others: list[Atoms], rng: np.random.Generator) -> np.ndarray:
    """Some of the way to another frame of the relaxation, with little noise."""
    other = others[rng.integers(len(others))]
    step = find_mic(other.positions - atoms.positions, atoms.cell, pbc=True)[0] * free(atoms)
    length = float(np.linalg.norm(step, axis=1).sum() / free(atoms).sum())
    share = rng.uniform(0.2, 1.0) * min(1.0, LONGEST / max(length, 1e-9))
    return share * step + rng.normal(scale=NOISE[0], size=(len(atoms), 3)) * free(atoms)


def free(atoms: Atoms) -> np.ndarray:
    return (atoms.arrays["fixed"] == 0).astype(float)[:, None]


if __name__ == "__main__":
    given = [int(x) for x in sys.argv[3:]]
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(given + [4, 1][len(given) :]))
