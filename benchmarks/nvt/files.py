"""The folder of one comparison: what it was made with, and what it starts from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ase import Atoms
from ase.io import read

from forcenet_md.data.frames import read_frames
from forcenet_md.errors import DataError
from forcenet_md.writing import write_text


def check_same(path: Path, settings: Mapping[str, object]) -> None:
    """Write what a part of the folder is made with, or see that it has not changed.

    Raises DataError with the name of the setting that differs.
    """
    asked = json.loads(json.dumps(settings))
    if path.is_file():
        made = json.loads(path.read_text("utf-8"))
        changed = sorted(key for key in made.keys() | asked if made.get(key) != asked.get(key))
        if changed:
            key = changed[0]
            raise DataError(
                f"{path.parent} was made with another {key} ({made.get(key)}, not"
                f" {asked.get(key)}): give it again, or another --out."
            )
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(settings, indent=1) + "\n")


def read_start(path: Path, repeat: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    """The last structure of a file, so many times. Raises DataError where g(r) is not for it."""
    atoms = read_frames(path)[-1]
    if not atoms.pbc.all() or atoms.constraints:
        raise DataError(
            f"{path} is not periodic in all directions, or holds atoms: give a bulk structure."
        )
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True) * repeat


def read_segment(path: Path) -> list[Atoms]:
    """As `write_frames` left it, with momenta."""
    return list(read(path, index=":"))
