"""What the user asked to be recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forcenet_md.errors import RequestError
from forcenet_md.recording.frame import Precision

if TYPE_CHECKING:
    from forcenet_md.recording.recorder import Recorder


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """path: of the recording, None without one; every: steps from one frame to the next"""

    path: Path | None = None
    every: int = 10
    precision: Precision = "full"

    def __post_init__(self) -> None:
        """Raises RequestError."""
        if self.every < 1:
            raise RequestError(f"every {self.every} steps is no frame: record every 1 or more.")

    def make(self, say: Callable[[str], None], alone: str = "") -> Recorder | None:
        """None where nothing is recorded; say, alone: see `Recorder`.

        Raises DataError for a path that cannot be recorded at.
        """
        if self.path is None:
            return None
        from forcenet_md.recording.recorder import Recorder  # imports h5py

        return Recorder(self.path, self.every, self.precision, say, alone)
