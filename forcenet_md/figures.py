"""Figures as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

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


def tick_few_powers(axis: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis from low to high, also where the powers of ten are few."""
    if high < 100.0 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
