"""forcenet-md serve: answer force requests of LAMMPS and others over a socket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forcenet_md.cli import options

if TYPE_CHECKING:
    from forcenet_md.server.run import IpiOptions


def serve(
    model: options.Model,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="unix:PATH or tcp:HOST:PORT; may be given several times. Or mpi:NAME alone, for a"
            " LAMMPS that speaks MPI with all ranks. Without it: a socket in a private directory.",
            show_default=False,
        ),
    ] = None,
    ipi: Annotated[
        str | None,
        typer.Option(
            help="Be the driver of the i-PI at unix:NAME (its /tmp/ipi_NAME), unix:/PATH or"
            " tcp:HOST:PORT.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(
            help="With --ipi: a structure with the elements of i-PI's atoms, in their order.",
            show_default=False,
        ),
    ] = None,
    sockets: Annotated[
        int,
        typer.Option(
            min=1,
            max=512,  # i-PI's select() ends at 1024 descriptors, its output files among them
            help="With --ipi: beads that i-PI sends at once, as one batch.",
        ),
    ] = 1,
    committee: options.Committee = None,
    device: options.Device = "cpu",
    threads: options.Threads = 1,
    dtype: options.Dtype = "float32",
    max_atoms: Annotated[int, typer.Option(min=1, help="Most atoms of one client.")] = 200_000,
    max_edges: options.MaxEdges = None,
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
    sha256: options.Sha256 = None,
    trust: options.Trust = False,
    frames: options.Frames = 1,
    align: options.Align = False,
    log_file: options.LogFile = None,
    share_devices: options.ShareDevices = False,
    mpicolor: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="With mpi:NAME, in one mpirun with LAMMPS: a number other than its -mpicolor.",
            show_default=False,
        ),
    ] = None,
    ghosts: options.Ghosts = "exchanged",
    wire: options.Wire = "own",
    guard: options.Guard = None,
    guard_frames: options.GuardFrames = options.GUARD_FRAMES,
    record: options.Record = None,
    record_every: options.RecordEvery = 10,
    record_precision: options.RecordPrecision = "full",
) -> None:
    """Serve the forces of a model to LAMMPS (fix external), i-PI and other engines.

    On many ranks, each with its device: mpirun -n 4 forcenet-md serve --model alloy --device cuda
    """
    from forcenet_md.server.signals import StopSignal

    stop = StopSignal()
    with stop.installed():
        from forcenet_md.inference.frames import Symmetry
        from forcenet_md.mpi import launched
        from forcenet_md.server.ipi import IpiError
        from forcenet_md.server.limits import Limits
        from forcenet_md.server.run import Options, mpi_address, run

        driven = ipi_options(ipi, template, sockets)
        asked = Options(
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
            committee=tuple(committee or ()),
            symmetry=Symmetry(frames, align),
            ipi=driven,
            watching=options.watching(guard, guard_frames, record, record_every, record_precision),
        )
        try:
            address = mpi_address(asked, mpicolor)
            if address is not None:
                from forcenet_md.inference.ranks import sharing
                from forcenet_md.server.mpi import run_on_mpi

                how = sharing(ghosts, wire)
                run_on_mpi(asked, address, mpicolor, how, share_devices, stop)
            elif launched() > 1:
                from forcenet_md.inference.ranks import sharing
                from forcenet_md.server.ranks import run_on_ranks

                how = sharing(ghosts, wire)
                run_on_ranks(asked, how, share_devices, lambda load: run(asked, stop, load=load))
            else:
                run(asked, stop)
        except IpiError as fault:
            raise IpiError(
                f"{fault} i-PI cannot be told: without <exit_on_disconnect> in its input it keeps"
                " waiting; end it with `touch EXIT` in its folder, which leaves a RESTART."
            ) from None


def ipi_options(ipi: str | None, template: Path | None, sockets: int) -> IpiOptions | None:
    """Raises RequestError for options that lack one another, DataError for the template."""
    from forcenet_md.errors import RequestError
    from forcenet_md.server.run import IpiOptions
    from forcenet_md.server.template import read_template

    if ipi is None:
        if template is not None or sockets != 1:
            raise RequestError("--template and --sockets are for i-PI: give its address as --ipi.")
        return None
    if template is None:
        raise RequestError(
            "i-PI does not say which elements its atoms are: give the structure it starts from as"
            " --template FILE."
        )
    return IpiOptions(ipi, read_template(template), sockets)
