"""`forcenet-md serve --listen mpi:NAME`: a LAMMPS on MPI ranks of its own, served by all of ours.

Nothing is gathered. One LAMMPS at a time; the next one comes when it has gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, NoReturn

from forcenet_md.errors import ForceNetError, ModelFileError
from forcenet_md.inference.local import LocalModel
from forcenet_md.inference.ranks import Sharing
from forcenet_md.mpi import LaunchError, World, abort, join_world, one_for_all
from forcenet_md.server.address import MpiAddress
from forcenet_md.server.monitor import Monitor, TerminalMonitor
from forcenet_md.server.mpi_door import Door, Launch, Port, own_ranks
from forcenet_md.server.mpi_guest import Guest
from forcenet_md.server.mpi_wire import Order, Wire
from forcenet_md.server.ranks import load_crew
from forcenet_md.server.run import Options, make_monitor, model_lines, ready_lines, watch_line
from forcenet_md.server.signals import SIGNALS, StopSignal
from forcenet_md.server.watched_ranks import watched_ranks
from forcenet_md.watching.ranks import RanksWatch

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

    from forcenet_md.inference.evaluator import ModelEvaluator
    from forcenet_md.recording.recorder import Recorder

ENDS = {
    Order.BYE: "it said goodbye",
    Order.GONE: "it ended without goodbye",
    Order.STOP: "the server was stopped",
}


def run_on_mpi(
    options: Options,
    address: MpiAddress,
    color: int | None,
    sharing: Sharing,
    share_devices: bool,
    stop: StopSignal,
) -> None:
    """Serve until a signal, or with color until LAMMPS ends.

    Raises a ForceNetError on rank 0; the others end quietly. A fault that is no request's, and in
    one launch with LAMMPS any, ends all at once.
    """
    if color is None:
        # UCX would read large messages out of LAMMPS's memory, and ends us where LAMMPS was killed.
        os.environ.setdefault("UCX_RNDV_SCHEME", "am")
    everyone = join_world()
    try:
        world = World(own_ranks(everyone, color))
    except LaunchError as fault:  # others may be in that launch: the last one speaks
        say_and_abort(fault, everyone, silent=everyone.rank < everyone.size - 1)
    stop.note()
    if world.rank > 0:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # rank 0 ends the others

    def make_door() -> Door:
        return Port(address, world) if color is None else Launch(everyone, world)

    def load() -> ModelEvaluator:
        return load_crew(options, sharing, share_devices, world).network

    try:
        serve(options, address, world, sharing, make_door, load, stop)
    except ForceNetError as fault:
        if color is not None:
            say_and_abort(fault, everyone, silent=world.rank > 0)
        if world.rank == 0:
            raise
        raise SystemExit(1) from None  # rank 0 says it
    except BaseException:
        traceback.print_exc()
        abort(everyone)
    if color is not None:
        if stop.number is not None:
            abort(everyone)
        everyone.Barrier()  # LAMMPS's last act


def say_and_abort(fault: ForceNetError, everyone: Intracomm, silent: bool) -> NoReturn:
    """LAMMPS waits for us, and would for ever; silent: unless whose turn it is does not speak."""
    if silent:
        time.sleep(1.0)  # s; the abort of the one who speaks ends us
    sys.stderr.write(f"forcenet-md: error: {fault}\n")  # at one go
    abort(everyone)


def serve(
    options: Options,
    address: MpiAddress,
    world: World,
    sharing: Sharing,
    make_door: Callable[[], Door],
    load: Callable[[], ModelEvaluator],
    stop: StopSignal,
) -> None:
    """One LAMMPS after another. Collective; raises the fault of any rank on all of them."""
    monitor = Monitor()
    with contextlib.ExitStack() as stack:
        with one_for_all(world):
            if options.committee or options.model.startswith("ase:"):
                raise ModelFileError(
                    f"a committee or an ASE calculator cannot be served at {address}: start the"
                    " server without mpirun, with --listen unix:PATH."
                )
            door = make_door()
            stack.callback(door.close)
            recorder: Recorder | None = None
            if world.rank == 0:
                say, monitor = make_monitor(options)
                recorder = options.watching.record.make(monitor.log)
                if recorder is not None:
                    stack.callback(recorder.close)
                monitor.log(f"loading {options.model}")
        network = load()
        network.warm_up()
        with one_for_all(world):
            door.open()
        watches: dict[int, RanksWatch] = {}
        if world.rank == 0:
            for line in model_lines(replace(network.capabilities, ranks=world.size)):
                say.write(line)
            say.write(f"listening on {address}")
            for line in ready_lines(network.capabilities, str(address)):
                say.write(line)
            watched = watched_ranks(network, world, monitor, watches)
            for run in stack.enter_context(watched):
                say.write(watch_line(run))
            if isinstance(monitor, TerminalMonitor):
                stack.enter_context(monitor.shown())

        def idle() -> bool:
            monitor.tick()
            return stop.number is not None

        order, clients = Order.BYE, count()
        while order is not Order.STOP and (comm := door.accept(idle)) is not None:
            model = LocalModel(network, world, sharing)
            most = options.limits.max_atoms * world.size
            watch = watches[0] = options.watching.over_ranks(model, recorder, monitor.log)
            wire = Wire(comm, world, door.lives, idle)
            guest = Guest(model, wire, most, monitor, watch, next(clients))
            monitor.joined("LAMMPS")
            order = guest.serve()
            for line in guest.largest.describe(network.capabilities):
                monitor.note("LAMMPS", line)
            monitor.left("LAMMPS", guest.steps, ENDS[order])
            if order is Order.BYE:
                comm.Disconnect()
        monitor.stopped()
