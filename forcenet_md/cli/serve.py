"""forcenet-md serve: answer force requests of LAMMPS and others over a socket."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def serve(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A model file, the name of a shipped model, or ase:NAME[,key=value…] (emt, lj).",
            show_default=False,
        ),
    ],
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="unix:PATH or tcp:HOST:PORT; may be given several times. Without it: a socket in"
            " a private directory.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:I.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the network on the cpu.")] = 1,
    dtype: Annotated[
        Literal["float32", "float64"], typer.Option(help="Precision of the network.")
    ] = "float32",
    max_atoms: Annotated[int, typer.Option(min=1, help="Most atoms of one client.")] = 200_000,
    max_edges: Annotated[
        int, typer.Option(min=1, help="Most neighbour pairs of one client.")
    ] = 50_000_000,
    max_clients: Annotated[int, typer.Option(min=1, help="Most clients at once.")] = 64,
    handshake_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds a client has to say who it is.")
    ] = 10.0,
    message_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for the rest of a half-sent message.")
    ] = 30.0,
    secret_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the secret that clients must know (or the variable"
            " FORCENET_MD_SECRET); needed to listen beyond this machine.",
            show_default=False,
        ),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Serve only a model file with this hash.", show_default=False)
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run a model file whose code is not checked.")
    ] = False,
    log_file: Annotated[
        Path | None, typer.Option(help="Append the log to this file too.", show_default=False)
    ] = None,
) -> None:
    """Serve the forces of a model to LAMMPS (fix external) and other engines."""
    from forcenet_md.server.signals import StopSignal

    stop = StopSignal()
    with stop.installed():
        from forcenet_md.server.limits import Limits
        from forcenet_md.server.run import Options, run

        options = Options(
            model=model,
            listen=tuple(listen or ()),
            device=device,
            threads=threads,
            dtype=dtype,
            limits=Limits(
                max_atoms=max_atoms,
                max_clients=max_clients,
                handshake=handshake_timeout,
                message=message_timeout,
            ),
            secret_file=secret_file,
            sha256=sha256,
            trust=trust,
            max_edges=max_edges,
            log_file=log_file,
        )
        run(options, stop)
