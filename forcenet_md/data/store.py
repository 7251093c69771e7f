"""The training set: stores on disk, opened as one sequence of labelled frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from forcenet_md.data.compiling import compile_store, open_data
from forcenet_md.data.hdf5 import Store
from forcenet_md.data.labelled import Labelled
from forcenet_md.data.writer import SOURCE, SOURCE_FRAME, StoreWriter
from forcenet_md.errors import DataError

__all__ = ["Frames", "Labelled", "Store", "StoreWriter", "compile_store", "open_data"]


class Frames(Sequence[Labelled]):
    """Several stores, or some of their rows, as one.

    rows: numbers of frames in the stores laid end to end, in the order wanted; all if None
    """

    def __init__(self, stores: Sequence[Store], rows: ArrayLike | None = None) -> None:
        self.stores = list(stores)
        sizes = [len(store) for store in self.stores]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        total = int(self._starts[-1])
        self.rows: NDArray[np.int64] = (
            np.arange(total) if rows is None else np.asarray(rows, dtype=np.int64).reshape(-1)
        )
        if len(self.rows) and not (self.rows.min() >= 0 and self.rows.max() < total):
            raise DataError(f"a row of a subset is outside the {total} frames of the stores.")
        self._columns: dict[str, NDArray[Any]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> Labelled: ...
    @overload
    def __getitem__(self, i: slice) -> Frames: ...
    def __getitem__(self, i: int | slice) -> Labelled | Frames:
        """One frame, or a subset by slice. Raises DataError when the file is damaged there."""
        if isinstance(i, slice):
            return Frames(self.stores, self.rows[i])
        store, row = self._find(i)
        return store.frame(row)

    def atoms(self, i: int) -> Atoms:
        """The frame as of `Store.atoms`."""
        store, row = self._find(i)
        return store.atoms(row)

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """[n_frames]"""
        if not self.stores:
            return np.zeros(0, dtype=np.int64)
        return np.concatenate([store.n_atoms for store in self.stores])[self.rows]

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that at least one store has."""
        return tuple(sorted({name for store in self.stores for name in store.columns}))

    def column(self, name: str) -> NDArray[Any]:
        """[n_frames] as of `Store.column`; where one store has words, all are words.

        Raises DataError, with the columns there are, for another name.
        """
        if name not in self._columns:
            if name not in self.columns:
                known = ", ".join(self.columns) or "none"
                raise DataError(f"the frames have no column '{name}': there are {known}.")
            parts = [
                s.column(name) if name in s.columns else np.full(len(s), np.nan)
                for s in self.stores
            ]
            if any(part.dtype.kind == "O" for part in parts):
                parts = [as_words(part) for part in parts]
            self._columns[name] = np.concatenate(parts)[self.rows]
        return self._columns[name]

    def subset(self, rows: ArrayLike) -> Frames:
        """Some of these frames. rows: their numbers here, or a mask."""
        return Frames(self.stores, self.rows[np.asarray(rows)])

    def name(self, i: int) -> str:
        """What a frame is called in messages: where it was read, as far as that is known."""
        store, row = self._find(i)
        if SOURCE in store.columns and SOURCE_FRAME in store.columns:
            source, number = store.value(SOURCE, row), store.value(SOURCE_FRAME, row)
            if source != "" and number == number:
                return f"frame {number:.0f} of {source}"
        return f"frame {row} of {store.path}"

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same frames in the same order, wherever their files lie: of what was
        read, of what was found in it, and of the rows; no frame is read."""
        found = [
            (
                store.manifest.model_dump(include={"frames", "atoms", "forces"}),
                [source.sha256 for source in store.manifest.sources],
            )
            for store in self.stores
        ]
        hashed = hashlib.sha256(json.dumps(found).encode())
        hashed.update(np.ascontiguousarray(self.rows).data)
        return hashed.hexdigest()

    def close(self) -> None:
        """Close the files; they are opened again when they are used."""
        for store in self.stores:
            store.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_columns": {}}

    def _find(self, i: int) -> tuple[Store, int]:
        row = int(self.rows[i])
        k = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.stores[k], row - int(self._starts[k])


def as_words(values: NDArray[Any]) -> NDArray[Any]:
    """A column of numbers as one of words: whole numbers without a point, "" for NaN."""
    if values.dtype.kind == "O":
        return values
    words = ["" if v != v else f"{v:.0f}" if v.is_integer() else repr(v) for v in values.tolist()]
    return np.array(words, dtype=object)
