"""forcenet-md prepare: from a structure to an input that runs as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def prepare(
    structure: Annotated[
        Path,
        typer.Argument(help="A CIF, POSCAR or any file that ASE reads.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A model file, the name of a shipped model, or ase:NAME.",
            show_default=False,
        ),
    ],
    engine: Annotated[
        Literal["lammps"], typer.Option("--for", help="The program that moves the atoms.")
    ] = "lammps",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the files.")] = Path("."),
    temperature: Annotated[float, typer.Option(min=0.001, max=1e6, help="K.")] = 300.0,
    ensemble: Annotated[
        Literal["nvt", "relax"], typer.Option(help="Dynamics with a thermostat, or relaxation.")
    ] = "nvt",
    listen: Annotated[
        str | None,
        typer.Option(
            help="Address of the server; without it the one that serve listens on by default.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files.")] = False,
) -> None:
    """Write a LAMMPS data file and script for a structure and a model."""
    import shlex

    from forcenet_md.data.frames import read_frames
    from forcenet_md.engines.lammps_input import Plan, file_name, write_lammps_input
    from forcenet_md.inference.load import read_capabilities
    from forcenet_md.server.address import default_address, parse_address

    address = parse_address(listen) if listen else default_address()
    plan = Plan(
        name=file_name(structure),
        model=model,
        address=str(address),
        ensemble=ensemble,
        temperature=temperature,
    )
    atoms = read_frames(structure)[-1]
    data, script = write_lammps_input(out, atoms, plan, read_capabilities(model), overwrite)
    typer.echo(f"wrote {data} and {script}; now, in two terminals:")
    typer.echo("")
    typer.echo(f"    forcenet-md serve --model {shlex.quote(model)} --listen {address}")
    typer.echo(f"    cd {shlex.quote(str(out))} && lmp -in {script.name}")
