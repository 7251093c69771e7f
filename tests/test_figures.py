"""Figures as files."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from forcenet_md.errors import DataError
from forcenet_md.figures import save_figure


def figure() -> Figure:
    drawn = Figure(figsize=(2.0, 1.0))
    drawn.subplots().plot([0, 1], [0, 1])
    return drawn


def test_the_ending_says_what_is_written(tmp_path: Path) -> None:
    save_figure(figure(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with rc_context({"svg.hashsalt": "forcenet-md"}):
        save_figure(figure(), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text.rstrip().endswith("</svg>")
    assert "dc:date" not in text  # the same figure is the same file tomorrow


def test_a_figure_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.svg cannot be written .* give another path"):
        save_figure(figure(), tmp_path / "none" / "a.svg")
