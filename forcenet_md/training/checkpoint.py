"""Checkpoints: everything a run needs to go on as if it had not stopped."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch

from forcenet_md.errors import DataError

FORMAT = 2


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write whole or not at all: an interrupted write leaves the older checkpoint.

    Raises DataError when it cannot be written (disk full, no permission).
    """
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()  # written here, where a fault has a name, and not by torch
        torch.save({"format": FORMAT, **state}, data)
        part.write_bytes(data.getbuffer())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise DataError(
            f"the checkpoint {path} cannot be written ({error.strerror}): free some space or give"
            " another folder=…; the checkpoint before it is whole."
        ) from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Raises DataError when the file is missing, damaged or of another format."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no checkpoint {path}: train first, or mend the path.") from None
    except OSError as error:
        raise DataError(
            f"the checkpoint {path} cannot be read ({error.strerror}): give another path."
        ) from None
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:
        raise DataError(
            f"{path} is damaged or no checkpoint: give the checkpoint.pt of a run of"
            " 'forcenet-md train'."
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise DataError(f"{path} is a checkpoint of another version: train again.")
    return state
