"""Relaxations cut in time: split.py IN FOLDER.

Of every relaxation FOLDER/test.extxyz gets the last 15 % of the frames (column `part`: end) and, as
one block, those between 20 and 30 % (part: middle); the rest goes to FOLDER/train.extxyz.
Relaxations are told apart by the column `sid`, and are in order of time in IN.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from ase import Atoms
from ase.io import iread, write

MIDDLE, END = (0.2, 0.3), 0.85


def main(source: Path, folder: Path) -> None:
    relaxations: dict[str, list[Atoms]] = defaultdict(list)
    for atoms in iread(source):
        relaxations[atoms.info["sid"]].append(atoms)
    folder.mkdir(parents=True, exist_ok=True)
    train, test = [], []
    for frames in relaxations.values():
        for k, atoms in enumerate(frames):
            time = k / len(frames)
            middle = MIDDLE[0] <= time < MIDDLE[1]
            if middle or time >= END:
                atoms.info["part"] = "middle" if middle else "end"
                test.append(atoms)
            else:
                train.append(atoms)
    for name, part in (("train", train), ("test", test)):
        write(folder / f"{name}.extxyz", part)
        print(f"{name}: {len(part)} frames of {len(relaxations)} relaxations")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
