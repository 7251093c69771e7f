"""The report of an evaluation: one HTML page with its pictures inside, and the files beside it."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from forcenet_md.artifact.card import Card
from forcenet_md.errors import DataError
from forcenet_md.evaluation import plots
from forcenet_md.evaluation.result import Evaluation
from forcenet_md.evaluation.spread import spread_and_error
from forcenet_md.evaluation.table import HEADER, cells, remarks, rows_of, title
from forcenet_md.evaluation.totals import Outcome, Picture

DRAWN = 6  # worst structures

STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
td.text { text-align: left; overflow-wrap: anywhere }
img { max-width: 100% }
figure { margin: 1.5em 0 }
.scroll { overflow-x: auto }
"""


def write_report(folder: Path, outcome: Outcome, card: Card | None) -> Path:
    """Write report.html (nothing in it is fetched or run), its pictures and evaluation.json.

    Returns the page. Raises DataError when the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = _draw(folder, outcome)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    write_text(folder / "evaluation.json", outcome.result.model_dump_json(indent=2) + "\n")
    page = folder / "report.html"
    write_text(page, "\n".join(_page(outcome.result, pictures, card)))
    return page


def write_text(path: Path, text: str) -> None:
    """Whole or not at all. Raises DataError."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be written ({error.strerror}): make room or give another path."
    )


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


def _page(
    result: Evaluation, pictures: Sequence[tuple[Path, str]], card: Card | None
) -> Iterator[str]:
    name = escape(title(result))
    yield "<!DOCTYPE html>"
    yield f'<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
    yield f"<style>{STYLE}</style></head><body>"
    yield f"<h1>{name}</h1>"
    yield "<p>Data: " + ", ".join(escape(source) for source in result.data.sources) + "</p>"
    yield from _table(HEADER, ([row, *cells(figures)] for row, figures in rows_of(result)))
    yield "<ul>"
    for line in remarks(result):
        yield f"<li>{escape(line)}</li>"
    yield "</ul>"
    for path, caption in pictures:
        data = base64.b64encode(path.read_bytes()).decode()
        yield f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        yield f"<figcaption>{escape(caption)}</figcaption></figure>"
    if result.spread:
        yield "<h2>Spread and error</h2>"
        yield from _table(
            ("tenth of the atoms, by spread", "mean spread", "mean error"),
            (
                [str(k), f"{tenth.spread:.4f}", f"{tenth.error:.4f}"]
                for k, tenth in enumerate(result.spread.tenths, 1)
            ),
        )
    yield "<h2>Worst frames</h2>"
    yield from _table(
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
    yield f"<p>forcenet-md {escape(result.version)}</p></body></html>"


def _table(header: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield '<div class="scroll"><table><tr>'
    yield "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr>"
    for row in rows:
        if any(row[1:]):
            yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        else:
            yield f'<tr><th colspan="{len(header)}">{escape(row[0])}</th></tr>'
    yield "</table></div>"


def _card(result: Evaluation, card: Card | None) -> Iterator[str]:
    if card is None:
        kind = "a committee" if result.model.committee else "an ASE calculator"
        named = ", ".join([result.model.spec, *result.model.committee])
        yield f"<p>{escape(named)}: {kind} has no card.</p>"
        return
    yield "<table>"
    for key, value in card.model_dump().items():
        shown = escape(_words(value)).replace("\n", "<br>")
        yield f'<tr><td>{escape(key.replace("_", " "))}</td><td class="text">{shown}</td></tr>'
    yield "</table>"


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
