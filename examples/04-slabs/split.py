"""Relaxations cut in time: split.py IN FOLDER.

IN is a file or a folder of any format that `forcenet-md data compile` reads. Of every relaxation
FOLDER/test.extxyz gets the last 15 % of the frames (column `part`: end) and, as one block, those
between 20 and 30 % (part: middle); the rest goes to FOLDER/train.extxyz. Relaxations are told apart
by the column `sid`, as OC20's text files have it; the column `frame` is their time, without it the
order in IN. They must be whole: most of them need the FEWEST frames that have an end.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from ase import Atoms

from forcenet_md.data.compiling import frames_of
from forcenet_md.data.frames import write_frames
from forcenet_md.data.labelled import FIXED, fixed_atoms
from forcenet_md.data.reading import find_sources
from forcenet_md.data.source import ANY_SIZE
from forcenet_md.errors import ForceNetError

MIDDLE, END = (0.2, 0.3), 0.85
FEWEST = 7  # the last of six is at 5/6, before END


def main(source: Path, folder: Path) -> None:
    relaxations: dict[str, list[Atoms]] = defaultdict(list)
    for file in find_sources(source):
        for atoms in frames_of(file, ANY_SIZE):
            if "sid" not in atoms.info:
                sys.exit(f"a frame of {file} has no column sid: name the relaxation each is of")
            atoms.arrays[FIXED] = fixed_atoms(atoms).astype(int)
            atoms.set_constraint()
            relaxations[str(atoms.info["sid"])].append(atoms)
    short = sum(len(frames) < FEWEST for frames in relaxations.values())
    if 2 * short >= len(relaxations):
        sys.exit(
            f"{short} of {len(relaxations)} relaxations in {source} have fewer than {FEWEST}"
            " frames, too few to cut in time: take whole trajectories, not frames drawn from many"
        )
    folder.mkdir(parents=True, exist_ok=True)
    train, test = [], []
    for frames in relaxations.values():
        frames.sort(key=lambda atoms: int(atoms.info.get("frame", 0)))
        for k, atoms in enumerate(frames):
            time = k / len(frames)
            middle = MIDDLE[0] <= time < MIDDLE[1]
            if middle or time >= END:
                atoms.info["part"] = "middle" if middle else "end"
                test.append(atoms)
            else:
                train.append(atoms)
    for name, part in (("train", train), ("test", test)):
        write_frames(folder / f"{name}.extxyz", part)
        print(f"{name}: {len(part)} frames of {len(relaxations)} relaxations")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except ForceNetError as error:
        sys.exit(f"error: {error}")
