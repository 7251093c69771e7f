"""forcenet-md lammps: LAMMPS with the model in its own process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from forcenet_md.inference.interface import Evaluator

# Whatever is not ours is LAMMPS's: its options have one dash and a word, ours two.
CONTEXT = {"ignore_unknown_options": True}


def lammps(
    model: Annotated[
        str,
        typer.Option(
            help="A model file, the name of a shipped model, or ase:NAME[,key=value…] (emt, lj).",
            show_default=False,
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="LAMMPS-OPTIONS",
            help="LAMMPS's own options, such as -in FILE, -var NAME VALUE, -log FILE; without -in"
            " it reads standard input.",
            show_default=False,
        ),
    ] = None,
    committee: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL…",
            help="Further models that answer together with --model: the forces are the mean, and"
            " how far they are apart is told.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:I.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the network on the cpu.")] = 1,
    dtype: Annotated[
        Literal["float32", "float64"], typer.Option(help="Precision of the network.")
    ] = "float32",
    max_atoms: Annotated[int, typer.Option(min=1, help="Most atoms.")] = 200_000,
    max_edges: Annotated[int, typer.Option(min=1, help="Most neighbour pairs.")] = 50_000_000,
    sha256: Annotated[
        str | None, typer.Option(help="Use only a model file with this hash.", show_default=False)
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run a model file whose code is not checked.")
    ] = False,
    log_file: Annotated[
        Path | None,
        typer.Option(
            help="Append what the model's side has to say to this file.", show_default=False
        ),
    ] = None,
) -> None:
    """Run a LAMMPS script with the model inside: no server, the script stays as it is.

    Its lines fix external and forcenet are those for a server; the address there is not used.

    With several ranks: mpirun -n 2 forcenet-md lammps --model alloy -in in.alloy
    """
    from forcenet_md.engines.lammps_in_process import run

    def load() -> Evaluator:
        from forcenet_md.inference.load import load_evaluator

        return load_evaluator(
            model,
            device=device,
            threads=threads,
            dtype=dtype,
            trust=trust,
            sha256=sha256,
            max_edges=max_edges,
            committee=committee or (),
        )

    run(arguments or [], load, max_atoms, log_file)
