"""What has been relaxed so far, on disk, so that a run that ends in any way is gone on with.

An SQLite file, which a killed process leaves whole: the structures that have ended, as extended
XYZ, and the states of those under way, of which each save replaces the one before (a file that is
only appended to, as labelling has it, would grow without bound).
"""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ase import Atoms
from ase.io import read

from forcenet_md.data.frames import as_text
from forcenet_md.errors import DataError
from forcenet_md.relaxation.course import Course
from forcenet_md.writing import replacing

SAVE_EVERY = 5.0  # s
SHARE = 0.05  # of the time may go into saving
TABLES = """
CREATE TABLE IF NOT EXISTS header (line TEXT);
CREATE TABLE IF NOT EXISTS ended
    (number INTEGER PRIMARY KEY, ending TEXT, reason TEXT, steps INTEGER, frame BLOB);
CREATE TABLE IF NOT EXISTS under_way (number INTEGER PRIMARY KEY, state BLOB);
CREATE TABLE IF NOT EXISTS contacts (number INTEGER PRIMARY KEY, words TEXT);
"""


class Ended(NamedTuple):
    """A structure that has ended, as `Course` has it."""

    number: int
    ending: str
    reason: str
    steps: int
    atoms: Atoms


class PartFile:
    """Saved to while relaxing; `finish` makes the output of it. To be closed by `with`.

    path: None keeps it in memory, for a run that nothing goes on from
    header: what must be the same to go on: structures, model, settings
    Raises DataError for a file of another run, one that another process has, and what cannot be
    written.
    """

    def __init__(self, path: Path | None, header: dict[str, Any]) -> None:
        self.path = path
        self._ended: list[Course] = []  # since the last save
        self._due = time.monotonic() + SAVE_EVERY
        with self._sentences():
            self._file = sqlite3.connect(path or ":memory:", timeout=0.0)
            try:
                self._open(header)
            except BaseException:
                self._file.close()
                raise

    def _open(self, header: dict[str, Any]) -> None:
        self._file.execute("PRAGMA locking_mode = EXCLUSIVE")  # as long as it is open
        self._file.execute("BEGIN IMMEDIATE")
        self._file.commit()
        self._file.executescript(TABLES)
        found = self._file.execute("SELECT line FROM header").fetchone()
        if found is None:
            with self._file:
                self._file.execute("INSERT INTO header VALUES (?)", (json.dumps(header),))
            return
        other = json.loads(found[0])
        if differing := [key for key in header if other.get(key) != header[key]]:
            raise DataError(
                f"{self.path} is of another run, with other {', '.join(differing)}: give another"
                " --out, or remove it to begin again."
            )

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            begun = "SELECT number FROM ended UNION ALL SELECT number FROM under_way LIMIT 1"
            empty = self._file.execute(begun).fetchone() is None
        except sqlite3.Error:  # closed by `finish`, or damaged
            return
        finally:
            self._file.close()
        if empty and self.path:
            self.path.unlink(missing_ok=True)  # nothing to go on with

    @property
    def numbers(self) -> set[int]:
        """Of the structures that have ended."""
        saved = {row[0] for row in self._file.execute("SELECT number FROM ended")}
        return saved | {course.number for course in self._ended}

    def endings(self) -> Counter[str]:
        """How often each ending came, after a save."""
        return Counter(row[0] for row in self._file.execute("SELECT ending FROM ended"))

    def first_reason(self, ending: str) -> tuple[int, str] | None:
        """The number of the first structure with this ending, and the reason, after a save."""
        found = "SELECT number, reason FROM ended WHERE ending = ? ORDER BY number"
        return self._file.execute(found, (ending,)).fetchone()

    def contacts(self) -> list[tuple[int, str]]:
        """The numbers of structures that ended with a `Course.contact`, and what, after a save."""
        return self._file.execute("SELECT number, words FROM contacts ORDER BY number").fetchall()

    def ended(self) -> Iterator[Ended]:
        """In the order of their numbers, after a save; positions to the 8 digits of the output."""
        asked = "SELECT number, ending, reason, steps, frame FROM ended ORDER BY number"
        for number, ending, reason, steps, frame in self._file.execute(asked):
            atoms = read(io.StringIO(frame.decode()), format="extxyz")
            assert isinstance(atoms, Atoms)
            yield Ended(number, ending, reason, steps, atoms)

    def state(self, number: int) -> bytes | None:
        """Of a structure that was under way at the last save."""
        asked = self._file.execute("SELECT state FROM under_way WHERE number = ?", (number,))
        found = asked.fetchone()
        return None if found is None else found[0]

    def add(self, ended: Iterable[Course], under_way: Sequence[Course]) -> None:
        """After every round; saved every few seconds."""
        self._ended += ended
        if time.monotonic() > self._due:
            self.save(under_way)

    def save(self, under_way: Sequence[Course] = ()) -> None:
        """Everything, now. Raises DataError.

        under_way: of a round that was broken off some may have ended, and those that have made no
            step are not worth it
        """
        begun = time.monotonic()
        moving = [course for course in under_way if not course.ending and course.steps]
        self._ended += [course for course in under_way if course.ending]
        with self._sentences(), self._file:
            self._file.executemany(
                "INSERT INTO ended VALUES (?, ?, ?, ?, ?)",
                [(c.number, c.ending, c.reason, c.steps, as_text(c.result())) for c in self._ended],
            )
            self._file.executemany(
                "INSERT INTO contacts VALUES (?, ?)",
                [(c.number, c.contact) for c in self._ended if c.contact],
            )
            self._file.executemany(
                "DELETE FROM under_way WHERE number = ?", [(c.number,) for c in self._ended]
            )
            self._file.executemany(
                "INSERT OR REPLACE INTO under_way VALUES (?, ?)",
                ((c.number, c.state()) for c in moving),
            )
        self._ended = []
        now = time.monotonic()
        self._due = now + max(SAVE_EVERY, (now - begun) / SHARE)

    def finish(self, out: Path) -> None:
        """Write the relaxed structures in their order, whole or not at all, and remove this file.

        Raises DataError.
        """
        try:
            with replacing(out) as copy:
                for (frame,) in self._file.execute("SELECT frame FROM ended ORDER BY number"):
                    copy.write(frame)
        except OSError as error:
            raise DataError(
                f"{out} cannot be written ({error.strerror}): make room and give the same"
                " command again; nothing is lost."
            ) from None
        self._file.close()
        if self.path:
            self.path.unlink()

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            if "locked" in str(error):
                raise DataError(
                    f"{self.path} is being written by another run: wait for its end."
                ) from None
            if isinstance(error, sqlite3.OperationalError):  # no room, no right
                raise DataError(
                    f"{self.path} cannot be written ({error}): make room, or give an --out in a"
                    " folder that can be written to."
                ) from None
            raise DataError(
                f"{self.path} is no file of a relaxation, or damaged ({error}): give another"
                " --out, or remove it to begin again."
            ) from None
