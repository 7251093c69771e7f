"""Structures for the alloy model: sample.py FOLDER [n_frames] [seed].

Writes FOLDER/train.extxyz and FOLDER/test.extxyz, unlabelled: `forcenet-md label` comes next.
"""

from __future__ import annotations

import sys
from pathlib import Path

from forcenet_md.data import alloy
from forcenet_md.data.frames import write_frames
from forcenet_md.data.teachers import LammpsTeacher, open_teacher


def main(folder: Path, n_frames: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open_teacher("zhou2004", alloy.ELEMENTS) as teacher:
        assert isinstance(teacher, LammpsTeacher)
        train = []
        for atoms in alloy.training_structures(teacher.box, n_frames, seed):
            train.append(atoms)
            if len(train) % 500 == 0:
                print(f"{len(train)} training structures", flush=True)
        test = list(alloy.held_out_structures(teacher.box, train, seed + 1))
    write_frames(folder / "train.extxyz", train)
    write_frames(folder / "test.extxyz", test)
    print(f"{len(train)} training and {len(test)} test structures in {folder}")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]) if len(sys.argv) > 2 else 2400,
        int(sys.argv[3]) if len(sys.argv) > 3 else 1,
    )
