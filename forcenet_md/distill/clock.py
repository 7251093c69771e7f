"""How much of the budget is used, over all sittings."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forcenet_md.writing import write_text

SAVE_EVERY = 10.0  # s: a process that is killed forgets at most so much


class Clock:
    """Seconds spent in stages, kept in a file.

    path: of the file; budget: seconds of all stages together
    """

    def __init__(self, path: Path, budget: float) -> None:
        self.path, self.budget = path, budget
        self.spent: dict[str, float] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        self._stage, self._since, self._saved = "", 0.0, 0.0

    @property
    def used(self) -> float:
        self.tick()
        return sum(self.spent.values())

    @property
    def left(self) -> float:
        return max(0.0, self.budget - self.used)

    def tick(self) -> None:
        """Count the time until now; to be called often while a stage lasts."""
        if not self._stage:
            return
        now = time.monotonic()
        self.spent[self._stage] = self.spent.get(self._stage, 0.0) + now - self._since
        self._since = now
        if now - self._saved > SAVE_EVERY:
            self._save()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time spent within counts for `name`."""
        self._stage, self._since = name, time.monotonic()
        try:
            yield
        finally:
            self.tick()
            self._stage = ""
            self._save()

    def forget(self) -> None:
        """Nothing was spent."""
        self.spent = {}
        self.path.unlink(missing_ok=True)

    def _save(self) -> None:
        self._saved = time.monotonic()
        write_text(self.path, json.dumps(self.spent, indent=1))


def words(seconds: float) -> str:
    """'1 h 05 min', '12 min', '3 min 20 s' or '40 s'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if round(seconds) < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
