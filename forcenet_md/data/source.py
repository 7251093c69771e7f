"""What readers of all formats share: what they are told, and the end of a file amid a frame."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from forcenet_md.errors import DataError

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
CUT = "the file ends within it: it is cut short; leave it out, as `data compile --skip-bad` does."


@dataclass(frozen=True)
class Options:
    """elements: of the atom types, in order, for files that have types alone (LAMMPS dumps,
    DeePMD folders without a type map); max_atoms: a frame with more is refused; units_told: the
    caller converts units, and a file that states its own is refused."""

    elements: tuple[str, ...] = ()
    max_atoms: int = 100_000
    units_told: bool = False


ANY_SIZE = Options(max_atoms=sys.maxsize)


class CutShort(DataError):
    """A frame within which a file ends, as that of a run which goes on or was killed."""


def open_text(path: Path) -> TextIO:
    """A text file, compressed or not. Raises OSError."""
    # Windows' editors begin a file with a mark, which utf-8-sig leaves out.
    return COMPRESSED.get(path.suffix, open)(path, "rt", encoding="utf-8-sig", errors="replace")


def check_size(n: int, limit: int) -> None:
    if n > limit:
        raise DataError(
            f"it has {n} atoms, more than the limit of {limit}: leave it out, or raise"
            " --max-atoms (training takes several kB of memory for each edge of a frame)."
        )
