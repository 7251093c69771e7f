"""One recording on disk: `run.h5`, and its closed segments in `run.h5.parts/` while it grows.

HDF5 files that are cut off while they are written open no more, so nothing that is open for
writing is ever called `run.h5`. Every few seconds a segment is written, whole, and then `run.h5`
is replaced by an index of virtual datasets over all segments: h5py and MDAnalysis open it at any
time, and whatever kills us costs the frames since the last segment alone. At the end `run.h5` is
replaced by a file that holds the frames itself, and the segments go.

Segments are merged by eights, those of eight by eights again, and so on: a reader has each of
them open that it reads from, and a week has a hundred thousand. Those that were merged stay for a
while, for who has opened an older index; of what is missing HDF5 reads NaN.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path

from forcenet_md.errors import DataError
from forcenet_md.recording import h5md
from forcenet_md.recording.frame import Frame, Precision
from forcenet_md.recording.layout import Head, Part
from forcenet_md.recording.reading import Opened, read

TOGETHER = 8  # segments that become one
GRACE = 600.0  # s from a merge to the removal of what was merged
LARGE = 2**30  # bytes of which it is said that they are being merged


class Recording:
    """One file and its segments, appended to by this process alone.

    head: of which atoms it is; None until there is a frame
    """

    def __init__(self, path: Path, folder: Path, precision: Precision) -> None:
        """Raises DataError for a file that is not ours or was made with another precision, and
        for segments that are missing."""
        self.path = path
        self._folder = folder
        self._parts: list[Part] = []
        self.head: Head | None = None
        self._merging: Generator[None] | None = None
        self._merged: list[tuple[float, Part]] = []  # with time.monotonic() of their removal
        self._find(precision)

    def end(self) -> Opened | None:
        """The last file, and the frame that it ends with. Raises DataError."""
        if self._parts:
            return read(self._parts[-1].path)
        return read(self.path) if self.head is not None else None

    def append(self, head: Head, frames: Sequence[Frame]) -> None:
        """Write a segment. Raises OSError; what was there before stays whole."""
        self.head = head = self.head or head
        self._adopt_merged()
        number = self._parts[-1].last + 1 if self._parts else 1
        path = self._named(number, number)
        _write_whole(path, h5md.segment(head, number, frames))
        self._parts.append(read(path).part)
        self._publish()

    def tidy(self) -> bool:
        """Merge some segments, a frame's worth; whether there is more to do. Raises OSError."""
        while self._merged and self._merged[0][0] <= time.monotonic():
            self._remove([self._merged.pop(0)[1]])
        if self._merging is None:
            eight = self._parts[-TOGETHER:]
            if len(eight) < TOGETHER or len({part.span for part in eight}) > 1:
                return False
            self._merging = self._merge(eight)
        try:
            next(self._merging)
        except StopIteration:
            self._merging = None
        return True

    def finish(self, say: Callable[[str], None]) -> None:
        """Make `path` a file that holds all frames itself. Raises OSError; it opens also then."""
        if self._merging is not None:
            self._merging.close()
            self._merging = None
        if not self._parts:
            return
        assert self.head is not None
        size = sum(part.path.stat().st_size for part in self._parts)
        merged = self._unfinished(self.path)
        if len(self._parts) == 1:
            self._parts[0].path.replace(self.path)
        elif shutil.disk_usage(self._folder).free < 1.05 * size:
            say(
                f"{self.path} stays in pieces, for there is no room to merge them: keep"
                f" {self._folder} beside it."
            )
            return
        else:
            if size > LARGE:
                say(f"merging {size / LARGE:.1f} GiB into {self.path}")
            try:
                for _ in h5md.merge(self.head, self._parts, merged):
                    pass
                merged.replace(self.path)
            except BaseException:
                merged.unlink(missing_ok=True)
                raise
        self._remove([*self._parts, *(part for _, part in self._merged)])
        self._parts, self._merged = [], []

    # -------------------------------------------------------------------------------------------

    def _find(self, precision: Precision) -> None:
        """Take up what an earlier run has left, however it ended."""
        for left in self._folder.glob(f"*.{self.path.name}.unfinished"):
            left.unlink(missing_ok=True)
        found = self._segments()
        whole: Opened | None = None
        if self.path.exists():
            whole = read(self.path)
            if not whole.virtual:  # what it holds already was not yet removed
                merged = [part for part in found if part.last <= whole.part.last]
                self._remove(merged)
                found = [part for part in found if part not in merged]
        self._parts = found
        if whole is None and not found:
            return
        first = whole.part.last + 1 if whole is not None and not whole.virtual else 1
        ends = [first - 1, *(part.last for part in found)]
        begins = [part.first for part in found]
        known = whole.part.last if whole is not None else 0
        if [end + 1 for end in ends[:-1]] != begins or ends[-1] < known:
            raise DataError(
                f"{self.path} has lost pieces that belong into {self._folder}: put them back, or"
                " give another --record."
            )
        last = read(found[-1].path) if found else whole
        assert last is not None
        self.head = last.head
        if self.head.precision != precision:
            raise DataError(
                f"{self.path} was recorded with --record-precision {self.head.precision}: go on"
                " with that, or give another --record."
            )
        if found:
            self._adopt_merged()
            self._publish()  # the index may lack the last one

    def _segments(self) -> list[Part]:
        """In order, without those that are merged into others."""
        pattern = re.compile(rf"(\d+)-(\d+)\.{re.escape(self.path.name)}")
        named = []
        for path in self._folder.iterdir() if self._folder.exists() else ():
            if match := pattern.fullmatch(path.name):
                named.append((int(match[1]), -int(match[2]), path))
        found: list[Part] = []
        for first, _, path in sorted(named):
            if found and first <= found[-1].last:
                path.unlink()
            else:
                found.append(read(path).part)
        return found

    def _adopt_merged(self) -> None:
        """Make a `path` that holds its frames itself the first segment."""
        if (self._parts and self._parts[0].first == 1) or not self.path.exists():
            return
        part = read(self.path).part
        first = self._named(part.first, part.last)
        try:
            os.link(self.path, first)
        except OSError:  # a file system without links
            self.path.replace(first)
        self._parts.insert(0, read(first).part)

    def _publish(self) -> None:
        assert self.head is not None
        _write_whole(self.path, h5md.index(self.head, self._parts, self._folder), self._folder)

    def _merge(self, parts: list[Part]) -> Generator[None]:
        assert self.head is not None
        path = self._named(parts[0].first, parts[-1].last)
        unfinished = self._unfinished(path)
        try:
            yield from h5md.merge(self.head, parts, unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        where = self._parts.index(parts[0])
        self._parts[where : where + len(parts)] = [read(path).part]
        self._publish()
        until = time.monotonic() + GRACE
        self._merged += [(until, part) for part in parts]

    def _named(self, first: int, last: int) -> Path:
        return self._folder / f"{first:07d}-{last:07d}.{self.path.name}"

    def _unfinished(self, path: Path) -> Path:
        return self._folder / f"merged.{path.name}.unfinished"

    def _remove(self, parts: Sequence[Part]) -> None:
        for part in parts:
            with suppress(OSError):
                part.path.unlink(missing_ok=True)


def _write_whole(path: Path, data: bytes, folder: Path | None = None) -> None:
    """Under its name when it is complete, and on the disk. Raises OSError."""
    part = (folder or path.parent) / f"written.{path.name}.unfinished"
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
