"""Figures as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from forcenet_md.errors import DataError


def save_figure(figure: Figure, path: str | Path) -> None:
    """As PNG or SVG, as the path ends, drawn without a display. Raises DataError."""
    FigureCanvasAgg(figure)
    # The same figure is the same file on another day.
    undated = {"Date": None} if Path(path).suffix == ".svg" else None
    try:
        figure.savefig(path, dpi=150, metadata=undated)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}): make room or give another path."
        ) from None
