"""Folders for one program at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(DataError, match=r"cannot be written to .*: give another --out"),
        locked(tmp_path / "file" / "run", "run"),
    ):
        pass
