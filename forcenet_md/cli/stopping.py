"""What is said of a verb that is stopped while it has nothing to show yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def said_if_stopped(before: str) -> Iterator[None]:
    """Say so when Ctrl-C or SIGTERM comes meanwhile: loading what is needed takes seconds."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        typer.echo(f"stopped before {before}", err=True)
        raise
