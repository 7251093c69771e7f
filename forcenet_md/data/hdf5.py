"""Reading a store: HDF5 with a row an atom, a row a frame, and offsets that tie them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import h5py
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcenet_md.data.labelled import Labelled, to_atoms
from forcenet_md.data.manifest import Manifest
from forcenet_md.errors import DataError

FORMAT = "forcenet-md frames"
VERSION = 1

# Packed rows: a frame is one read of `atoms` and one of `frames`, whatever it holds.
ATOM = np.dtype(
    [
        ("number", "<i2"),
        ("fixed", "u1"),
        ("tag", "i1"),
        ("position", "<f8", (3,)),
        ("force", "<f8", (3,)),
    ]
)
FRAME = np.dtype(
    [("cell", "<f8", (3, 3)), ("pbc", "u1", (3,)), ("energy", "<f8"), ("stress", "<f8", (3, 3))]
)


# What h5py raises where bytes are wrong; and of text or a manifest that is none.
DAMAGED = (OSError, KeyError, RuntimeError, ValueError)


class Store:
    """Labelled frames on disk, read one by one.

    Only offsets are kept in memory, and the columns that were asked for. The file is opened at
    first use in each process, so a Store goes through fork, spawn and pickling.
    Raises DataError: no file, no store, cut short or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._owner = 0
        self._datasets: dict[str, tuple[h5py.Dataset, bool]] = {}
        self._columns: dict[str, NDArray[Any]] = {}
        self._version: tuple[int, ...] | None = None
        self._offsets: NDArray[np.int64] = self._read("offsets", slice(None))
        self.manifest, self.columns = self._read_head()
        self.close()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """[n_frames]"""
        return np.diff(self._offsets)

    def frame(self, i: int) -> Labelled:
        """Raises DataError when the file is damaged there; IndexError outside the store."""
        row = range(len(self))[i]
        atoms = self._read("atoms", slice(*self._offsets[row : row + 2].tolist()), row)
        frame = self._read("frames", slice(row, row + 1), row)[0]
        stress = np.ascontiguousarray(frame["stress"])
        return Labelled(
            numbers=atoms["number"].astype(np.int64),
            positions=np.ascontiguousarray(atoms["position"]),
            cell=np.ascontiguousarray(frame["cell"]),
            pbc=frame["pbc"].astype(bool),
            forces=np.ascontiguousarray(atoms["force"]),
            energy=None if np.isnan(frame["energy"]) else float(frame["energy"]),
            stress=None if np.isnan(stress).any() else stress,
            fixed=atoms["fixed"].astype(bool),
            tags=atoms["tag"].astype(np.int8),
        )

    def atoms(self, i: int) -> Atoms:
        """With a SinglePointCalculator, arrays fixed and tags where known, and the columns."""
        row = range(len(self))[i]
        values = {name: self.value(name, row) for name in self.columns}
        info = {name: v for name, v in values.items() if v != "" and v == v}
        return to_atoms(self.frame(row), info)

    def column(self, name: str) -> NDArray[Any]:
        """[n_frames] strings ("" where missing) or floats (NaN where missing).

        Raises DataError, with the columns there are, for another name.
        """
        if name not in self._columns:
            self.check_column(name)
            self._columns[name] = self._read(column_path(name), slice(None))
        return self._columns[name]

    def check_column(self, name: str) -> None:
        """Raises DataError when there is no such column."""
        if name not in self.columns:
            raise DataError(
                f"{self.path} has no column '{name}': there are {', '.join(self.columns)}."
            )

    def close(self) -> None:
        """It is opened again when it is used."""
        if self._file is not None and self._owner == os.getpid():
            self._file.close()
        self._file = None
        self._datasets = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_datasets": {}, "_columns": {}}

    def value(self, name: str, row: int) -> str | float:
        """One row of a column, without reading the others."""
        if name in self._columns:
            return self._columns[name].tolist()[row]
        return self._read(column_path(name), slice(row, row + 1), row).tolist()[0]

    def _open(self) -> h5py.File:
        # A file that was open before a fork is the parent's; this process opens its own.
        if self._file is None or self._owner != os.getpid():
            self._file = _open_file(self.path)
            self._owner = os.getpid()
            self._check_same()
            self._datasets = {}
        return self._file

    def _check_same(self) -> None:
        """The offsets are those of the file as it was: of another one they give parts of frames."""
        found = self.path.stat()
        version = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._version not in (None, version):
            self.close()
            raise DataError(f"{self.path} was replaced while it was in use: begin again.")
        self._version = version

    def _read(self, name: str, rows: slice, frame: int | None = None) -> Any:
        where = str(self.path) if frame is None else f"frame {frame} of {self.path}"
        try:
            data, words = self._dataset(name)
            if words:
                return np.array([v.decode() for v in data[rows]], dtype=object)
            return data[rows]
        except DAMAGED:
            raise DataError(
                f"{where} cannot be read, the store is damaged: compile it again from its sources."
            ) from None

    def _dataset(self, name: str) -> tuple[h5py.Dataset, bool]:
        """Looked up once: h5py takes longer to find it than to read a frame from it."""
        file = self._open()
        if name not in self._datasets:
            data = file[name]
            self._datasets[name] = data, data.dtype.kind == "O"
        return self._datasets[name]

    def _read_head(self) -> tuple[Manifest, tuple[str, ...]]:
        """The manifest, and the names of the columns in alphabetical order."""
        try:
            file = self._open()
            columns = tuple(sorted(unquote(name) for name in file["columns"]))
            return Manifest.model_validate_json(file["manifest"][()]), columns
        except DAMAGED:
            raise DataError(
                f"the manifest of {self.path} cannot be read, the store is damaged or of another"
                " version: compile it again from its sources."
            ) from None


def column_path(column: str) -> str:
    """A name may hold any sign, also those HDF5 gives a meaning."""
    return f"columns/{quote(column, safe='')}"


def is_store(path: Path) -> bool:
    """By its ending; what is inside is checked when it is opened."""
    return path.suffix.lower() in (".h5", ".hdf5")


def _open_file(path: Path) -> h5py.File:
    if not path.is_file():
        raise DataError(f"there is no file {path}: give the path of labelled structures.")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        if error.errno is not None:
            raise DataError(
                f"{path} cannot be read ({os.strerror(error.errno)}): make it readable, or compile"
                " it again from its sources."
            ) from None
        what = "it is cut short" if "truncated" in str(error) else "it is damaged, or no HDF5 file"
        raise DataError(
            f"{path} cannot be read as a store, {what}: compile it again from its sources with"
            " 'forcenet-md data compile'."
        ) from None
    if file.attrs.get("format") != FORMAT or file.attrs.get("version") != VERSION:
        file.close()
        raise DataError(
            f"{path} is no store of this version: make one with 'forcenet-md data compile'."
        )
    return file
