"""The rooms of docs/architecture.md: imports run one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import forcenet_md

PACKAGE = Path(forcenet_md.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
EXCEPTION = ("data/teachers.py", "engines")  # as the page says


def rooms() -> dict[str, int]:
    """The row of the table that each room is in."""
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    return {
        name: row
        for row, line in enumerate(rows)
        for name in re.findall(r"`(\w+)(?:/|\.py)`", line.split("|")[1])
    }


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "forcenet_md":
            yield from (f"forcenet_md.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_a_room_imports_from_those_above_it() -> None:
    row = rooms()
    assert {"system", "models", "data", "training", "server", "cli"} <= row.keys()
    upwards = set()
    for file in PACKAGE.rglob("*.py"):
        where = file.relative_to(PACKAGE)
        room = where.parts[0].removesuffix(".py")
        for name in imports(file):
            package, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if package == "forcenet_md" and row.get(other, -1) > row.get(room, len(row)):
                upwards.add((str(where), other))
    assert upwards == {EXCEPTION}
