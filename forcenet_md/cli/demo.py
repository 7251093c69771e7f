"""forcenet-md demo: LAMMPS and i-PI move a five-metal alloy on the shipped model."""

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
    steps: Annotated[int, typer.Option(min=100, help="Of 2 fs.")] = 1400,
    temperature: Annotated[float, typer.Option(min=1.0, help="K.")] = 1000.0,
) -> None:
    """Run LAMMPS and i-PI on the shipped model and judge the results by the model's teacher."""
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
    if outcome.faults:
        for fault in outcome.faults:
            print(f"forcenet-md: {fault}", file=sys.stderr)
        raise typer.Exit(1)


def _print(console: Console, outcome: Outcome, model: str) -> None:
    from rich.table import Table

    from forcenet_md.simulation.demo import TOLERANCE

    verdicts = outcome.verdicts
    target = verdicts[0].target
    table = Table(title=f"500 atoms of Ag Au Cu Pd Pt at {target:.0f} K: {model}")
    table.add_column("")
    for verdict in verdicts:
        table.add_column(verdict.engine, justify="right")
    table.add_column("wanted", justify="right")
    table.add_column("good", justify="center")

    def mark(good: bool) -> str:
        return "[green]yes[/]" if good else "[red]no[/]"

    table.add_row(
        "g(r) off the teacher's",
        *(f"{v.mean_pair:.1%}" for v in verdicts),
        f"≤ {TOLERANCE:.0%}",
        mark(all(v.mean_pair <= TOLERANCE for v in verdicts)),
    )
    worst = [max(v.pairs, key=lambda pair: v.pairs[pair]) for v in verdicts]
    table.add_row(
        "  the worst pair",
        *(f"{pair}  {v.pairs[pair]:.1%}" for v, pair in zip(verdicts, worst, strict=True)),
    )
    table.add_row("  teacher's two parts", *(f"{v.noise:.1%}" for v in verdicts))
    for element in verdicts[0].temperatures:
        errors = [v.temperature_error(element) for v in verdicts]
        table.add_row(
            f"temperature of {element}",
            *(
                f"{v.temperatures[element]:.0f} K  {error:+.1%}"
                for v, error in zip(verdicts, errors, strict=True)
            ),
            f"{target:.0f} K ± {TOLERANCE:.0%}",
            mark(all(abs(error) <= TOLERANCE for error in errors)),
        )
    console.print(table)
    for name, run in outcome.runs.items():
        console.print(f"{name + ':':32}{run.steps_per_second:8.1f} steps/s")
    console.print(f"pictures: {' and '.join(str(picture) for picture in outcome.pictures)}")
