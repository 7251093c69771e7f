"""forcenet-md ipi: run an input of i-PI with the forces of a model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forcenet_md.cli import options

if TYPE_CHECKING:
    from forcenet_md.inference.interface import Evaluator


def ipi(
    path: Annotated[
        Path, typer.Argument(metavar="INPUT.xml", help="An input, or a RESTART, of i-PI.")
    ],
    model: options.Model,
    check: Annotated[
        bool, typer.Option("--check", help="Only read the input and say what would be run.")
    ] = False,
    sockets: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=512,  # i-PI's select() ends at 1024 descriptors, its output files among them
            help="Beads that i-PI sends at once, as one batch. Without it: all of them, up to 64.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(
            help="A structure with the elements of the atoms, where the input does not say them.",
            show_default=False,
        ),
    ] = None,
    forcefield: Annotated[
        str | None,
        typer.Option(
            help="The name of the <ffsocket> to serve, if there are several.", show_default=False
        ),
    ] = None,
    committee: options.Committee = None,
    device: options.Device = "cpu",
    threads: options.Threads = 1,
    dtype: options.Dtype = "float32",
    max_edges: options.MaxEdges = None,
    sha256: options.Sha256 = None,
    trust: options.Trust = False,
    frames: options.Frames = 1,
    align: options.Align = False,
    log_file: options.LogFile = None,
    share_devices: options.ShareDevices = False,
    ghosts: options.Ghosts = "exchanged",
    wire: options.Wire = "own",
    guard: options.Guard = None,
    guard_frames: options.GuardFrames = options.GUARD_FRAMES,
    record: options.Record = None,
    record_every: options.RecordEvery = 10,
    record_precision: options.RecordPrecision = "full",
) -> None:
    """Run an input of i-PI with the forces of a model: starts i-PI and serves it.

    Runs in the current folder, where i-PI writes its files. What the model cannot give to the run
    is refused before it starts; if the model fails, i-PI ends with a RESTART.
    """
    from forcenet_md.inference.frames import Symmetry
    from forcenet_md.mpi import launched
    from forcenet_md.server.limits import Limits
    from forcenet_md.server.run import Options

    asked = Options(
        model=model,
        listen=(),
        device=device,
        threads=threads,
        dtype=dtype,
        limits=Limits(),
        secret_file=None,
        sha256=sha256,
        trust=trust,
        max_edges=max_edges,
        log_file=log_file,
        committee=tuple(committee or ()),
        watching=options.watching(guard, guard_frames, record, record_every, record_precision),
        symmetry=Symmetry(frames, align),
    )

    def work(load: Callable[[Options], Evaluator]) -> None:
        from forcenet_md.engines.ipi_plan import make_plan
        from forcenet_md.engines.ipi_run import supervise
        from forcenet_md.inference.load import read_capabilities
        from forcenet_md.server.run import model_lines

        capabilities = read_capabilities(model, committee or ())
        plan = make_plan(path, capabilities, template, forcefield, sockets)
        for warning in plan.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if check:
            print("\n".join([*plan.describe(), *model_lines(capabilities)]))
            return
        sys.exit(supervise(plan, asked, load))

    if launched() > 1:
        from forcenet_md.inference.ranks import sharing
        from forcenet_md.server.ranks import run_on_ranks

        run_on_ranks(asked, sharing(ghosts, wire), share_devices, work)
    else:
        work(Options.load)
