"""`mpirun -n R forcenet-md serve`, or `ipi`: rank 0 serves, all compute."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable

from forcenet_md.errors import ForceNetError, ModelFileError
from forcenet_md.inference.crew import Crew, DividedEvaluator, Order, follow, next_order
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Evaluator
from forcenet_md.inference.load import load_network, load_on_ranks
from forcenet_md.inference.ranks import Sharing
from forcenet_md.mpi import World, abort, join_world
from forcenet_md.server.run import Options
from forcenet_md.server.signals import SIGNALS

Load = Callable[[Options], Evaluator]


def run_on_ranks(
    options: Options, sharing: Sharing, share_devices: bool, work: Callable[[Load], None]
) -> None:
    """On rank 0 `work`, which loads its model by what it is given; the other ranks compute with it.

    share_devices: ranks may have a GPU together. Raises, on rank 0, what `work` raises and
    LaunchError; the others end quietly. A fault that is no request's ends all at once.
    """
    world = World(join_world())

    def load() -> Crew:
        return load_crew(options, sharing, share_devices, world)

    try:
        if options.committee or options.model.startswith("ase:"):
            raise ModelFileError(
                "a committee or an ASE calculator runs on one rank: start without mpirun."
            )
        if world.rank == 0:
            lead(options, work, load, world)
        else:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # rank 0 ends the others
            if next_order(world)[0] is Order.LOAD:
                follow(load())
    except ForceNetError:
        if world.rank == 0:
            raise
        raise SystemExit(1) from None  # rank 0 says it
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        abort(world.comm)


def lead(
    options: Options, work: Callable[[Load], None], load: Callable[[], Crew], world: World
) -> None:
    """Rank 0's side of it."""
    waited_for = True  # the others wait for an order
    crew: Crew | None = None

    def evaluator(_: Options) -> Evaluator:
        nonlocal waited_for, crew
        next_order(world, Order.LOAD)
        waited_for = False  # a fault in what follows is known to all, and ends them
        crew = load()
        waited_for = True
        return options.symmetry.aligned(DividedEvaluator(crew))

    try:
        work(evaluator)
    finally:
        if waited_for:
            next_order(world, Order.STOP)
        if crew is not None:
            crew.close()


def load_crew(options: Options, sharing: Sharing, share_devices: bool, world: World) -> Crew:
    """The model on this rank. Collective; raises the fault of any rank on all of them."""

    def load(device: str) -> ModelEvaluator:
        network = load_network(
            options.model,
            device=device,
            threads=options.threads,
            dtype=options.dtype,
            trust=options.trust,
            sha256=options.sha256,
            max_edges=options.max_edges,
        )
        options.symmetry.applied(network)
        return network

    return Crew(load_on_ranks(load, options.device, share_devices, world), world, sharing)
