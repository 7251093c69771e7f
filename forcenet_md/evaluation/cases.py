"""Labelled frames, read one at a time, as the evaluator is asked and judged by them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forcenet_md.data.compiling import Progress, open_data
from forcenet_md.data.store import Frames
from forcenet_md.errors import DataError
from forcenet_md.system import System

MAX_VALUES = 1000  # of a column that figures are told apart by


@dataclass(frozen=True, slots=True)
class Case:
    """A labelled frame.

    row: its number among all frames (from 0). forces: [n_atoms, 3] eV/Å. energy: eV or None.
    fixed: [n_atoms] bool, atoms that were held; False where nothing said so.
    """

    row: int
    system: System
    forces: NDArray[np.float64]
    energy: float | None
    fixed: NDArray[np.bool_]


class Cases:
    """The frames of an evaluation; sources: what they are called in the result."""

    def __init__(self, frames: Frames, sources: Sequence[str]) -> None:
        self._frames = frames
        self.sources = tuple(sources)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, row: int) -> Case:
        """Reads the frame. Raises DataError when the file is damaged there."""
        frame = self._frames[row]
        system = System(frame.positions, frame.numbers, frame.cell, frame.pbc)
        return Case(row, system, frame.forces, frame.energy, frame.fixed)

    @property
    def remarks(self) -> list[str]:
        """What was strange about the data when it was compiled."""
        return [line for store in self._frames.stores for line in store.manifest.remarks]

    def name(self, row: int) -> str:
        """Where a frame was read, as `frame 12 of data.extxyz`."""
        return self._frames.name(row)

    def groups(self, column: str) -> tuple[list[str], NDArray[np.int64]]:
        """The values of a column in order, as text ('' where a frame has none), and the number in
        that list of each frame's value. Raises DataError for a column that makes no groups."""
        values, number = np.unique(self._frames.column(column), return_inverse=True)
        if len(values) > MAX_VALUES:
            raise DataError(
                f"column '{column}' has {len(values)} values: use one that puts frames into groups"
                f" (at most {MAX_VALUES})."
            )
        return [_text(value) for value in values.tolist()], number.astype(np.int64)

    def batches(self, rows: NDArray[np.int64], max_atoms: int) -> Iterator[list[Case]]:
        """The cases of some rows, put together until there are max_atoms atoms."""
        batch: list[Case] = []
        n_atoms = 0
        for row in rows.tolist():
            batch.append(self[row])
            n_atoms += batch[-1].system.n_atoms
            if n_atoms >= max_atoms:
                yield batch
                batch, n_atoms = [], 0
        if batch:
            yield batch


@contextmanager
def open_cases(sources: Sequence[Path], progress: Progress | None = None) -> Iterator[Cases]:
    """The frames of stores, read from where they are; other files are first compiled into stores
    in a temporary folder, which goes with the block. progress: as of `compile_store`.

    Raises DataError.
    """
    with tempfile.TemporaryDirectory(prefix="forcenet-evaluate-") as folder:
        frames = Frames(open_data(sources, folder, progress))
        try:
            yield Cases(frames, [str(source) for source in sources])
        finally:
            frames.close()


def evenly(n: int, limit: int | None) -> NDArray[np.int64]:
    """At most limit of the numbers 0…n-1, evenly spread."""
    if limit is None or limit >= n:
        return np.arange(n)
    return (np.arange(limit) * n) // limit


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if value != value:
        return ""
    return f"{value:.0f}" if value.is_integer() else f"{value:.12g}"
