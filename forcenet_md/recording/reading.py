"""What a recording says of itself, read from its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import DataError
from forcenet_md.recording.frame import VECTORS, Particles
from forcenet_md.recording.layout import FORMAT, OURS, REMOVED, Head, Part


@dataclass(frozen=True, slots=True)
class Opened:
    """A file of ours: its head, and what the next frames go on from.

    virtual: it is an index
    positions: [n_atoms, 3] of the last frame, as they are kept
    """

    head: Head
    part: Part
    virtual: bool
    step: int
    time: float
    run: int
    positions: NDArray[np.floating]


def read(path: Path) -> Opened:
    """Raises DataError for what is not ours."""
    try:
        with h5py.File(path, "r") as file:
            ours = dict(file[OURS].attrs)
            if ours["format"] != FORMAT:
                raise DataError(
                    f"{path} was recorded by another version of forcenet-md: give another --record."
                )
            everything = file["particles/all"]
            box = everything["box"]
            particles = Particles(
                everything["species"][()].astype(np.int64),
                everything["id"][()].astype(np.int64) if "id" in everything else None,
                everything["mass"][()] if "mass" in everything else None,
                np.array([kind == "periodic" for kind in box.attrs["boundary"]]),
            )
            position = everything["position/value"]
            part = Part(
                path,
                int(ours["first"]),
                int(ours["last"]),
                len(position),
                tuple(name for name in VECTORS if name in everything),
                tuple(file["observables"]),
            )
            return Opened(
                Head(particles, ours["precision"], bool(ours.get(REMOVED, False))),
                part,
                bool(position.is_virtual),
                int(box["edges/step"][-1]),
                float(box["edges/time"][-1]),
                int(np.nan_to_num(file["observables/run/value"][-1])),
                position[-1],
            )
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        if not path.exists():
            raise DataError(f"{path} does not exist.") from None
        raise DataError(
            f"{path} is not a recording, or is damaged ({type(error).__name__}): give another"
            " --record, or move it away."
        ) from None
