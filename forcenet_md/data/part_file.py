"""What has been labelled so far, on disk: a run that ends in any way is gone on with from here.

One header line, then one record for each frame in the order they were done: a line of JSON with
the frame's number and the length and checksum of its text, then the frame as extended XYZ. The
labelled file is made of the same texts in the order of the frames: with and without a stop it is
the same, byte for byte.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ase import Atoms

from forcenet_md.data.frames import as_text
from forcenet_md.errors import DataError
from forcenet_md.writing import replacing

Place = tuple[int, int]  # where the text of a frame begins, and its length
SYNC_EVERY = 1.0  # s; a killed process loses nothing, a power cut at most this


class PartFile:
    """Appended to while labelling; `finish` makes the files of it.

    header: what must be the same to go on: the structures, the teacher, the versions
    resume: go on where a part file is; else one that is there is refused
    Raises DataError for a part file of another run and for what cannot be written.
    """

    def __init__(self, path: Path, header: dict[str, Any], resume: bool) -> None:
        self.path = path
        self.labelled: dict[int, Place] = {}
        self.failed: dict[int, Place] = {}
        if path.exists() and not resume:
            raise DataError(
                f"{path} is there, of a run that was stopped: go on with it by --resume, or remove"
                " it to begin again."
            )
        self._file = _opened(path)  # and locked for as long as it is open
        self._synced = 0.0
        try:
            line = json.dumps(header, sort_keys=True).encode() + b"\n"
            found = self._file.readline()
            if not found.endswith(b"\n"):  # new, or stopped before its first line was whole
                self._file.seek(0)
                self._file.truncate()
                self._write(line)
            else:
                _check_header(path, found, header)
                self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if not self.done:
            self.path.unlink(missing_ok=True)  # nothing to go on with

    @property
    def done(self) -> set[int]:
        """Numbers of the frames that are through, labelled or failed."""
        return self.labelled.keys() | self.failed.keys()

    def add(self, number: int, atoms: Atoms, failed: bool = False) -> None:
        """Keep a frame: labelled, or failed with its reason in `info`. Raises DataError."""
        text = as_text(atoms)
        record = {"frame": number, "failed": failed, "bytes": len(text), "crc": zlib.crc32(text)}
        line = json.dumps(record).encode() + b"\n"
        start = self._write(line + text)
        (self.failed if failed else self.labelled)[number] = (start + len(line), len(text))
        if time.monotonic() > self._synced + SYNC_EVERY:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def finish(self, out: Path, failed: Path) -> None:
        """Write both files, whole or not at all, and remove this one. Raises DataError."""
        for path, places in ((out, self.labelled), (failed, self.failed)):
            if places:
                self._copy(path, places)
            elif path == failed:
                path.unlink(missing_ok=True)  # of an earlier run
        self.path.unlink()

    def _copy(self, path: Path, places: dict[int, Place]) -> None:
        try:
            with replacing(path) as copy:
                for number in sorted(places):
                    start, length = places[number]
                    self._file.seek(start)
                    copy.write(self._file.read(length))
        except OSError as error:
            raise _unwritable(path, error) from None

    def _read(self) -> None:
        """Find the whole records; what was cut off in the midst is taken away."""
        end = self._file.tell()
        while line := self._file.readline():
            try:
                record = json.loads(line)
                text = self._file.read(record["bytes"])
                whole = len(text) == record["bytes"] and zlib.crc32(text) == record["crc"]
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                break
            places = self.failed if record["failed"] else self.labelled
            places[record["frame"]] = (end + len(line), len(text))
            end = self._file.tell()
        self._file.seek(end)
        self._file.truncate()

    def _write(self, data: bytes) -> int:
        """Append; where it begins. What a full disk has cut off is taken away again."""
        start = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), start)
            raise _unwritable(self.path, error) from None
        return start


def _opened(path: Path) -> IO[bytes]:
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except BlockingIOError:
        file.close()
        raise DataError(f"{path} is being written by another run: wait for its end.") from None
    except OSError as error:
        raise _unwritable(path, error) from None


def _check_header(path: Path, found: bytes, header: dict[str, Any]) -> None:
    try:
        other = json.loads(found)
        differing = [key for key in header if other.get(key) != header[key]]
    except (ValueError, AttributeError):
        differing = ["everything"]
    if differing:
        raise DataError(
            f"{path} is of another run, with other {', '.join(differing)}: give another --out, or"
            " remove it to begin again."
        )


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be written ({error.strerror}): make room or give another path, then go on"
        " with --resume."
    )
