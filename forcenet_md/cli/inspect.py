"""`forcenet-md inspect m.pt`: what a model can do, read without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    model: Annotated[str, typer.Argument(help="Model file, or the name of a shipped model.")],
    json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Print a model file's card. Its hash is checked; nothing in it is run."""
    from forcenet_md.artifact.archive import read
    from forcenet_md.artifact.find import model_path

    path = model_path(model)
    card = read(path).card
    if json:
        print(card.model_dump_json(indent=2))
        return
    _print(path, card.model_dump())


def _print(path: Path, card: dict[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{path}", show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    # What a model is for, and not for, is in its notes.
    for key, value in {"name": None, "notes": None, **card}.items():
        # Text, not markup: a card is data.
        table.add_row(key.replace("_", " "), Text("\n".join(_lines(value)) or "none stated"))
    Console().print(table)


def _lines(value: object) -> list[str]:
    """A card's value in words; a dictionary takes a line for each of its entries."""
    if isinstance(value, dict):
        lines: list[str] = []
        for key, entry in value.items():
            inner = _lines(entry)
            if isinstance(entry, dict) and any(isinstance(e, dict) for e in entry.values()):
                lines += [f"{key}:", *(f"  {line}" for line in inner)]
            else:
                lines.append(f"{key}: {', '.join(inner)}")
        return lines
    if isinstance(value, list):
        return [" ".join(str(v) for v in value)]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return ["none" if value is None else str(value)]
