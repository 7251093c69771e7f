"""Folders for one program at a time."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from forcenet_md.errors import DataError
from forcenet_md.locking import locked


def test_a_folder_has_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with (
        locked(folder, "run"),
        pytest.raises(DataError, match=f"another run is at work in {folder}: wait for it"),
        locked(folder, "run"),
    ):
        pass
    with locked(folder, "run"):
        pass


def test_who_is_patient_waits_for_the_programs_of_the_one_before(tmp_path: Path) -> None:
    with locked(tmp_path, "run") as lock:
        heir = subprocess.Popen(
            [sys.executable, "-c", "input()"], pass_fds=[lock], stdin=subprocess.PIPE
        )
    with pytest.raises(DataError, match="at work"), locked(tmp_path, "run"):
        pass
    heir.communicate(b"\n")
    with locked(tmp_path, "run", patience=30.0):
        pass


def test_a_new_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    new, used = tmp_path / "new", tmp_path / "used"
    with pytest.raises(DataError), locked(new, "run"):
        raise DataError("refused")
    with locked(used, "run"):
        (used / "a").touch()
    with locked(used, "run"):
        (used / "a").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


def test_who_waited_for_a_folder_that_is_removed_makes_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    flock = fcntl.flock

    def late(lock: TextIO, how: int) -> None:
        if folder.exists():  # the one before ends between the opening and the locking
            shutil.rmtree(folder)
            monkeypatch.setattr(fcntl, "flock", flock)
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with (
        locked(folder, "run", patience=30.0),
        pytest.raises(DataError, match="another run is at work"),
        locked(folder, "run"),
    ):
        pass


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(DataError, match=r"cannot be written to .*: give another --out"),
        locked(tmp_path / "file" / "run", "run"),
    ):
        pass
