"""Files that are written whole or not at all, under names that need no quoting."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from ase.io.formats import open_with_compression

from forcenet_md.errors import DataError


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: an older file stays until the new one is complete. Raises DataError."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """All files or none; their folders are made. Raises DataError."""
    parts = {path: _new(path) for path in texts}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            parts[path].write_text(text, encoding="utf-8")
        for path, part in parts.items():
            part.replace(path)
    except OSError as error:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink()
        names = " and ".join(map(str, texts))
        raise DataError(
            f"{names} cannot be written ({error.strerror}): make room or give another path."
        ) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` at the end of the block, compressed as its name ends;
    after a fault it is gone. Raises OSError."""
    target = path.resolve()  # a link stays one
    part = _new(target)
    try:
        with open_with_compression(str(part), "wb") as file:
            yield file
        put(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def part_of(out: Path) -> Path:
    """Where a run keeps what it has reached, for the same command to go on: the whole name of its
    output and `.part`, so that no two outputs share it."""
    return out.with_name(f"{out.name}.part")


def _new(path: Path) -> Path:
    """What takes the place of `path` once it is whole, of the same ending: no name of `part_of`."""
    return path.with_name(f"{path.stem}.new{path.suffix}")


def put(part: Path, path: Path) -> None:
    """Put a written file into the place of another, safe on the disk first. Raises OSError."""
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.replace(path.resolve())


def plain_name(text: str, otherwise: str) -> str:
    """Letters, digits, points, dashes and underscores of a text, for files and cards; `otherwise`
    where none is left."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip("-.") or otherwise
