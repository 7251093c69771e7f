"""forcenet-md data: labelled structures into a training set, and what is in one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from forcenet_md.data.compiling import Progress
    from forcenet_md.data.manifest import Manifest
    from forcenet_md.data.source import Options
    from forcenet_md.data.unit_checks import Units

data = typer.Typer(
    help="Training sets: compile labelled structures into one, look into it, check it, split it.",
    no_args_is_help=True,
)

Sources = Annotated[
    list[Path],
    typer.Argument(
        help="Files that ASE reads (extended XYZ also as .gz, .xz, .bz2; ASE databases and"
        " trajectories; OUTCAR, vasprun.xml; LAMMPS dumps with forces), DeePMD folders, OC20's S2EF"
        " folders, or folders of all these; stores (.h5).",
        show_default=False,
    ),
]
Elements = Annotated[
    str | None,
    typer.Option(
        help="Elements of the atom types in order, as Ag,Au,Cu, where a file has types alone"
        " (LAMMPS dumps without a column element, DeePMD folders without a type map).",
        show_default=False,
    ),
]
Length = Annotated[
    str | None,
    typer.Option(
        "--units-length",
        help="Unit of positions and cells: angstrom, bohr, nm, pm; looked at if not given.",
        show_default=False,
    ),
]
Force = Annotated[
    str | None,
    typer.Option(
        "--units-force",
        help="Unit of forces, and of energies before the stroke: eV/angstrom, hartree/bohr,"
        " kcal/mol/angstrom, …; looked at if not given.",
        show_default=False,
    ),
]
MaxAtoms = Annotated[int, typer.Option(min=1, help="A frame with more atoms is refused.")]
StorePath = Annotated[Path, typer.Argument(help="A store (.h5).", show_default=False)]


@data.command("compile")
def compile_command(
    sources: Sources,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The store to write (.h5).", show_default=False)
    ],
    elements: Elements = None,
    units_length: Length = None,
    units_force: Force = None,
    max_atoms: MaxAtoms = 100_000,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out bad frames; `data check` then names them."),
    ] = False,
) -> None:
    """Read labelled structures once into a store that training reads lazily."""
    from rich.console import Console

    from forcenet_md.data.compiling import compile_store
    from forcenet_md.data.hdf5 import is_store
    from forcenet_md.errors import DataError

    if not is_store(out):
        raise DataError(f"--out {out} must end with .h5: give the store such a name.")
    console = Console(stderr=True)
    options, units = _options(elements, max_atoms), _units(units_length, units_force)
    with _progress(console) as progress:
        manifest = compile_store(
            sources, out, options=options, units=units, skip_bad=skip_bad, progress=progress
        )
    _say(manifest, console, most=3)
    console.print(
        f"wrote {manifest.frames} frames with {manifest.atoms} atoms to {out}", soft_wrap=True
    )


@data.command()
def info(
    store: StorePath,
    as_json: Annotated[bool, typer.Option("--json", help="The whole manifest.")] = False,
) -> None:
    """What a store holds: elements, forces, columns, sources, what was found in it."""
    from rich.console import Console

    from forcenet_md.data.report import describe
    from forcenet_md.data.store import Store

    manifest = Store(store).manifest
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
        return
    Console().print(describe(manifest), soft_wrap=True, highlight=False, markup=False)


@data.command()
def check(
    sources: Sources,
    elements: Elements = None,
    units_length: Length = None,
    units_force: Force = None,
    max_atoms: MaxAtoms = 100_000,
) -> None:
    """Read every frame and name what is bad or strange; exit code 1 where a frame is bad.

    Nothing is written. Of a store this sees whether it is whole. Where no frame has forces the
    structures are checked.
    """
    import tempfile

    from rich.console import Console

    from forcenet_md.data.compiling import NoLabelsError, compile_store

    console = Console(stderr=True)
    options, units = _options(elements, max_atoms), _units(units_length, units_force)

    def look(bare: bool) -> Manifest:
        with (
            tempfile.TemporaryDirectory(prefix="forcenet-check-") as folder,
            _progress(console) as progress,
        ):
            return compile_store(
                sources,
                Path(folder) / "check.h5",
                options=options,
                units=units,
                skip_bad=True,
                bare=bare,
                progress=progress,
            )

    kind = "frames"
    try:
        manifest = look(bare=False)
    except NoLabelsError:
        manifest, kind = look(bare=True), "structures without forces"
    _say(manifest, Console(), most=20)
    bad = sum(source.bad for source in manifest.sources)
    typer.echo(f"{manifest.frames} good {kind}, {bad} bad ones")
    if kind != "frames":
        typer.echo("'forcenet-md label' labels them, for training and evaluation.")
    if bad:
        raise typer.Exit(1)


@data.command()
def split(
    store: StorePath,
    by: Annotated[
        str,
        typer.Option(
            help="A column whose values stay together, as trajectory, sid or composition; 'frame'"
            " picks frame by frame.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder of the parts.", show_default=False),
    ],
    fractions: Annotated[
        str, typer.Option(help="Of training, validation and test frames.")
    ] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(help="Another seed picks other groups.")] = 0,
    test: Annotated[
        str | None,
        typer.Option(help="Values to hold out for the test, in place of fractions, as 600,1200."),
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Values to hold out for validation, beside --test.")
    ] = None,
) -> None:
    """Write train.h5, validation.h5 and test.h5 that share no group."""
    from rich.console import Console

    from forcenet_md.data.splits import split_by, split_by_values, write_parts
    from forcenet_md.data.store import Frames, Store

    console = Console(stderr=True)
    frames = Frames([Store(store)])
    if test or validation:
        parts = split_by_values(frames, by, _list(test), _list(validation))
    else:
        parts = split_by(frames, by, _numbers(fractions), seed)
    for warning in parts.warnings:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
    with _progress(console) as progress:
        write_parts(frames, parts.rows, out, progress)
    for name, rows in parts.rows.items():
        if len(rows):
            what = f"{parts.groups[name]} values of '{by}'" if by != "frame" else "picked singly"
            console.print(f"{out / name}.h5: {len(rows)} frames, {what}", soft_wrap=True)


def _options(elements: str | None, max_atoms: int) -> Options:
    from forcenet_md.data.source import Options

    return Options(tuple(_list(elements)), max_atoms)


def _units(length: str | None, force: str | None) -> Units:
    from forcenet_md.data.unit_checks import Units

    return Units(length, force)


def _list(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _numbers(text: str) -> list[float]:
    from forcenet_md.errors import DataError

    try:
        return [float(word) for word in _list(text)]
    except ValueError:
        raise DataError(f"--fractions {text} must be three numbers, as 0.8,0.1,0.1.") from None


def _say(manifest: Manifest, console: Console, most: int) -> None:
    from forcenet_md.data.report import findings

    for line in findings(manifest, most):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def _progress(console: Console) -> Iterator[Progress | None]:
    """A bar over the sources, with the frames read, in a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.fields[name]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[frames]} frames"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, name="", frames=0)

        def show(name: str, frames: int, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, name=name, frames=frames)

        yield show
