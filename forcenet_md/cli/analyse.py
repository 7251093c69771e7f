"""forcenet-md analyse: what a trajectory shows, and how two of them differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forcenet_md.cli import options

if TYPE_CHECKING:
    from rich.console import Console


def analyse(
    run: Annotated[
        list[Path],
        typer.Argument(
            help="A trajectory, in one file or several in the order of time: H5MD, LAMMPS dumps,"
            " extended XYZ (also of i-PI), ASE's .traj.",
            show_default=False,
        ),
    ],
    against: Annotated[
        list[Path] | None,
        typer.Option(
            options.AGAINST,
            metavar="FILE…",
            help="A second run, for differences in units of their errors and figures of both.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for figures, all numbers as JSON, curves as CSV."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    timestep: options.Timestep = None,
    against_timestep: Annotated[
        float | None, typer.Option(help="The same for --against; as --timestep if not given.")
    ] = None,
    begins: options.Begins = None,
    every: Annotated[int, typer.Option(min=1, help="Take one of so many frames.")] = 1,
    elements: Annotated[
        str | None,
        typer.Option(help="Of the atom types in order, as Ag,Au: of dumps without that column."),
    ] = None,
    units: Annotated[
        str | None, typer.Option(help="LAMMPS's units of dumps; metal if not stated there.")
    ] = None,
    r_max: options.RMax = 6.0,
    fit: options.Fit = None,
    reach: options.Reach = 4.0,
) -> None:
    """Judge a trajectory: g(r), neighbours, diffusion, spectra, temperatures, drifts.

    All errors are standard errors. Ctrl-C ends with the figures of the frames read until then.
    """
    from rich.console import Console

    from forcenet_md.simulation.analysis import Settings
    from forcenet_md.simulation.analysis_files import check_folder, write_analysis
    from forcenet_md.simulation.analysis_table import print_report
    from forcenet_md.simulation.comparison import check_elements, compare
    from forcenet_md.simulation.findings import Report
    from forcenet_md.simulation.judging import Run, judge
    from forcenet_md.simulation.trajectory import Reading, Trajectory
    from forcenet_md.training.stop import on_interrupt

    console = Console(stderr=True)
    names = tuple(name.strip() for name in (elements or "").split(",") if name.strip())
    readings = [
        Reading(names, units, step, begins, every)
        for step in (timestep, against_timestep or timestep)
    ]
    settings = Settings(r_max=r_max, reach=reach, fit=options.window(fit))
    if out:
        check_folder(out)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        console.print("ending with what is read")

    trajectories = dict(
        zip(
            _names(run, against or []),
            [Trajectory(p, how) for p, how in zip((run, against), readings, strict=True) if p],
            strict=True,
        )
    )
    if against:
        check_elements(*((name, each.elements()) for name, each in trajectories.items()))
    runs: list[Run] = []
    with _progress(console) as bar, on_interrupt(interrupt):
        for name, trajectory in trajectories.items():
            if not interrupted:
                runs.append(judge(trajectory, name, settings, bar(name), lambda: interrupted))
    one, other = runs[0], runs[1] if len(runs) > 1 else None
    report = Report(run=one.findings)
    if other is not None:
        report.against, report.comparison = other.findings, compare(one, other)
    if as_json:
        print(report.model_dump_json(indent=2))
    print_report(report, console if as_json else Console())
    if out:
        for path in write_analysis(out, report, one, other):
            console.print(f"wrote {path}", markup=False, soft_wrap=True)
    if interrupted:
        raise typer.Exit(130)


def _names(run: list[Path], against: list[Path]) -> list[str]:
    """What they are called: as short as tells them apart."""

    def name(path: Path, parts: int) -> str:
        return "/".join(path.absolute().parts[-parts:])

    if not against:
        return [name(run[0], 1)]
    for parts in range(1, 10):
        one, other = name(run[0], parts), name(against[0], parts)
        if one != other:
            return [one, other]
    return [name(run[0], 1), f"{name(against[0], 1)} (2)"]


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], Callable[[int], None]]]:
    """For each run's name, what is told how many of its frames are read."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    if not console.is_terminal:
        yield lambda name: lambda done: None
        return
    parts = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed}"))
    with Progress(*parts, TextColumn("frames"), TimeElapsedColumn(), console=console) as bar:

        def begin(name: str) -> Callable[[int], None]:
            task = bar.add_task(name, total=None)
            return lambda done: bar.update(task, completed=done)

        yield begin
