"""forcenet-md relax: many structures at once, each until its forces are small."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from forcenet_md.cli import options
from forcenet_md.cli.loading import atoms_at_once, load
from forcenet_md.cli.stopping import said_if_stopped

if TYPE_CHECKING:
    from rich.console import Console

    from forcenet_md.relaxation.run import RelaxRun

NAMED = 10  # structures of a kind, by their numbers
SAY_EVERY = 60.0  # s, where there is no terminal to draw on


def relax(
    structures: Annotated[
        list[Path],
        typer.Argument(
            help="Structures in any format of `data compile`, or data files of LAMMPS: files,"
            " folders, stores.",
            show_default=False,
        ),
    ],
    model: options.Model,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The relaxed extended XYZ, in the order of the input."),
    ],
    fmax: Annotated[
        float, typer.Option(min=0.0, help="eV/Å: relaxed when no force is as long as this.")
    ] = 0.01,
    steps: Annotated[int, typer.Option(min=0, help="At most, for each structure.")] = 200,
    optimizer: Annotated[
        Literal["fire", "lbfgs"],
        typer.Option(
            help="ASE's L-BFGS without line search, or its FIRE: slower, and less easily misled."
        ),
    ] = "lbfgs",
    maxstep: Annotated[
        float,
        typer.Option(
            min=1e-6,
            max=1.0,
            help="Å: the longest step of an atom (lbfgs), or of all atoms together (fire).",
        ),
    ] = 0.2,
    batch_atoms: options.BatchAtoms = None,
    committee: options.Committee = None,
    device: options.Device = "cpu",
    threads: options.Threads = 1,
    dtype: options.Dtype = "float32",
    trust: options.Trust = False,
    frames: options.Frames = 1,
    align: options.Align = False,
) -> None:
    """Relax structures with a model, many at once; held atoms stay where they are.

    Each ends for itself: converged, or after --steps, or as it goes round in a cycle, runs away or
    cannot be evaluated; the column `reason` of the output says which, and `contact` where atoms are
    nearer than the model knows. After a stop (Ctrl-C, a
    crash) the same command goes on.
    """
    from rich.console import Console

    console = Console(stderr=True)
    with said_if_stopped(before="the first step"):
        from forcenet_md.errors import EvaluationError
        from forcenet_md.relaxation.course import CONVERGED, FAILED, RUNAWAY, Settings
        from forcenet_md.relaxation.run import RelaxRun
        from forcenet_md.training.stop import on_interrupt

        evaluator, loaded = load(
            model, committee or (), device, threads, dtype, trust, frames, align
        )
        settings = Settings(optimizer, fmax, steps, maxstep)
        run = RelaxRun(structures, out, loaded.identity, settings)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    with run:
        for remark in run.remarks:
            say(f"note: {remark}")
        if run.done:
            say(f"going on after {len(run.done)} of {len(run.frames)} structures")
        at_once = atoms_at_once(batch_atoms, device)
        with _progress(console, run) as progress, on_interrupt(interrupt):
            whole = run.relax(evaluator, at_once, progress, lambda: interrupted)
        n, endings = len(run.frames), run.part.endings()
        if not whole:
            say(f"stopped after {endings.total()} of {n} structures: the same command goes on.")
            raise typer.Exit(130)
        firsts = {ending: run.part.first_reason(ending) for ending in (RUNAWAY, FAILED)}
        contacts = run.part.contacts()
        run.finish()
    say(f"{endings[CONVERGED]} of {n} structures converged to {fmax:g} eV/Å.")
    others = [f"{endings[ending]} {words}" for ending, words in WORDS.items() if endings[ending]]
    if others:
        say(f"The others: {', '.join(others)}; the column `reason` says which.")
    for first in firsts.values():
        if first is not None:
            say(f"first: structure {first[0]} of the input, from 0: {first[1]}")
    if contacts:
        numbers = [str(number) for number, _ in contacts]
        named = ", ".join(numbers[:NAMED]) + ", …" * (len(numbers) > NAMED)
        say(
            f"{len(numbers)} ended with atoms nearer than the model knows, and mean nothing there"
            f" (structures {named} of the input, from 0; column `contact`): in the first"
            f" {contacts[0][1]}."
        )
    say(f"wrote {out}")
    if endings[FAILED] == n:
        raise EvaluationError("no structure could be evaluated: mend what is said of the first.")


WORDS = {
    "steps": "have not after all steps",
    "cycle": "go round in a cycle (the forces are not a gradient there: try --optimizer fire, a"
    " smaller --maxstep or a larger --fmax)",
    "runaway": "ran away",
    "failed": "could not be evaluated",
}


@contextmanager
def _progress(console: Console, run: RelaxRun) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line a minute elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("relaxing"), BarColumn(), MofNCompleteColumn())
    speed = TextColumn("{task.fields[speed]}")
    total = len(run.frames)
    with Progress(*columns, speed, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, completed=len(run.done), speed="")
        begun = said = time.monotonic()

        def progress(done: int, steps: int) -> None:
            nonlocal said
            now = time.monotonic()
            speed = f"{steps / max(now - begun, 1e-9):.0f} steps/s"
            bar.update(task, completed=done, speed=speed)
            if not console.is_terminal and now > said + SAY_EVERY:
                console.print(f"relaxing: {done} of {total}, {speed}", markup=False)
                said = now

        yield progress
