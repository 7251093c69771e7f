"""forcenet-md report: a recorded run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forcenet_md.cli import options


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN.h5", help="What --record wrote.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page; RUN.html if not given.", show_default=False),
    ] = None,
    timestep: options.Timestep = None,
    begins: options.Begins = None,
    r_max: options.RMax = 6.0,
    fit: options.Fit = None,
    reach: options.Reach = 4.0,
) -> None:
    """Write what a run shows into one HTML page that fetches nothing: the system, temperatures,
    what the guards saw, g(r), diffusion, spectra.

    Ctrl-C ends with the frames read until then.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from forcenet_md.simulation.analysis import Settings
    from forcenet_md.simulation.run_report import write_report
    from forcenet_md.simulation.trajectory import Reading
    from forcenet_md.training.stop import on_interrupt

    console = Console(stderr=True)
    path = out or run.with_suffix(".html")
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        console.print("ending with what is read")

    parts = (SpinnerColumn(), TextColumn("{task.completed} frames read"))
    with Progress(*parts, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        with on_interrupt(interrupt):
            write_report(
                run,
                path,
                Settings(r_max=r_max, reach=reach, fit=options.window(fit)),
                Reading(timestep=timestep, begins=begins),
                lambda frames: bar.update(task, completed=frames),
                lambda: interrupted,
            )
    console.print(f"wrote {path}", markup=False, soft_wrap=True)
    if interrupted:
        raise typer.Exit(130)
