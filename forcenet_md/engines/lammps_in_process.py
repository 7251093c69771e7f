"""LAMMPS and the model in one process: a LAMMPS script for a server runs without one.

LAMMPS is a library here and runs in the main thread of every rank. On one rank, and where a model
cannot be shared, the model is in a thread of rank 0: both sides are those of `forcenet-md serve`,
plugin and loop with docs/protocol.md between them, over a socket pair; a variable tells the plugin
where to hand one end in. On many ranks the model is on each (lammps_local.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forcenet_md.engines.lammps_library import check_arguments, run_lammps
from forcenet_md.engines.plugin_build import build, installed_target
from forcenet_md.errors import ForceNetError
from forcenet_md.mpi import World, abort, join_world, one_for_all

if TYPE_CHECKING:
    from forcenet_md.engines.lammps_local import LocalModels
    from forcenet_md.inference.evaluator import ModelEvaluator
    from forcenet_md.inference.interface import Evaluator
    from forcenet_md.inference.ranks import Sharing
    from forcenet_md.server.door import Door
    from forcenet_md.server.monitor import Monitor
    from forcenet_md.watching.watching import Watching

VARIABLE = "FORCENET_MD_IN_PROCESS"  # PROCESS:DOOR, the socket that takes connections
PATIENCE = 2.0  # s for the model's thread to end


@dataclass(frozen=True, slots=True)
class OnRanks:
    """The model of many ranks: load is called with the device of each."""

    load: Callable[[str], ModelEvaluator]
    device: str
    share_devices: bool
    sharing: Sharing


def run(
    arguments: Sequence[str],
    load: Callable[[], Evaluator],
    max_atoms: int,
    log_file: Path | None,
    on_ranks: OnRanks | None,
    watching: Watching,
) -> None:
    """Run LAMMPS with its own command-line arguments, on all ranks; forces come from `load()`.

    load: called on rank 0 alone, where there is one rank or no `on_ranks`
    max_atoms: most atoms of one request for each rank that has the model

    Raises LammpsError with LAMMPS's message, or what `load` raises, on rank 0; the other ranks
    end with exit code 1. A fault of one rank alone ends all of them.
    """
    end_by_signal()
    comm = join_world()
    world = World(comm.Dup())
    if world.size == 1:
        on_ranks = None
    try:
        fault = run_together(world, arguments, load, max_atoms, log_file, on_ranks, watching)
    except BaseException:
        if world.size == 1:
            raise
        traceback.print_exc()
        abort(comm)
    if fault is not None:
        raise fault if world.rank == 0 else SystemExit(1)


def run_together(
    world: World,
    arguments: Sequence[str],
    load: Callable[[], Evaluator],
    max_atoms: int,
    log_file: Path | None,
    on_ranks: OnRanks | None,
    watching: Watching,
) -> ForceNetError | None:
    """The fault that ended the run, known to all ranks; None if it ended well."""
    with contextlib.ExitStack() as stack:
        script = ""
        side: Door | LocalModels | None = None
        fault: ForceNetError | None = None
        if world.rank == 0:
            try:
                script = check_arguments(arguments)
                build(installed_target())
                if on_ranks is None:
                    model = model_in_thread(load, max_atoms, log_file, watching)
                    side = stack.enter_context(model)
            except ForceNetError as error:
                fault = error
        script, fault = world.bcast((script, fault))
        if fault is None and on_ranks is not None:
            try:
                models = local_models(on_ranks, world, max_atoms, log_file, watching)
                side = stack.enter_context(models)
            except ForceNetError as error:
                fault = error
        if fault is None:
            fault = run_lammps(arguments, script, world.comm)
        if fault is None and side is not None and side.count == 0 and world.rank == 0:
            print(
                "forcenet-md: warning: the script never gave the command forcenet, so that the"
                " model was not used.",
                file=sys.stderr,
            )
        return fault


@contextlib.contextmanager
def local_models(
    on_ranks: OnRanks, world: World, max_atoms: int, log_file: Path | None, watching: Watching
) -> Iterator[LocalModels]:
    """The model on this rank. Collective; raises the fault of any rank on all of them."""
    from forcenet_md.engines.lammps_local import LocalModels
    from forcenet_md.inference.load import load_on_ranks
    from forcenet_md.server.monitor import Lines, Monitor
    from forcenet_md.server.watched_ranks import watched_ranks

    monitor, recorder = Monitor(), None
    with contextlib.ExitStack() as stack:
        with one_for_all(world):
            if log_file is not None and world.rank == 0:
                monitor = Monitor(Lines.append_to(log_file))
            warn = aloud(monitor) if world.rank == 0 else monitor.log
            if world.rank == 0:
                recorder = watching.record.make(warn)
            if recorder is not None:
                stack.callback(recorder.close)
        network = load_on_ranks(on_ranks.load, on_ranks.device, on_ranks.share_devices, world)
        most, sharing = max_atoms * world.size, on_ranks.sharing
        models = LocalModels(network, world, sharing, most, monitor, watching, warn, recorder)
        stack.enter_context(models)
        if world.rank == 0:
            stack.enter_context(watched_ranks(network, world, monitor, models.watches))
        yield models


def end_by_signal() -> None:
    """Let the system end the process: LAMMPS runs in C, where Python's handlers never get a turn.

    Nothing has to be cleaned up, and a closed pipe ends LAMMPS as it ends `lmp`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


# The two sides -----------------------------------------------------------------------------------


@contextlib.contextmanager
def model_in_thread(
    load: Callable[[], Evaluator], max_atoms: int, log_file: Path | None, watching: Watching
) -> Iterator[Door]:
    """The loaded model behind a door that the plugins of this process find.

    Raises what `load` raises.
    """
    from forcenet_md.server.door import Door, unhurried
    from forcenet_md.server.loop import Server
    from forcenet_md.server.monitor import Lines, Monitor
    from forcenet_md.server.runs import open_to_watchers

    logs = [Lines.append_to(log_file)] if log_file else []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ready: Future[tuple[Server, Door]] = Future()
    served = threading.Event()

    def serve() -> None:
        stack = contextlib.ExitStack()
        # A connection that LAMMPS has closed is a fault to be handled here, not the end of all.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        try:
            # Here, for torch's number of threads shall not be LAMMPS's: OpenMP's is each thread's.
            monitor = Monitor(*logs)
            answering = watching.over(load, monitor.log, warn=aloud(monitor))
            evaluator = stack.enter_context(answering)
            evaluator.warm_up()
            watched = open_to_watchers(monitor.log)
            server = Server(evaluator, watched, unhurried(max_atoms), monitor=monitor)
            ready.set_result((server, Door(server, ours)))
        except BaseException as error:
            ours.close()
            stack.close()
            ready.set_exception(error)
        else:
            with stack:
                server.serve()
                served.set()

    thread = threading.Thread(target=serve, name="model", daemon=True)
    thread.start()
    try:
        server, door = ready.result()
    except BaseException:
        theirs.close()
        raise
    os.environ[VARIABLE] = f"{os.getpid()}:{theirs.fileno()}"
    try:
        with theirs:
            yield door
    finally:
        del os.environ[VARIABLE]
        server.stop()
        if served.wait(PATIENCE):
            thread.join()  # which may have to merge a recording


def aloud(monitor: Monitor) -> Callable[[str], None]:
    """Lines of the log that are said beside LAMMPS's screen too."""
    from forcenet_md.server.monitor import Lines

    stderr = Lines(2)

    def say(line: str) -> None:
        monitor.log(line)
        stderr.write(f"forcenet-md: {line}")

    return say
