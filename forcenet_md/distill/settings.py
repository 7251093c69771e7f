"""What a distillation was asked for; it can only go on with the same."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from forcenet_md.errors import DataError
from forcenet_md.writing import write_text

VERSION = 2  # of what the folder holds; only the same can be gone on with
# May change from one sitting to the next.
FREE = ("budget", "error", "workers", "structure", "timeout")
NAMES = {
    "structure_sha256": "structure",
    "low": "temperature",
    "high": "temperature",
    "base": "config",
    "overrides": "key=value",
}
# Of the trainings, and not for the user: what each is given by the distillation.
OWN = {
    "seed": "members differ by it, and --seed sets that of all",
    "folder": "--out sets it",
    "output": "--out sets it",
    "data": "it learns from its teacher's frames",
    "data.train": "it learns from its teacher's frames",
    "data.validation": "it watches its teacher's frames",
    "data.validation_fraction": "it watches its teacher's frames",
    "data.test": "it is tested on its teacher's frames",
    "training": "the time is planned from --budget",
    "training.seconds": "the time is planned from --budget",
    "training.initial": "each round goes on from the one before",
}
LENGTHS = ("training.steps", "training.epochs")
SECONDS = {"d": 86400.0, "h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0}


class Settings(BaseModel):
    """One distillation.

    structure: the file it starts from; teacher: as of `forcenet-md label`; elements: of a LAMMPS
    teacher's types; low, high: K; budget: seconds; timestep: fs, of all dynamics; error: on the
    test frames, of the mean force, that ends the rounds; members: of the committee; workers:
    processes; atoms: small cells are repeated to at most so many; base: configuration of the
    trainings, overrides: key=value over it; floor: a repulsion is kept under the network
    (models/floor.py); timeout: seconds a label may take (see `Plan.timeout`)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    structure: Path
    structure_sha256: str
    teacher: str
    elements: tuple[str, ...] = ()
    low: float
    high: float
    budget: float
    timestep: float
    error: float = 0.05
    members: int = 2
    workers: int = 1
    atoms: int = 128
    base: str = "small"
    overrides: tuple[str, ...] = ()
    floor: bool = False
    seed: int = 1
    timeout: float | None = None

    def check(self, folder: Path) -> None:
        """Raises DataError when the folder holds another distillation."""
        if not self.written(folder):
            return
        before = Settings.read(folder).model_dump()
        ours = self.model_dump()
        different = [key for key in ours if before[key] != ours[key] and key not in FREE]
        if different:
            names = dict.fromkeys(NAMES.get(key, key) for key in different)
            raise DataError(
                f"{folder} holds a distillation with another {', '.join(names)}: give that of"
                " before to go on with it, or another --out."
            )

    @staticmethod
    def written(folder: Path) -> bool:
        """Does the folder hold a distillation?"""
        return (folder / "settings.json").is_file()

    def write(self, folder: Path) -> None:
        tree = {"version": VERSION, **self.model_dump(mode="json")}
        write_text(folder / "settings.json", json.dumps(tree, indent=1))

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Raises DataError for a damaged file, or one of another version of the folder."""
        path = folder / "settings.json"
        try:
            tree = dict(json.loads(path.read_bytes()))
            version = tree.pop("version", 1)
            if version == VERSION:
                return cls.model_validate(tree)
        except (OSError, ValueError, TypeError):
            raise DataError(f"{path} is damaged: give another --out.") from None
        raise DataError(
            f"{folder} holds a distillation by another version of forcenet-md: end it with that"
            " one, or give another --out."
        )


def check_overrides(overrides: Sequence[str]) -> list[str]:
    """Warnings for key=value of the trainings. Raises DataError where the distillation itself sets
    the key."""
    keys = [override.partition("=")[0] for override in overrides]
    for key in keys:
        if key in OWN:
            raise DataError(f"{key} is set by the distillation ({OWN[key]}): leave it away.")
    return [
        f"{key} takes the place of the planned time of every training: the budget may not be kept."
        for key in keys
        if key in LENGTHS
    ]


def parse_budget(text: str) -> float:
    """Seconds of '2h', '90min', '1h30min' or '45s'. Raises DataError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)(?![a-z])", text)
    whole = re.sub(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)(?![a-z])", "", text).strip()
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if whole or seconds <= 0.0:
        raise DataError(f"the budget '{text}' is no time: write 2h, 90min or 1h30min.")
    return seconds


def parse_temperatures(text: str) -> tuple[float, float]:
    """Lowest and highest of '300-1200', or of '600', in K. Raises DataError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:[-–]\s*(\d+(?:\.\d+)?))?\s*K?\s*", text)
    if match is None:
        raise DataError(f"the temperature '{text}' is no range in K: write 300-1200.")
    low = float(match[1])
    high = float(match[2] or low)
    if low <= 0.0:
        raise DataError("nothing moves at 0 K: give temperatures above it, as 300-1200.")
    if high < low:
        raise DataError(f"the range {text} is upside down: write {match[2]}-{match[1]}.")
    return low, high
