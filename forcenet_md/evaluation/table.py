"""What an evaluation found, as a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from forcenet_md.evaluation.errors import COSINE_FLOOR, THRESHOLD, Figures
from forcenet_md.evaluation.result import Evaluation

HEADER = ("", "atoms", "MAE", "RMSE", "mean |F|", "MAE/|F|", "cosine", "Δ|F|", "within")
MAX_ROWS = 30  # of one column in a table; the JSON has them all


def rows_of(result: Evaluation) -> Iterator[tuple[str, Figures | None]]:
    """(name, figures) in the order of a table; a heading has no figures."""
    yield "all atoms", result.all
    if result.free and result.held:
        yield "free atoms", result.free
        yield "held atoms", result.held
    yield "by element", None
    yield from result.by_element.items()
    for column, groups in result.by.items():
        yield f"by {column}", None
        yield from list(groups.items())[:MAX_ROWS]


def cells(figures: Figures | None) -> list[str]:
    """The figures of a row of the table, eV/Å."""
    if figures is None:
        return [""] * (len(HEADER) - 1)
    lengths = (figures.mae, figures.rmse, figures.mean_abs_force)
    return [
        str(figures.n_atoms),
        *(_number(value) for value in lengths),
        _relative(figures.relative),
        "–" if figures.cosine is None else f"{figures.cosine:.4f}",
        _number(figures.magnitude_error),
        f"{100 * figures.within:.1f} %",
    ]


def _number(value: float) -> str:
    return f"{value:.4f}" if value < 100.0 else f"{value:.3g}"


def _relative(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if value < 10.0 else "> 10 ×"


def print_result(result: Evaluation, console: Console) -> None:
    """The table and what stands around it."""
    table = Table(title=title(result), title_justify="left", box=None, padding=(0, 1, 0, 0))
    for k, name in enumerate(HEADER):
        table.add_column(name, justify="right" if k else "left", min_width=0 if k else 16)
    for name, figures in rows_of(result):
        table.add_row(Text(name), *cells(figures))
    console.print(table)
    for line in remarks(result):
        console.print(Text(line), soft_wrap=True)


def title(result: Evaluation) -> str:
    data = result.data
    return f"{result.model.name}: {data.n_frames} frames, {data.n_atoms} atoms (eV/Å)"


def remarks(result: Evaluation) -> Iterator[str]:
    """Sentences for a person: what the figures are over, and the figures that are not a row."""
    data, model = result.data, result.model
    if not result.complete:
        yield (
            f"INTERRUPTED: the figures are over the first {data.n_frames} of {data.n_asked} frames."
        )
    elif data.n_asked < data.n_available:
        yield f"{data.n_asked} of {data.n_available} frames, evenly spread."
    for column, groups in result.by.items():
        if len(groups) > MAX_ROWS:
            yield f"The first {MAX_ROWS} of {len(groups)} values of {column}; the JSON has all."
    if data.refused.n_frames:
        yield (
            f"{data.refused.n_frames} frames are NOT in the figures, as the model has no forces"
            f" for them; the first: {data.refused.first[0]}"
        )
    yield (
        f"MAE, RMSE, mean |F|: over components. Cosine: over atoms with |F| ≥ {COSINE_FLOOR} eV/Å."
        " Δ|F|: error of a force's length. Within: atoms with every component within"
        f" {THRESHOLD} eV/Å. Computed in {model.dtype}."
    )
    if result.held and not result.free:
        yield (
            "Every atom of these frames is held: all figures are of atoms that do not move, and"
            " tell nothing of free ones."
        )
    elif result.counted == "free":
        yield "By element and by column, and the worst frames: free atoms alone."
    if model.frames > 1:
        yield f"Forces are the mean over {model.frames} frames."
    net = result.net_force
    yield (
        f"Net force: {net.labels} in the labels ({net.label_per_atom:.2g} eV/Å per atom),"
        f" {net.model} in the predictions."
    )
    baseline = result.baseline
    free = "" if baseline.mae_free is None else f", of free atoms {baseline.mae_free:.4f}"
    sampled = "" if baseline.exact else f" (from {baseline.n_sampled} atoms drawn at random)"
    yield f"Baseline, the median of each component: MAE {baseline.mae:.4f} eV/Å{free}{sampled}."
    if result.frames_within is not None:
        what = "free atom" if result.free else "atom"
        yield f"Frames with every {what} within: {100 * result.frames_within:.1f} %."
    if result.spread:
        spread = result.spread
        ranks = "none" if spread.spearman is None else f"{spread.spearman:.2f}"
        tenths = " ".join(_number(tenth.error) for tenth in spread.tenths)
        sampled = "" if spread.exact else f", {spread.n_sampled} atoms drawn at random"
        yield (
            f"Spread of the committee: {_number(spread.mean)} eV/Å beside a mean error of"
            f" {_number(spread.mean_error)} (lengths of vectors{sampled}); rank correlation of the"
            f" two: {ranks}. Mean error of each tenth of the atoms, from the smallest spread to the"
            f" largest: {tenths} eV/Å."
        )
    if result.rotation:
        turn = result.rotation
        about = "z" if turn.axis == "z" else "any axis"
        yield (
            f"Rotation instability: {turn.standard_deviation:.2g} eV/Å (standard deviation over"
            f" {turn.n_rotations} turns about {about}, {turn.n_frames} frames)."
            + (" Of aligned structures: it tells nothing of the network." if model.align else "")
        )
    if result.energy:
        energy = result.energy
        yield (
            f"Energy: MAE {energy.mae:.4g} eV, {1000 * energy.mae_per_atom:.4g} meV per atom, over"
            f" {energy.n_frames} frames."
        )
    for worst in result.worst[:3]:
        yield (
            f"Worst: {worst.name} ({worst.formula}): MAE {worst.mae:.4f}"
            f" eV/Å; atom {worst.atom} ({worst.element}) is off by {worst.max_error:.3f} of"
            f" {worst.max_force:.3f} eV/Å."
        )
