"""forcenet-md demo: LAMMPS moves a five-metal alloy on the shipped model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from forcenet_md.simulation.demo import Outcome


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of everything it writes.")
    ] = Path("demo-out"),
    model: Annotated[
        str, typer.Option("--model", "-m", help="A model that knows Ag Au Cu Pd Pt.")
    ] = "alloy",
    steps: Annotated[int, typer.Option(min=100, help="Of 2 fs.")] = 2000,
    temperature: Annotated[float, typer.Option(min=1.0, help="K.")] = 1000.0,
) -> None:
    """Run LAMMPS on the shipped model and judge the result by the model's teacher."""
    import signal
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from forcenet_md.engines.plugin_build import build, installed_target
    from forcenet_md.simulation.demo import run_demo

    # a termination runs the clean-up, as Ctrl-C does: no server is left behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    bar = Progress(
        TextColumn("{task.description:22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("building the plugin", total=None)
        build(installed_target())
        told: set[str] = set()

        def report(what: str, step: int, total: int) -> None:
            bar.update(task, description=what, completed=step, total=total or None)
            if not console.is_terminal and what not in told:  # no bar moves there
                told.add(what)
                console.print(f"{what} …")

        outcome = run_demo(out, model, steps, temperature, report)
        bar.remove_task(task)
    _print(console, outcome, model)
    if outcome.verdict.faults:
        for fault in outcome.verdict.faults:
            print(f"forcenet-md: {fault}", file=sys.stderr)
        raise typer.Exit(1)


def _print(console: Console, outcome: Outcome, model: str) -> None:
    from rich.table import Table

    from forcenet_md.simulation.demo import RANKS, TOLERANCE

    verdict = outcome.verdict
    table = Table(title=f"500 atoms of Ag Au Cu Pd Pt at {verdict.target:.0f} K: {model}")
    table.add_column("")
    table.add_column("found", justify="right")
    table.add_column("wanted", justify="right")

    def mark(good: bool) -> str:
        return "[green]yes[/]" if good else "[red]no[/]"

    table.add_column("good", justify="center")
    worst = max(verdict.pairs, key=lambda pair: verdict.pairs[pair])
    table.add_row(
        "g(r) off the teacher's, mean",
        f"{verdict.mean_pair:.1%}",
        f"≤ {TOLERANCE:.0%}",
        mark(verdict.mean_pair <= TOLERANCE),
    )
    table.add_row(f"  worst pair, {worst}", f"{verdict.pairs[worst]:.1%}", "", "")
    table.add_row("  two parts of the teacher's, off each other", f"{verdict.noise:.1%}", "", "")
    for element, kelvin in verdict.temperatures.items():
        error = verdict.temperature_error(element)
        table.add_row(
            f"temperature of {element}",
            f"{kelvin:.0f} K  {error:+.1%}",
            f"{verdict.target:.0f} K ± {TOLERANCE:.0%}",
            mark(abs(error) <= TOLERANCE),
        )
    for name, run in (("model", outcome.model_run), ("teacher", outcome.teacher_run)):
        table.add_row(
            f"speed with the {name}, {RANKS} ranks", f"{run.steps_per_second:.1f} steps/s", "", ""
        )
    console.print(table)
    console.print(f"pictures: {' and '.join(str(picture) for picture in outcome.pictures)}")
