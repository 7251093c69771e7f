"""Labelled frames, one at a time, with what the figures are told apart by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from numpy.typing import NDArray

from forcenet_md.data.frames import forces_of, read_frames
from forcenet_md.errors import DataError, StructureError
from forcenet_md.system import System

MAX_VALUES = 1000  # of a column that figures are told apart by


@dataclass(frozen=True, slots=True)
class Case:
    """A labelled frame.

    source, frame: file and number in it (from 0). forces: [n_atoms, 3] eV/Å. energy: eV or None.
    fixed: [n_atoms] bool, atoms that were held; False where nothing said so.
    """

    source: str
    frame: int
    system: System
    forces: NDArray[np.float64]
    energy: float | None
    fixed: NDArray[np.bool_]


class Cases(Protocol):
    """Labelled frames that are read when they are asked for."""

    sources: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Case: ...

    def column(self, name: str) -> list[str]:
        """What each frame says under a name, as text; '' where it says nothing. Raises DataError
        for a name that no frame has."""


class AtomsCases:
    """Frames that are in memory."""

    def __init__(self, frames: Sequence[Atoms], names: Sequence[tuple[str, int]]) -> None:
        """names: (source, number in it) of each frame."""
        self._frames = frames
        self._names = names
        self.sources = tuple(dict.fromkeys(source for source, _ in names))

    @classmethod
    def read(cls, paths: Sequence[Path]) -> AtomsCases:
        """Raises DataError for a file that cannot be read or has a frame without labels."""
        frames: list[Atoms] = []
        names: list[tuple[str, int]] = []
        for path in paths:
            found = read_frames(path, labelled=True)
            frames += found
            names += [(str(path), k) for k in range(len(found))]
        return cls(frames, names)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, i: int) -> Case:
        source, frame = self._names[i]
        atoms = self._frames[i]
        energy = atoms.calc.results.get("energy") if atoms.calc else None
        try:
            system = System.from_ase(atoms)
            forces = forces_of(atoms)
        except (StructureError, DataError) as error:
            raise DataError(f"frame {frame} of {source}: {error}") from None
        return Case(
            source, frame, system, forces, None if energy is None else float(energy), held(atoms)
        )

    def column(self, name: str) -> list[str]:
        if not any(name in atoms.info for atoms in self._frames):
            known = sorted({key for atoms in self._frames for key in atoms.info})
            raise _no_column(name, known)
        return [text(atoms.info[name]) if name in atoms.info else "" for atoms in self._frames]


def held(atoms: Atoms) -> NDArray[np.bool_]:
    """[n_atoms] bool: the array `fixed`, and what FixAtoms and a full FixCartesian hold."""
    fixed = np.zeros(len(atoms), dtype=bool)
    if "fixed" in atoms.arrays:
        fixed |= np.asarray(atoms.arrays["fixed"]).reshape(len(atoms)).astype(bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms) or (
            isinstance(constraint, FixCartesian) and np.all(constraint.mask)
        ):
            fixed[constraint.index] = True
    return fixed


def values_of(cases: Cases, column: str, rows: NDArray[np.int64]) -> tuple[list[str], list[int]]:
    """The distinct values of a column in the rows, in order (numbers by size), and the number
    (in that list) of each row's value. Raises DataError for a column with no groups."""
    found = cases.column(column)
    values = sorted({found[i] for i in rows}, key=_order)
    if len(values) > MAX_VALUES:
        raise DataError(
            f"column '{column}' has {len(values)} values: use one that puts frames into groups"
            f" (at most {MAX_VALUES})."
        )
    number = {value: k for k, value in enumerate(values)}
    return values, [number[found[i]] for i in rows]


def evenly(n: int, limit: int | None) -> NDArray[np.int64]:
    """At most limit of the numbers 0…n-1, evenly spread."""
    if limit is None or limit >= n:
        return np.arange(n)
    return (np.arange(limit) * n) // limit


def batches(
    cases: Cases, rows: NDArray[np.int64], max_atoms: int
) -> Iterator[list[tuple[int, Case]]]:
    """(place in rows, case), read and put together until a batch has max_atoms atoms."""
    batch: list[tuple[int, Case]] = []
    for k, i in enumerate(rows):
        batch.append((k, cases[int(i)]))
        if sum(case.system.n_atoms for _, case in batch) >= max_atoms:
            yield batch
            batch = []
    if batch:
        yield batch


def text(value: object) -> str:
    """A value of a column as text: numbers in short form."""
    value = value.item() if isinstance(value, np.generic) else value
    return f"{value:g}" if isinstance(value, float) else str(value)


def _order(value: str) -> tuple[bool, float, str]:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    return (True, 0.0, value) if isnan(number) else (False, number, value)


def _no_column(name: str, known: Sequence[str]) -> DataError:
    has = f"they have {', '.join(known)}" if known else "they have no columns"
    return DataError(f"the frames have no column '{name}' to tell figures apart by: {has}.")
