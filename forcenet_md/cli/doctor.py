"""`forcenet-md doctor`: what is built, found and usable here, and what to do about the rest."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Look at this installation; exits with 1 if LAMMPS cannot be served as it stands."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from forcenet_md.engines.health import examine

    findings = list(examine())
    table = Table(show_header=False, box=None)
    for overflow in ("crop", "crop", "fold"):
        table.add_column(overflow=overflow)
    for finding in findings:
        sign = {True: Text("ok", "green"), False: Text("no", "red"), None: Text("--")}
        table.add_row(sign[finding.usable], Text(finding.subject), Text(finding.what))
    Console().print(table)

    faults = [finding for finding in findings if finding.usable is False]
    for finding in faults:
        typer.echo(f"{finding.subject}: {finding.remedy}")
    if faults:
        raise typer.Exit(1)
    typer.echo("All is well.")
