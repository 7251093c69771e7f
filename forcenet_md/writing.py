"""Text files that are written whole or not at all, under names that need no quoting."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from forcenet_md.errors import DataError


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: an older file stays until the new one is complete. Raises DataError."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """All files or none; their folders are made. Raises DataError."""
    parts = {path: path.with_name(path.name + ".part") for path in texts}
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


def plain_name(text: str, otherwise: str) -> str:
    """Letters, digits, points, dashes and underscores of a text, for files and cards; `otherwise`
    where none is left."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip("-.") or otherwise
