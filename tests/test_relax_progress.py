"""What `forcenet-md relax` shows while it works."""

from __future__ import annotations

import re
import sys
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest
from relaxing import crystals
from rich import console
from rich.progress import Progress

import forcenet_md.cli.relax  # noqa: F401
from forcenet_md.cli.main import build_app
from forcenet_md.data.frames import write_frames

N = 4


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Of structures that end one after another, each after three evaluations."""
    write_frames(tmp_path / "in.extxyz", crystals(N))
    given = ["relax", str(tmp_path / "in.extxyz"), "-m", "ase:emt", "-o", str(tmp_path / "out.xyz")]
    return [*given, "--batch-atoms", "1", "--steps", "2", "--fmax", "0"]


def counts(pattern: str, said: str) -> list[int]:
    """In turn, each once as long as it stays."""
    return [count for count, _ in groupby(map(int, re.findall(pattern, said)))]


def test_the_bar_counts_structures_that_have_ended(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = Progress.update

    def drawn(self: Progress, *arguments: object, **values: object) -> None:
        update(self, *arguments, **values)  # type: ignore[arg-type]
        self.refresh()  # each state, not those of every tenth of a second

    monkeypatch.setattr(Progress, "update", drawn)
    terminal = partial(console.Console, force_terminal=True, width=100)
    monkeypatch.setattr(console, "Console", terminal)
    with pytest.raises(SystemExit):
        build_app()(command)
    said = capsys.readouterr().err
    assert counts(rf"(\d+)/{N}", said) == list(range(N + 1))
    assert "steps/s" in said


def test_elsewhere_lines_count_them(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["forcenet_md.cli.relax"], "SAY_EVERY", -1.0)
    with pytest.raises(SystemExit):
        build_app()(command)
    said = capsys.readouterr().err
    assert counts(rf"relaxing: (\d+) of {N}, \d+ steps/s", said) == list(range(N + 1))
