"""Relaxations that others have computed, of which the two ends count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from numpy.typing import NDArray

from forcenet_md.data.compiling import structures_of
from forcenet_md.data.frames import forces_of
from forcenet_md.data.labelled import fixed_atoms
from forcenet_md.errors import DataError

FRAME = "frame"  # column of OC20's frames: where one is in its relaxation


@dataclass(frozen=True, slots=True)
class Ends:
    """The first and the last structure of one relaxation, and which atoms move in it.

    free: [n_atoms] bool
    """

    name: str
    first: Atoms
    last: Atoms
    free: NDArray[np.bool_]

    @classmethod
    def of(cls, name: str, first: Atoms, last: Atoms) -> Ends:
        """Raises DataError when no atom moves."""
        free = ~fixed_atoms(first)
        if not free.any():
            raise DataError(f"relaxation {name} holds every atom: leave it out.")
        return cls(name, first, last, free)

    def distance(self, atoms: Atoms) -> float:
        """How far the free atoms are from the last structure: mean distance to the nearest image,
        Å."""
        moved, _ = find_mic(atoms.positions - self.last.positions, self.last.cell, self.last.pbc)
        return float(np.linalg.norm(moved[self.free], axis=1).mean())

    def largest_force(self, labelled: Atoms) -> float:
        """The length of the largest force on a free atom, eV/Å. Raises DataError without forces."""
        return float(np.linalg.norm(forces_of(labelled)[self.free], axis=1).max())


def read_ends(sources: Sequence[Path], column: str) -> tuple[list[Ends], int]:
    """The relaxations of some files, in the order in which they begin, and how many more were of
    one frame alone.

    column: tells relaxations apart; without it each file is one. Within one the frames are in the
    order of OC20's column `frame`, or of the file.
    Memory holds two frames of each. Raises DataError.
    """
    found: dict[str, tuple[tuple[float, Atoms], tuple[float, Atoms]]] = {}
    for path, k, atoms in structures_of(sources):
        name = str(atoms.info.get(column, path))
        place = (_place(atoms, k), atoms)
        first, last = found.get(name, (place, place))
        if not np.array_equal(atoms.numbers, first[1].numbers):
            raise DataError(
                f"frame {k} of {path} has other atoms than the relaxation {name} before, or in"
                " another order: give the frames of one relaxation a name of their own (--names"
                " COLUMN), or a file."
            )
        found[name] = (min(first, place, key=_number), max(last, place, key=_number))
    ends = [
        Ends.of(name, first[1], last[1])
        for name, (first, last) in found.items()
        if first[1] is not last[1]
    ]
    if not ends:
        raise DataError(
            "there is no relaxation of two frames or more: give trajectories whose frames have a"
            f" column '{column}' that tells relaxations apart (--names another), or a file for"
            " each."
        )
    return ends, len(found) - len(ends)


def _place(atoms: Atoms, k: int) -> float:
    value = atoms.info.get(FRAME, k)
    return float(value) if isinstance(value, int | float | np.number) else float(k)


def _number(place: tuple[float, Atoms]) -> float:
    return place[0]
