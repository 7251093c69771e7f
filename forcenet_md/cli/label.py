"""forcenet-md label: energies and forces of structures from a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def label(
    structures: Annotated[
        Path, typer.Argument(help="A structure file that ASE reads.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The labelled extended XYZ.", show_default=False)
    ],
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher",
            "-t",
            help="zhou2004 (Ag Au Cu Pd Pt Ni), emt, lj, or a file with LAMMPS commands"
            " (pair_style, pair_coeff; {elements} stands for the elements).",
            show_default=False,
        ),
    ],
    elements: Annotated[
        str | None,
        typer.Option(
            help="Elements of the atom types of a LAMMPS teacher in order, as Ag,Au,Cu; those of"
            " the structures, in alphabetical order, if not given.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Label structures with a teacher (LAMMPS potentials by `run 0`, ASE calculators)."""
    from contextlib import closing

    from rich.console import Console
    from rich.progress import track

    from forcenet_md.data.frames import check_output, read_frames, write_frames
    from forcenet_md.data.labelling import label_frames
    from forcenet_md.errors import DataError

    frames = read_frames(structures)
    for given in (structures, Path(teacher)):
        if out.exists() and given.exists() and out.samefile(given):
            raise DataError(f"--out {out} would replace what is read: give another path.")
    check_output(out)
    if elements:
        order = elements.split(",")
    else:
        order = sorted({symbol for atoms in frames for symbol in atoms.get_chemical_symbols()})
    console = Console(stderr=True)
    with closing(label_frames(frames, teacher, order, workers, structures)) as results:
        labelled = list(
            track(
                results,
                total=len(frames),
                description="labelling",
                console=console,
                disable=not console.is_terminal,
            )
        )
    write_frames(out, labelled)
    console.print(f"wrote {len(labelled)} labelled frames to {out}")
