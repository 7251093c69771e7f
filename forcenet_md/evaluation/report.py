"""The report of an evaluation: one HTML page with its pictures inside, and the files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from forcenet_md.artifact.card import Card
from forcenet_md.data.frames import check_output
from forcenet_md.evaluation import plots
from forcenet_md.evaluation.page import embed, page, table
from forcenet_md.evaluation.result import Evaluation
from forcenet_md.evaluation.spread import spread_and_error
from forcenet_md.evaluation.table import HEADER, cells, remarks, rows_of, title
from forcenet_md.evaluation.totals import Outcome, Picture
from forcenet_md.writing import write_text

DRAWN = 6  # worst structures


def write_report(folder: Path, outcome: Outcome, card: Card | None) -> Path:
    """Write report.html (nothing in it is fetched or run), its pictures and evaluation.json.

    Returns the page. Raises DataError when the folder cannot be written to.
    """
    check_output(folder / "report.html")
    pictures = _draw(folder, outcome)
    write_text(folder / "evaluation.json", outcome.result.model_dump_json(indent=2) + "\n")
    path = folder / "report.html"
    body = _body(outcome.result, pictures, card)
    write_text(path, page(title(outcome.result), body, outcome.result.version))
    return path


def _draw(folder: Path, outcome: Outcome) -> list[tuple[Path, str]]:
    """(file, caption) of each picture."""
    rows = outcome.sample.rows
    of_atoms = ""
    if outcome.result.counted == "free":
        rows, of_atoms = rows[rows[:, 7] == 0.0], " Free atoms alone."
    if not outcome.sample.complete:
        of_atoms += f" {len(rows)} atoms, drawn at random."
    drawn: list[tuple[Path, str]] = []
    if len(rows):
        labels, predicted, numbers = rows[:, :3], rows[:, 3:6], rows[:, 6].astype(np.int64)
        errors = np.linalg.norm(predicted - labels, axis=1)
        drawn = [
            (folder / "parity.png", f"The model's force components over the labels'.{of_atoms}"),
            (folder / "errors.png", f"Errors by element.{of_atoms}"),
            (folder / "error-over-force.png", f"Error over the length of the label.{of_atoms}"),
        ]
        plots.plot_parity(drawn[0][0], labels, predicted)
        plots.plot_histograms(drawn[1][0], errors, numbers)
        sizes = np.linalg.norm(labels, axis=1)
        plots.plot_against(drawn[2][0], errors, sizes, "length of the label |F|", "|F|")
    if outcome.result.spread:
        drawn.append((folder / "error-over-spread.png", "Error over the committee's spread."))
        spread, errors = spread_and_error(outcome.sample)
        plots.plot_against(drawn[-1][0], errors, spread, "spread of the committee", "spread")
    if outcome.pictures:
        worst = folder / "worst.png"
        plots.plot_structures(worst, _varied(outcome.pictures)[:DRAWN])
        drawn.append((worst, "Worst frames, one of each formula first, seen from the side."))
    return drawn


def _varied(pictures: Sequence[Picture]) -> list[Picture]:
    """One of each formula first: the worst frames are often neighbours in one trajectory."""
    seen: set[str] = set()
    first: list[Picture] = []
    rest: list[Picture] = []
    for picture in pictures:
        (rest if picture.worst.formula in seen else first).append(picture)
        seen.add(picture.worst.formula)
    return first + rest


def _body(
    result: Evaluation, pictures: Sequence[tuple[Path, str]], card: Card | None
) -> Iterator[str]:
    yield "<p>Data: " + ", ".join(escape(source) for source in result.data.sources) + "</p>"
    yield from table(HEADER, ([row, *cells(figures)] for row, figures in rows_of(result)))
    yield "<ul>"
    for line in remarks(result):
        yield f"<li>{escape(line)}</li>"
    yield "</ul>"
    for path, caption in pictures:
        yield from embed(path, caption)
    if result.spread:
        yield "<h2>Spread and error</h2>"
        yield from table(
            ("tenth of the atoms, by spread", "mean spread", "mean error"),
            (
                [str(k), f"{tenth.spread:.4f}", f"{tenth.error:.4f}"]
                for k, tenth in enumerate(result.spread.tenths, 1)
            ),
        )
    yield "<h2>Worst frames</h2>"
    yield from table(
        ("frame", "atoms", "MAE", "worst atom", "its error", "its |F|"),
        (
            [
                f"{w.name}: {w.formula}",
                str(w.n_atoms),
                f"{w.mae:.4f}",
                f"{w.element} {w.atom}",
                f"{w.max_error:.4f}",
                f"{w.max_force:.4f}",
            ]
            for w in result.worst
        ),
    )
    if result.data.refused.n_frames:
        yield "<h2>Frames without forces</h2><ul>"
        yield from (f"<li>{escape(line)}</li>" for line in result.data.refused.first)
        yield "</ul>"
    yield "<h2>The model's card</h2>"
    yield from _card(result, card)


def _card(result: Evaluation, card: Card | None) -> Iterator[str]:
    if card is None:
        kind = "a committee" if result.model.committee else "an ASE calculator"
        named = ", ".join([result.model.spec, *result.model.committee])
        yield f"<p>{escape(named)}: {kind} has no card.</p>"
        return
    yield '<div class="scroll"><table>'
    for key, value in card.model_dump().items():
        shown = escape(_words(value)).replace("\n", "<br>")
        yield f'<tr><td>{escape(key.replace("_", " "))}</td><td class="text">{shown}</td></tr>'
    yield "</table></div>"


def _words(value: object) -> str:
    """A card's value in words, an entry of a dictionary on each line."""
    if isinstance(value, dict):
        return "\n".join(
            f"{key}: {_words(entry).replace(chr(10), '; ')}" for key, entry in value.items()
        )
    if isinstance(value, list):
        return ", ".join(_words(entry) for entry in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
