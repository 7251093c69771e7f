"""New figures in the card of a model file; its program and weights stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forcenet_md.artifact import archive
from forcenet_md.artifact.card import Card, make_card
from forcenet_md.errors import ModelFileError


def update_card(path: str | Path, fields: dict[str, Any], sha256: str | None = None) -> Card:
    """Put fields in place of those in a file's card, as {"test_errors": …}; returns the new card.

    sha256: of the model the figures are of. Written whole or not at all. The card's sha256 is over
    everything but the card, so it stays, and a pin (`--sha256`) still fits; the bytes of the file,
    and a hash over all of them, change.

    Raises ModelFileError when the file is damaged or foreign, another model, write-protected, or
    cannot be written, or a field is wrong.
    """
    target = Path(path).resolve()  # a link stays one
    found = archive.read(target)
    if sha256 is not None and found.card.sha256 != sha256:
        raise ModelFileError(
            f"{path} is another model than the one the figures are of (sha256 {sha256}): it was"
            " replaced meanwhile; evaluate it again."
        )
    check_writable(target)
    mode = target.stat().st_mode & 0o777
    card = make_card(found.card.model_dump() | fields)
    card = archive.write(target, found.members, card)
    target.chmod(mode)
    return card


def check_writable(path: Path) -> None:
    """Raises ModelFileError for a file whose owner has taken the right to write from it."""
    if not path.stat().st_mode & 0o222:
        raise ModelFileError(
            f"{path} is write-protected and keeps its card: copy the file, or allow writing with"
            f" 'chmod u+w {path}'."
        )
