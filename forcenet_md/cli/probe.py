"""forcenet-md probe: what a model's forces will do to a long run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from forcenet_md.cli import options
from forcenet_md.cli.loading import atoms_at_once, load

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from forcenet_md.inference.interface import Capabilities
    from forcenet_md.simulation.heating import Energy
    from forcenet_md.simulation.jumps import Reach
    from forcenet_md.simulation.probed import Structure
    from forcenet_md.simulation.probing import Progress


def probe(
    structures: Annotated[
        Path, typer.Argument(help="Structures as the run will have them.", show_default=False)
    ],
    model: options.Model,
    temperature: Annotated[
        float, typer.Option(min=1.0, help="Of the run, K.", show_default=True)
    ] = 300.0,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="What the model learned from, as of `label`: its energy shows the heating.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="At most so many structures, evenly spread.")
    ] = 4,
    directions: Annotated[
        int, typer.Option(min=3, help="Random directions of the Jacobian in each structure.")
    ] = 32,
    rotations: Annotated[
        int, typer.Option(min=0, help="Turns of a structure for the rotation instability; 0: none.")
    ] = 10,
    axis: Annotated[
        Literal["z", "so3"], typer.Option(help="Turned about z, or about any axis.")
    ] = "so3",
    time: Annotated[
        float, typer.Option(min=0.0, help="Of the heating, ps at constant energy; 0: none.")
    ] = 1.0,
    copies: Annotated[int, typer.Option(min=2, help="Simulations for the heating.")] = 4,
    timestep: Annotated[
        float | None,
        typer.Option(
            min=1e-6, help="In ps; by the lightest atom if not given.", show_default=False
        ),
    ] = None,
    nve: Annotated[
        float, typer.Option(min=0.0, help="The ps of NVE that the verdict is asked about.")
    ] = 100.0,
    seed: Annotated[int, typer.Option(min=0, help="Of directions, turns and velocities.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the figures as JSON.", show_default=False),
    ] = None,
    committee: options.Committee = None,
    device: options.Device = "cpu",
    threads: options.Threads = 1,
    dtype: options.Dtype = "float64",
    batch_atoms: options.BatchAtoms = None,
    trust: options.Trust = False,
    frames: options.Frames = 1,
    align: options.Align = False,
) -> None:
    """Probe what a model's forces, as they are served, will do to a long run.

    How far they are from a gradient (λ), whether they jump at the cutoff, how far they turn with
    the structure and how fast they heat, with a verdict. Ctrl-C ends with what is known.
    """
    from contextlib import ExitStack

    from rich.console import Console

    from forcenet_md.data.frames import check_output
    from forcenet_md.errors import RequestError
    from forcenet_md.simulation.probe_table import print_probe
    from forcenet_md.simulation.probing import Settings
    from forcenet_md.simulation.probing import probe as run
    from forcenet_md.training.stop import on_interrupt
    from forcenet_md.writing import write_text

    console = Console(stderr=True)
    if rotations == 1:
        raise RequestError("--rotations 1 has no spread: give two or more, 0 for none.")
    if out:
        check_output(out)
    others = list(committee or ())
    evaluator, described = load(model, others, device, threads, dtype, trust, frames, align)
    known = evaluator.capabilities
    chosen, usual = _structures(structures, limit, known)
    settings = Settings(
        directions=directions,
        rotations=rotations,
        axis=axis,
        temperature=temperature,
        timestep=timestep or usual,
        time=time,
        copies=copies,
        nve=nve,
        seed=seed,
        batch_atoms=atoms_at_once(batch_atoms, device),
    )
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        console.print("ending with what is known")

    with ExitStack() as stack:
        energy = stack.enter_context(_energy(teacher, chosen)) if teacher else None
        progress = stack.enter_context(_progress(console))
        stack.enter_context(on_interrupt(interrupt))
        found = run(
            evaluator,
            described,
            chosen,
            _reaches(model, others, known),
            settings,
            energy,
            progress,
            lambda: interrupted,
        )
    print_probe(found, Console())
    if out:
        write_text(out, found.model_dump_json(indent=2) + "\n")
        console.print(f"wrote {out}", markup=False, soft_wrap=True)
    if not found.complete:
        raise typer.Exit(130)


def _structures(
    path: Path, limit: int, capabilities: Capabilities
) -> tuple[list[Structure], float]:
    """At most so many, evenly spread, and their usual timestep in ps."""
    import sys

    from forcenet_md.data.compiling import frames_of
    from forcenet_md.data.reading import find_sources
    from forcenet_md.data.source import Options
    from forcenet_md.engines.prepared import timestep
    from forcenet_md.errors import DataError
    from forcenet_md.evaluation.cases import evenly
    from forcenet_md.simulation.probed import Structure

    sources = find_sources(path)
    found = [atoms for source in sources for atoms in frames_of(source, Options((), sys.maxsize))]
    if not found:
        raise DataError(f"{path} holds no structure: give a file with at least one.")
    rows = evenly(len(found), limit).tolist()
    chosen = [Structure.of(found[row], f"frame {row} of {path}", capabilities) for row in rows]
    return chosen, min(timestep(found[row]) for row in rows)


def _reaches(model: str, committee: list[str], capabilities: Capabilities) -> list[Reach]:
    """Where each of the models loses its neighbours."""
    from forcenet_md.inference.load import read_cards

    cards = read_cards(model, committee)
    if not cards:
        return [(capabilities.cutoff, None)]
    return [(card.cutoff, card.neighbour_cap) for card in cards]


@contextmanager
def _energy(spec: str, structures: list[Structure]) -> Iterator[Energy]:
    """The energy of a teacher. Raises DataError for one that has none."""
    from ase import Atoms
    from ase.data import chemical_symbols

    from forcenet_md.data.teachers import open_teacher
    from forcenet_md.errors import DataError
    from forcenet_md.system import System

    numbers = {int(z) for structure in structures for z in structure.system.numbers}
    with open_teacher(spec, sorted(chemical_symbols[z] for z in numbers)) as teacher:

        def energy(system: System) -> float:
            atoms = Atoms(system.numbers, system.positions, cell=system.cell, pbc=system.pbc)
            found = teacher.label(atoms).calc.results.get("energy")
            if found is None:
                raise DataError(
                    f"the teacher {spec} has forces but no energy: give one that has, or none."
                )
            return float(found)

        energy(structures[0].system)  # a teacher that cannot is told now
        yield energy


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield show
