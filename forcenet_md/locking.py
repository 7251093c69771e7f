"""A folder for one program at a time."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forcenet_md.errors import DataError


@contextmanager
def locked(folder: Path, what: str, patience: float = 0.0, option: str = "--out") -> Iterator[int]:
    """The folder, made if need be, for this one alone; gives the lock's file descriptor, which
    programs that write into the folder inherit and so hold as long as they run.

    what: is at work there, and option: names the folder, for messages; patience: s, for another
    one to end
    Raises DataError when another one is at work, and for a folder that cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written to ({error.strerror}): give another {option}."
        ) from None
    with lock:
        begun = time.monotonic()
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - begun >= patience:
                    raise DataError(
                        f"another {what} is at work in {folder}: wait for it, or give another"
                        f" {option}."
                    ) from None
                time.sleep(0.2)
        yield lock.fileno()
