"""Checkpoints: everything a run needs to go on as if it had not stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from forcenet_md.errors import DataError

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write whole or not at all: an interrupted write leaves the older checkpoint.

    Raises DataError when it cannot be written (disk full, no permission).
    """
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"format": FORMAT, **state}, part)
        os.replace(part, path)
    # torch reports a full disk as a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"the checkpoint {path} cannot be written ({str(error).splitlines()[0]}): free some"
            " space or give another folder=…; the checkpoint before it is whole."
        ) from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Raises DataError when the file is missing, damaged or of another format."""
    if not path.is_file():
        raise DataError(f"there is no checkpoint {path}: train first, or mend the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"{path} is no checkpoint of this package ({error}).") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise DataError(f"{path} is a checkpoint of another version: train again.")
    return state
