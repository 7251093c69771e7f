"""What report pages are made of: HTML that fetches and runs nothing, with its pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em; line-height: 1.25 }
h1, p, li { overflow-wrap: anywhere }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
td:first-child { white-space: normal; min-width: 9em; overflow-wrap: anywhere }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere }
img { max-width: max(100%, 40em) }
figure { margin: 1.5em 0 }
.scroll { overflow-x: auto }
"""
# Said to the browser, so that it holds whatever is in the texts of a page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, body: Iterable[str], version: str) -> str:
    """A whole page. title: text; body: HTML; version: of the program that made it"""
    name = escape(title)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}</title><style>{STYLE}</style></head><body><h1>{name}</h1>",
            *body,
            f"<p>forcenet-md {escape(version)}</p></body></html>",
        ]
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of texts; a row whose cells but the first are empty is a heading over those below."""
    yield '<div class="scroll"><table><tr>'
    yield "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr>"
    for row in rows:
        if any(row[1:]):
            yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        else:
            yield f'<tr><th colspan="{len(header)}">{escape(row[0])}</th></tr>'
    yield "</table></div>"


def embed(path: Path, caption: str) -> Iterator[str]:
    """A PNG file as part of the page, with its caption."""
    data = base64.b64encode(path.read_bytes()).decode()
    yield '<figure><div class="scroll">'
    yield f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}"></div>'
    yield f"<figcaption>{escape(caption)}</figcaption></figure>"
