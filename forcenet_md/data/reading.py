"""Frames from what others have written, one after another, by what a path holds.

The formats are read by ASE and dpdata; here a file is only cut into frames, so that a long one is
never in memory whole, and a fault is told with the number of its frame.
"""

from __future__ import annotations

import io
import itertools
import logging
import lzma
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.db import connect
from ase.io.extxyz import read_xyz
from ase.io.formats import UnknownFileTypeError, filetype

from forcenet_md.data.deepmd import is_deepmd, read_deepmd
from forcenet_md.data.lammps_files import is_data, read_data, read_dump
from forcenet_md.data.source import COMPRESSED, CUT, CutShort, Options, check_size, open_text
from forcenet_md.data.vasp import BY_VASP, with_convergence
from forcenet_md.errors import DataError

log = logging.getLogger(__name__)

XYZ = (".xyz", ".extxyz")
DUMP = (".lammpstrj", ".dump")
DATABASE = (".db", ".json")
BY_ASE = (".traj",)
VASP = ("OUTCAR", "vasprun.xml")
PAGE = 500  # rows of a database read at a time


def find_sources(path: Path) -> list[Path]:
    """What is to be read: a file as it is; of a folder every file or DeePMD folder below it that
    is known by its name, in alphabetical order.

    Of a VASP run with OUTCAR and vasprun.xml the latter alone. Raises DataError when there is
    nothing to read.
    """
    if not path.exists():
        raise DataError(f"there is no file or folder {path}: give the path of structures.")
    if not path.is_dir():
        return [path]
    found = list(_below(path))
    if not found:
        raise DataError(
            f"the folder {path} holds nothing that is known by its name: extended XYZ, ASE"
            " databases and trajectories, OUTCAR or vasprun.xml, DeePMD folders, LAMMPS dumps"
            " (.dump, .lammpstrj); give the files by name."
        )
    return found


def read_source(path: Path, options: Options | None = None) -> Iterator[Atoms]:
    """The frames of one file or DeePMD folder in order, with their labels where they have some.

    Raises DataError, with the number of the frame, where it cannot be read further.
    """
    options = options or Options()
    number = 0
    try:
        for atoms in _reader(path)(path, options):
            yield atoms
            number += 1
    except DataError as error:
        kind = CutShort if isinstance(error, CutShort) else DataError
        raise kind(f"frame {number} of {path}: {error}") from None
    except MemoryError:
        raise DataError(
            f"frame {number} of {path} does not fit into memory: leave it out, or use a machine"
            " with more."
        ) from None
    except UnknownFileTypeError:
        raise DataError(
            f"ASE cannot tell the format of {path}: give it the ending of its format, as .extxyz."
        ) from None
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{path} cannot be read ({error.strerror}): give a file.") from None
        log.debug("reading %s", path, exc_info=True)
        raise DataError(
            f"frame {number} of {path} cannot be read ({_short(error)}): the file is damaged or cut"
            " short there, or of another format than its name says."
        ) from None


def _below(folder: Path) -> Iterator[Path]:
    if is_deepmd(folder):
        yield folder
        return
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    names = {p.name for p in entries}
    for entry in entries:
        if entry.is_dir():
            yield from _below(entry)
        elif _known(entry) and not (_plain(entry) == "OUTCAR" and "vasprun.xml" in names):
            yield entry


def _plain(path: Path) -> str:
    """The name without the ending of a compression."""
    return path.stem if path.suffix in COMPRESSED else path.name


def _known(path: Path) -> bool:
    name = _plain(path)
    if path.suffix == ".json":
        return _starts(path, '{"1":')  # as ASE begins a database
    return name in VASP or Path(name).suffix in (*XYZ, *DUMP, *DATABASE, *BY_ASE)


def _reader(path: Path) -> Callable[[Path, Options], Iterator[Atoms]]:
    if path.is_dir():
        return lambda path, options: read_deepmd(path, options.elements)
    suffix = Path(_plain(path)).suffix
    if suffix in XYZ:
        return _read_xyz
    if suffix in DUMP or _starts(path, "ITEM:"):
        return read_dump
    if is_data(path):
        return read_data
    return _read_database if suffix in DATABASE else _read_by_ase


def _starts(path: Path, word: str) -> bool:
    try:
        with open_text(path) as file:
            return file.read(len(word)) == word
    except (OSError, EOFError, lzma.LZMAError):
        return False  # whoever reads it will say so


def _read_xyz(path: Path, options: Options) -> Iterator[Atoms]:
    names = _oc20_names(path)
    with open_text(path) as file:
        for line in file:
            if not line.strip():
                if file.read().strip():
                    raise DataError("there is an empty line where a number of atoms should be.")
                return
            n = int(line)
            check_size(n, options.max_atoms)
            text = [line, *itertools.islice(file, n + 1)]
            if len(text) < n + 2 or (not text[-1].endswith("\n") and _cut(text)):
                raise CutShort(CUT)
            (atoms,) = read_xyz(io.StringIO("".join(text)), index=slice(None))
            if names is not None:
                atoms.info.update(next(names))
            yield atoms


def _cut(text: list[str]) -> bool:
    """The last line has no end and is shorter than the one before: a number may be cut."""
    last = text[-1]
    return not last.endswith("\n") and len(text) > 3 and len(last) < len(text[-2].rstrip())


def _oc20_names(path: Path) -> Iterator[dict[str, Any]] | None:
    """Columns from the text file that OC20 publishes beside an extended XYZ, a line a frame:
    `system_id,frame_number,reference_energy`. Frames of one system id are one relaxation."""
    name = _plain(path)
    if not name.endswith(".extxyz"):
        return None
    stem = name.removesuffix(".extxyz")
    beside = (path.with_name(f"{stem}.txt{ending}") for ending in ("", *COMPRESSED))
    text = next((p for p in beside if p.is_file()), None)
    if text is None:
        return None
    with open_text(text) as file:
        if file.readline().count(",") != 2:
            return None
    return _oc20_lines(text)


def _oc20_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open_text(path) as file:
        for line in file:
            try:
                sid, frame, reference = line.strip().split(",")
                number = int(frame.removeprefix("frame"))
                yield {"sid": sid, "frame": number, "reference_energy": float(reference)}
            except ValueError:
                raise DataError(
                    f"its line in {path} is not 'system_id,frame_number,reference_energy': take"
                    " the pair of files as it was published."
                ) from None
    raise DataError(f"{path} has no line for it: take the pair of files as it was published.")


def _read_database(path: Path, options: Options) -> Iterator[Atoms]:
    if not path.is_file():
        raise DataError("there is no such file.")
    with connect(path) as database:
        last = 0
        while True:  # by pages: a query of all rows has them all in memory
            rows = list(database.select(f"id>{last}", sort="id", limit=PAGE))
            for row in rows:
                check_size(row.natoms, options.max_atoms)
                atoms = row.toatoms()
                atoms.info.update(row.key_value_pairs)
                yield atoms
            if len(rows) < PAGE:
                return
            last = rows[-1].id


def _read_by_ase(path: Path, options: Options) -> Iterator[Atoms]:
    frames = ase.io.iread(path, index=":")
    if (kind := filetype(str(path))) in BY_VASP:
        frames = with_convergence(frames, kind, partial(open_text, path))
    for atoms in frames:
        check_size(len(atoms), options.max_atoms)
        yield atoms


def _short(error: Exception) -> str:
    kind, text = type(error).__name__, str(error).partition("\n")[0]
    return f"{kind}: {text[:100]}" if text else kind
