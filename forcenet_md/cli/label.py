"""forcenet-md label: energies and forces of structures from a teacher."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from forcenet_md.cli.stopping import said_if_stopped

if TYPE_CHECKING:
    from ase import Atoms

    from forcenet_md.data.label_run import LabelRun
    from forcenet_md.data.screening import Line

T = TypeVar("T")
SAY_EVERY = 60.0  # s, where there is no terminal to draw on

TEACHER_HELP = """zhou2004 (Ag Au Cu Pd Pt Ni); an ASE calculator, with options as
lj,sigma=2.2,smooth=true: emt, lj, tblite (periodic: large cells, it knows the Γ point alone),
chgnet, mace,model=PATH; module:function of your own; a model file; or a file with LAMMPS commands
(pair_style, pair_coeff; {elements} stands for the elements)."""


def label(
    structures: Annotated[
        Path,
        typer.Argument(
            help="Structures in any format of `data compile`, or a data file of LAMMPS: a file,"
            " a folder, a store.",
            show_default=False,
        ),
    ],
    teacher: Annotated[str, typer.Option("--teacher", "-t", help=TEACHER_HELP, show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The labelled extended XYZ; STRUCTURES-labelled.extxyz if not given. What fails"
            " goes to OUT-failed.extxyz.",
            show_default=False,
        ),
    ] = None,
    elements: Annotated[
        str | None,
        typer.Option(
            help="Elements of atom types in order, as Ag,Au,Cu: of a LAMMPS teacher (if not given,"
            " those of the structures, in alphabetical order), and of files with types alone.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with one thread.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.0, help="Seconds a frame may take at most.", show_default=False),
    ] = None,
    screen: Annotated[
        bool, typer.Option(help="First see on a few frames if the teacher is smooth.")
    ] = True,
    screen_only: Annotated[
        bool, typer.Option("--screen-only", help="Print that as a table, and label nothing.")
    ] = False,
) -> None:
    """Label structures with a teacher (LAMMPS potentials by `run 0`, ASE calculators)."""
    with said_if_stopped(before="the first label"):
        from forcenet_md.data.compiling import frames_of
        from forcenet_md.data.label_run import LabelRun, beside
        from forcenet_md.data.reading import find_sources
        from forcenet_md.data.source import Options
        from forcenet_md.errors import DataError
        from forcenet_md.writing import part_of

        if out is None and structures.is_dir():
            raise DataError(
                f"{structures} is a folder: say with --out where the labelled frames go."
            )
        out = out or beside(structures, "-labelled.extxyz")
        part = part_of(out)
        if resume and out.exists() and not part.exists():
            _say(f"{out} is whole: there is nothing to go on with.")
            return
        order = elements.split(",") if elements else []
        options = Options(tuple(order), sys.maxsize)
        frames = [
            atoms for source in find_sources(structures) for atoms in frames_of(source, options)
        ]
        if not frames:
            raise DataError(f"{structures} holds no structure: give a file with at least one.")
        if not order:
            order = sorted({symbol for atoms in frames for symbol in atoms.get_chemical_symbols()})
    if screen_only:
        _screen(frames, teacher, order, workers, timeout, table=True)
        return
    run = LabelRun(frames, structures, teacher, order, out, resume)
    with run.part:
        if screen and not run.part.done:
            with said_if_stopped(before="the first label"):
                _screen(frames, teacher, order, workers, timeout)
        first = _label(run, workers, timeout)
        n_failed, n = len(run.part.failed), len(frames)
        run.finish()
    if n_failed:
        _say(f"{n_failed} of {n} frames could not be labelled; they are in {run.failed}.")
        _say(f"The first: {first}" if first else "")
    if n_failed == n:
        raise DataError("nothing could be labelled: try another teacher or mend the structures.")
    _say(f"wrote {n - n_failed} labelled frames to {out}")


def _label(run: LabelRun, workers: int, timeout: float | None) -> str:
    """Label what is left, with progress; the first reason of a failure."""
    reason = ""
    done, n = len(run.part.done), len(run.frames)
    if done:
        _say(f"going on after {done} of {n} frames")
    try:
        with closing(run.label(workers, timeout)) as outcomes:
            for outcome in _progress("labelling", outcomes, run.n_left):
                if outcome.atoms is None and not reason:
                    reason = f"frame {outcome.number}: {outcome.reason}"
    except BaseException:
        done = len(run.part.done)
        if done:
            _say(f"stopped after {done} of {n} frames: the same command with --resume goes on.")
            raise
        with said_if_stopped(before="the first label"):  # nothing is there to go on with
            raise
    return reason


def _screen(
    frames: Sequence[Atoms],
    teacher: str,
    elements: Sequence[str],
    workers: int,
    timeout: float | None,
    table: bool = False,
) -> None:
    """See if forces are smooth along short lines; warn where not, or print them all."""
    from forcenet_md.data.screening import POINTS, choose_lines, screen

    lines = choose_lines(frames)
    with closing(screen(lines, teacher, elements, workers, timeout)) as steps:
        for _ in _progress("screening", steps, POINTS * len(lines)):
            pass
    if table:
        typer.echo("element  frame  atom  roughness  verdict       largest change of its force")
        for line in lines:
            typer.echo(
                f"{line.element:7}  {line.number:5}  {line.row + 1:4}  {line.roughness:9.3f}"
                f"  {line.verdict:12}  {_change(line)}"
            )
        return
    rough = [line for line in lines if line.verdict == "rough"]
    for line in rough:
        _say(
            f"warning: {teacher} is rough: the force on {line.element} (atom {line.row + 1} of"
            f" frame {line.number}) changes by {_change(line)}; roughness {line.roughness:.2f}"
            " where a smooth potential has up to 0.1."
        )
    if rough:
        _say(
            "warning: no network can learn a jump: its error stalls. Smooth the cutoff, or use"
            " another teacher."
        )


def _change(line: Line) -> str:
    if line.verdict == "not labelled":
        return "-"
    return f"{line.change:.3g} eV/Å in {line.step:g} Å, {line.place:+.2f} Å along the line"


def _progress(what: str, steps: Iterator[T], total: int) -> Generator[T]:
    """A bar with the time left on a terminal, a line a minute elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        begun = said = time.monotonic()
        for done, step in enumerate(steps, 1):
            bar.advance(task)
            now = time.monotonic()
            if not console.is_terminal and now > said + SAY_EVERY:
                left = (now - begun) * (total - done) / done / 60
                _say(f"{what}: {done} of {total}, {left:.0f} min left")
                said = now
            yield step


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)
