"""Writing a store frame by frame; memory holds a chunk of frames, whatever their number."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from ase import Atoms

from forcenet_md.data.frames import check_output, composition
from forcenet_md.data.hdf5 import ATOM, FORMAT, FRAME, VERSION, column_path
from forcenet_md.data.labelled import Labelled, from_atoms
from forcenet_md.data.survey import Survey
from forcenet_md.errors import DataError
from forcenet_md.writing import put

FLUSH_ATOMS = 20_000
FLUSH_FRAMES = 2_000
CHUNK_ATOMS = 512
CHUNK_FRAMES = 256
MAX_COLUMNS = 200  # a file that has more makes a new name for every frame
SOURCE, SOURCE_FRAME = "source", "source_frame"
COMPOSITION, LARGEST_FORCE = "composition", "largest_force"
TEXT = h5py.string_dtype()


class StoreWriter:
    """A store that is written whole or not at all: `NAME.PID.part` until the block ends well.

    Columns `composition` and `largest_force` (eV/Å) are added to those of the frames' info, and
    `source` and `source_frame` where they are told; the manifest says which of the frames' own
    columns they took the place of.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.survey = Survey()
        self._part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        self._frames: list[Labelled] = []
        self._infos: list[dict[str, Any]] = []
        self._atoms = 0  # waiting
        self._written = 0  # frames on disk
        self._end = 0  # atoms on disk

    def __enter__(self) -> Self:
        check_output(self.path)
        self._file = h5py.File(self._part, "w", libver="latest", locking=False)
        self._file.attrs.update(format=FORMAT, version=VERSION)
        self._file.create_group("columns")
        options: Any = {"fletcher32": True}  # a flipped bit is an error, not a force
        self._file.create_dataset(
            "atoms", (0,), ATOM, chunks=(CHUNK_ATOMS,), maxshape=(None,), **options
        )
        self._file.create_dataset(
            "frames", (0,), FRAME, chunks=(CHUNK_FRAMES,), maxshape=(None,), **options
        )
        self._file.create_dataset(
            "offsets", (1,), "<i8", chunks=(4096,), maxshape=(None,), **options
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                self._file.close()
        except OSError as fault:
            raise DataError(
                f"{self.path} cannot be written ({fault}): make room or give another path."
            ) from None
        finally:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)

    def append(self, atoms: Atoms, source: str = "", number: int | None = None) -> Labelled:
        """Add a frame, and give it as it is stored.

        source, number: where it was read, if that is not what its own columns say.
        Raises DataError when it has no usable labels; the store goes on without it then.
        """
        frame = from_atoms(atoms)
        info = dict(atoms.info)
        added: dict[str, Any] = {
            COMPOSITION: composition(atoms),
            LARGEST_FORCE: frame.largest_force,
            **({SOURCE: source} if source else {}),
            **({SOURCE_FRAME: number} if number is not None else {}),
        }
        replaced = {name for name in added if name in info and not _same(info[name], added[name])}
        self.survey.replaced_columns |= replaced
        info |= added
        self.survey.add(frame, info)
        self._frames.append(frame)
        self._infos.append(info)
        self._atoms += len(frame.numbers)
        if self._atoms >= FLUSH_ATOMS or len(self._frames) >= FLUSH_FRAMES:
            try:
                self._flush()
            except OSError as error:
                raise DataError(
                    f"{self.path} cannot be written ({error}): make room or give another path."
                ) from None
        return frame

    def _finish(self) -> None:
        self._flush()
        columns = {name: kind for name, (_, kind) in sorted(self._known_columns().items())}
        manifest = self.survey.manifest(columns)
        self._file.create_dataset("manifest", data=manifest.model_dump_json(), dtype=TEXT)
        self._file.close()
        put(self._part, self.path)

    def _flush(self) -> None:
        if not self._frames:
            return
        n, total = len(self._frames), self._end + self._atoms
        atoms = np.empty(self._atoms, dtype=ATOM)
        frames = np.empty(n, dtype=FRAME)
        sizes = [len(frame.numbers) for frame in self._frames]
        for name, field in (
            ("number", "numbers"),
            ("fixed", "fixed"),
            ("tag", "tags"),
            ("position", "positions"),
            ("force", "forces"),
        ):
            atoms[name] = np.concatenate([getattr(frame, field) for frame in self._frames])
        frames["cell"] = [frame.cell for frame in self._frames]
        frames["pbc"] = [frame.pbc for frame in self._frames]
        frames["energy"] = [np.nan if f.energy is None else f.energy for f in self._frames]
        nothing = np.full((3, 3), np.nan)
        frames["stress"] = [nothing if f.stress is None else f.stress for f in self._frames]
        _append(self._file["atoms"], atoms)
        _append(self._file["frames"], frames)
        _append(self._file["offsets"], self._end + np.cumsum(sizes))
        self._flush_columns(n)
        self._written += n
        self._end = total
        self._frames, self._infos, self._atoms = [], [], 0

    def _flush_columns(self, n: int) -> None:
        """Rows of every column; one that is new has empty rows before."""
        known = self._known_columns()
        for name in {name: None for info in self._infos for name in info}:
            values = [_value(info.get(name)) for info in self._infos]
            text = any(isinstance(v, str) for v in values)
            if not text and all(v is None for v in values):
                if name not in known:
                    self.survey.skipped_columns.add(name)
                continue
            if name not in known:
                if len(known) >= MAX_COLUMNS:
                    self.survey.skipped_columns.add(name)
                    continue
                known[name] = self._new_column(name, text)
            elif text and known[name][1] == "number":
                known[name] = self._as_text(name)
            data, kind = known[name]
            if kind == "text":
                rows: Any = [_text(v) for v in values]
            else:
                rows = np.array([np.nan if v is None else v for v in values], dtype=float)
            data.resize((self._written + n,))
            data[self._written :] = rows
        for data, _ in known.values():
            data.resize((self._written + n,))  # filled with what is empty

    def _known_columns(self) -> dict[str, tuple[h5py.Dataset, str]]:
        return {
            data.attrs["name"]: (data, "text" if data.dtype.kind == "O" else "number")
            for data in self._file["columns"].values()
        }

    def _new_column(self, name: str, text: bool) -> tuple[h5py.Dataset, str]:
        data = self._file.create_dataset(
            column_path(name),
            (self._written,),
            TEXT if text else "<f8",
            chunks=(4096,),
            maxshape=(None,),
            fillvalue=None if text else np.nan,
        )
        data.attrs["name"] = name
        return data, "text" if text else "number"

    def _as_text(self, name: str) -> tuple[h5py.Dataset, str]:
        """A column of numbers in which a word has come up becomes one of words."""
        numbers = self._file[column_path(name)]
        self._file.move(column_path(name), "old")
        words, kind = self._new_column(name, text=True)
        for first in range(0, self._written, FLUSH_FRAMES):
            part = numbers[first : min(first + FLUSH_FRAMES, self._written)]
            words[first : first + len(part)] = [_text(v) for v in part.tolist()]
        del self._file["old"]
        return words, kind


def _append(data: h5py.Dataset, rows: Any) -> None:
    start = len(data)
    data.resize((start + len(rows),))
    data[start:] = rows


def _value(value: object) -> str | float | None:
    """What a column holds of a value of info: words and numbers, nothing larger."""
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return str(value)
    return None


def _same(theirs: object, ours: object) -> bool:
    """To the digits that files have."""
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return bool(np.isclose(theirs, ours, rtol=1e-4))
    return str(theirs) == str(ours)


def _text(value: str | float | None) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    return str(int(value)) if float(value).is_integer() else repr(value)
