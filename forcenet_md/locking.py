"""A folder for one program at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from forcenet_md.errors import DataError

LOCK = "lock"


@contextmanager
def locked(folder: Path, what: str, patience: float = 0.0, option: str = "--out") -> Iterator[int]:
    """The folder, made if need be, for this one alone; gives the lock's file descriptor, which
    programs that write into the folder inherit and so hold as long as they run. A folder that was
    made and has nothing in it at the end is removed.

    what: is at work there, and option: names the folder, for messages; patience: s, for another
    one to end
    Raises DataError when another one is at work, and for a folder that cannot be written to.
    """
    new = not folder.exists()
    begun = time.monotonic()
    while (lock := _take(folder, option)) is None:
        if time.monotonic() - begun >= patience:
            raise DataError(
                f"another {what} is at work in {folder}: wait for it, or give another {option}."
            )
        time.sleep(0.2)
    with lock:
        try:
            yield lock.fileno()
        finally:
            if new and folder.is_dir() and os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()


def _take(folder: Path, option: str) -> TextIO | None:
    """The lock, open, or None where another one has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written to ({error.strerror}): give another {option}."
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock.fileno()).st_nlink:  # else it was removed meanwhile, with its folder
            return lock
    except BlockingIOError:
        pass
    lock.close()
    return None
