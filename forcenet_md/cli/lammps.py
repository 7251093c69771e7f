"""forcenet-md lammps: LAMMPS with the model in its own process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from forcenet_md.cli import options

if TYPE_CHECKING:
    from forcenet_md.inference.evaluator import ModelEvaluator
    from forcenet_md.inference.interface import Evaluator

# Whatever is not ours is LAMMPS's: its options have one dash and a word (-m is one), ours two.
CONTEXT = {"ignore_unknown_options": True}


def lammps(
    model: Annotated[str, typer.Option("--model", help=options.MODEL_HELP, show_default=False)],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="LAMMPS-OPTIONS",
            help="LAMMPS's own options, such as -in FILE, -var NAME VALUE, -log FILE; without -in"
            " it reads standard input.",
            show_default=False,
        ),
    ] = None,
    committee: options.Committee = None,
    device: options.Device = "cpu",
    threads: options.Threads = 1,
    dtype: options.Dtype = "float32",
    max_atoms: Annotated[int, typer.Option(min=1, help="Most atoms.")] = 200_000,
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
    """Run a LAMMPS script with the model inside: no server, the script stays as it is.

    Its lines fix external and forcenet are those for a server; the address there is not used.

    With several ranks each has the model, for the atoms that LAMMPS gave it:
    mpirun -n 2 forcenet-md lammps --model alloy -in in.alloy
    """
    from forcenet_md.engines.lammps_in_process import OnRanks, run
    from forcenet_md.inference.frames import Symmetry
    from forcenet_md.mpi import launched

    symmetry = Symmetry(frames, align)

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
            symmetry=symmetry,
        )

    on_ranks = None
    if launched() > 1 and not committee and not model.startswith("ase:"):
        from forcenet_md.inference.load import load_network
        from forcenet_md.inference.ranks import sharing

        def load_on(device: str) -> ModelEvaluator:
            network = load_network(model, device, threads, dtype, trust, sha256, max_edges)
            symmetry.applied(network)  # LAMMPS's cells are aligned
            return network

        on_ranks = OnRanks(load_on, device, share_devices, sharing(ghosts, wire))
    watched = options.watching(guard, guard_frames, record, record_every, record_precision)
    run(arguments or [], load, max_atoms, log_file, on_ranks, watched)
