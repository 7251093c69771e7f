"""forcenet-md prepare: from a structure to an input that runs as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from forcenet_md.cli import options

if TYPE_CHECKING:
    from forcenet_md.engines.prepared import Ensemble


def prepare(
    structure: Annotated[
        Path,
        typer.Argument(help="A CIF, POSCAR or any file that ASE reads.", show_default=False),
    ],
    model: options.Model,
    engine: Annotated[
        Literal["lammps", "ipi"], typer.Option("--for", help="The program that moves the atoms.")
    ] = "lammps",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the files.")] = Path("."),
    temperature: Annotated[float, typer.Option(min=0.001, max=1e6, help="K.")] = 300.0,
    ensemble: Annotated[
        str, typer.Option(help="nvt: dynamics with a thermostat; relax: relaxation.")
    ] = "nvt",
    beads: Annotated[
        int, typer.Option(min=1, max=1024, help="With --for ipi: beads of the path integral.")
    ] = 1,
    listen: Annotated[
        str | None,
        typer.Option(
            help="Address of the server; without it the one that serve listens on by default. With"
            " --for ipi: where i-PI listens, unix:NAME or tcp:HOST:PORT.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files.")] = False,
) -> None:
    """Write an input and a structure for LAMMPS or i-PI and a model."""
    from forcenet_md.data.frames import read_frames
    from forcenet_md.engines.ipi_prepare import IpiPlan, readable_name, write_ipi_input
    from forcenet_md.engines.lammps_input import Plan, write_lammps_input
    from forcenet_md.engines.prepared import as_ensemble, file_name, remarks_on_size
    from forcenet_md.errors import RequestError
    from forcenet_md.inference.load import read_capabilities
    from forcenet_md.server.address import default_address, parse_address

    capabilities = read_capabilities(model)
    name, kind = file_name(structure), as_ensemble(ensemble, capabilities)
    if engine == "ipi":
        name = readable_name(name)
        address = listen or f"unix:{name[:80]}"
        plan = IpiPlan(name, address, kind, temperature, beads)
        atoms = read_frames(structure)[-1]
        file, script, remarks = write_ipi_input(out, atoms, plan, capabilities, overwrite)
        typer.echo(f"wrote {file} and {script}")
        _say([*remarks, *remarks_on_size(atoms, capabilities)], model, capabilities.notes)
        _tell(_ipi_commands(out, model, address, file.name, script.name, kind))
        return
    if beads != 1:
        raise RequestError("--beads are for path integrals: give --for ipi with them.")
    server = parse_address(listen) if listen else default_address()
    atoms = read_frames(structure)[-1]
    lammps_plan = Plan(name, model, str(server), kind, temperature)
    file, script = write_lammps_input(out, atoms, lammps_plan, capabilities, overwrite)
    typer.echo(f"wrote {file} and {script}")
    _say(remarks_on_size(atoms, capabilities), model, capabilities.notes)
    _tell(_lammps_commands(out, model, str(server), script.name))


def _say(remarks: list[str], model: str, notes: str) -> None:
    """Remarks, and what the card of a model file says it is for: now it is to be read."""
    for remark in remarks:
        typer.echo(remark)
    if notes:
        typer.echo(f"the card of {model} says: {notes}")


def _lammps_commands(out: Path, model: str, server: str, script: str) -> dict[str, list[str]]:
    """What runs the files: a server and LAMMPS, or one command."""
    inside = ["forcenet-md", "lammps", "--model", _from(out, model), "-in", script]
    return {
        "now, in two terminals:": [
            _words("forcenet-md", "serve", "--model", model, "--listen", server),
            f"{_cd(out)}lmp -in {script}",
        ],
        "or without a server:": [_cd(out) + _words(*inside)],
    }


def _ipi_commands(
    out: Path, model: str, address: str, structure: str, script: str, kind: Ensemble
) -> dict[str, list[str]]:
    """What runs the files: a command, or two. i-PI writes where it is started."""
    driver = ["--ipi", address, "--template", str(out / structure)]
    driver += ["--guard", "warn"] if kind == "relax" else []  # i-PI does not say that it relaxes
    return {
        "now:": [_cd(out) + _words("forcenet-md", "ipi", script, "--model", _from(out, model))],
        "or in two terminals:": [
            f"{_cd(out)}i-pi {script}",
            _words("forcenet-md", "serve", "--model", model, *driver),
        ],
    }


def _from(out: Path, model: str) -> str:
    """The model as it is found from the folder of the run."""
    file = Path(model)
    return str(file.absolute()) if file.is_file() and not out.samefile(".") else model


def _tell(ways: dict[str, list[str]]) -> None:
    for when, commands in ways.items():
        typer.echo("\n".join([when, "", *(f"    {command}" for command in commands), ""]))


def _cd(folder: Path) -> str:
    return "" if folder.samefile(".") else _words("cd", str(folder)) + " && "


def _words(*words: str) -> str:
    import shlex

    return shlex.join(words)
