"""`forcenet-md ipi`: an input of i-PI is read and checked, i-PI and its driver run as one.

The server runs in this process, i-PI on a leash (`engines/leash.py`). Whatever ends one of them
ends the other: a fault of the model is said here and i-PI writes its RESTART, which its own
protocol has no word for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from forcenet_md.engines.ipi_plan import Plan
from forcenet_md.engines.ipi_process import IpiProcess, restart_step
from forcenet_md.engines.ipi_temperatures import IpiTemperatures, advice, printed
from forcenet_md.engines.processes import ProcessError
from forcenet_md.errors import AddressError, ForceNetError, RequestError
from forcenet_md.inference.interface import Evaluator
from forcenet_md.server.loop import Server
from forcenet_md.server.run import NO_BEADS, IpiOptions, Options, run
from forcenet_md.server.signals import StopSignal
from forcenet_md.watching.watching import Watching

GOODBYE = 30.0  # s for i-PI to write its files after it has said EXIT


def supervise(
    plan: Plan, options: Options, load: Callable[[Options], Evaluator] = Options.load
) -> int:
    """Run a plan to its end, in the current folder; the exit code of the command.

    load: see `server.run.run`

    0 when i-PI has done what its input says or was told to stop before, 128 + number after a
    signal. Raises a ForceNetError for everything else; i-PI has ended then too.
    """
    if options.watching.record.path is not None and plan.requests > 1:
        raise RequestError(NO_BEADS)
    clear_exit_file(Path("EXIT"))
    clear_address(plan.address)
    options = replace(
        options,
        ipi=IpiOptions(
            plan.address, plan.template, plan.sockets, plan.kind, plan.step, plan.timestep
        ),
        limits=replace(
            options.limits, max_atoms=max(options.limits.max_atoms, len(plan.template.numbers))
        ),
        watching=_with_temperatures(options.watching, plan),
    )
    stop = StopSignal()
    ipi: IpiProcess | None = None
    fault: ForceNetError | None = None
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_dead_socket, plan.address)

        def start(server: Server) -> None:
            nonlocal ipi
            if words := advice(plan.ipi, plan.template.numbers.tolist()):
                server.monitor.log(words)
            server.monitor.log(f"starting i-PI on {plan.ipi.path}")
            process = IpiProcess(plan.ipi.path, server.monitor.relay, ended=server.stop)
            ipi = stack.enter_context(process)

        try:
            with stop.installed():
                run(options, stop, start, load)
        except ForceNetError as error:
            fault = error
        except SystemExit:
            if stop.number is None:
                raise
        if fault is not None or stop.number is not None:
            if ipi is not None:
                ipi.end()
                _say(f"i-PI was stopped. {_restart(plan, ipi)}")
            if fault is not None:
                raise fault
            return 128 + (stop.number or 0)
        assert ipi is not None
        return _finish(plan, ipi)


def _with_temperatures(watching: Watching, plan: Plan) -> Watching:
    """Those that i-PI prints of elements, or else of all atoms, are told too."""
    paths = list(printed(plan.ipi).values())
    if not paths:
        return watching
    path, goes_on = max(paths, key=paths.count), plan.ipi.step > 0
    return replace(watching, more=lambda say: IpiTemperatures(path, goes_on, say))


def _finish(plan: Plan, ipi: IpiProcess) -> int:
    """The server has stopped by itself: i-PI said EXIT, has ended, or has a fault."""
    ended = ipi.output.fault is not None or ipi.wait(GOODBYE)
    ipi.end()
    if ended:
        ipi.verdict()
    else:
        raise ProcessError(
            "i-PI let go of the server and did not end: raise or leave out its <timeout>; it was"
            f" stopped. {_restart(plan, ipi)}"
        )
    step, total = restart_step(Path(), ipi.began), plan.ipi.total_steps
    if ipi.output.cause or (step is not None and step < total and ipi.output.done is None):
        why = f" ({ipi.output.cause})" if ipi.output.cause else ""
        _say(f"i-PI ended before its last step{why}. {_restart(plan, ipi)}")
    elif ipi.output.done:
        _say(f"i-PI has finished: {ipi.output.done}.")
    elif plan.relaxes:
        _say(
            f"i-PI has made its {total} steps and the relaxation has not converged: raise"
            " <total_steps> in its RESTART and go on from there."
        )
    else:
        _say(f"i-PI has finished: step {total} of {total}.")
    return 0


def clear_exit_file(path: Path) -> None:
    """Remove an empty EXIT, with which i-PI was stopped before: it would stop at once again.

    Raises RequestError if it is not empty, and so perhaps something else.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        raise RequestError(
            "there is something named EXIT in this folder, at which i-PI stops at once: move it"
            " away."
        )
    path.unlink()
    _say("removed the empty file EXIT of an earlier run: i-PI stops when it sees it.")


def clear_address(address: str) -> None:
    """Remove the socket of an i-PI that was killed.

    Raises AddressError if an i-PI listens there, or something else is in its way.
    """
    scheme, _, name = address.partition(":")
    if scheme == "tcp":
        _check_port(*name.rsplit(":", 1))
        return
    try:
        kind = os.lstat(name).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(kind):
        raise AddressError(f"{name} is not a socket, and i-PI wants to make one there: move it.")
    if not _is_dead(name):
        raise AddressError(
            f"another i-PI runs at {name}: let it end, or give this input another <address>."
        )
    try:
        os.unlink(name)
    except OSError as error:
        raise AddressError(
            f"{name} is left over from an i-PI that was killed and cannot be removed"
            f" ({error.strerror}): give this input another <address>."
        ) from None
    _say(f"removed {name}, left over from an i-PI that was killed.")


def _is_dead(name: str) -> bool:
    """Whether nobody listens on a socket.

    Asked with another kind of socket than i-PI's: that makes no connection it would notice.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(name) == errno.ECONNREFUSED


def _remove_dead_socket(address: str) -> None:
    """After the end of i-PI: it leaves its socket if it was killed or failed."""
    scheme, _, name = address.partition(":")
    with contextlib.suppress(OSError):
        if scheme == "unix" and _is_dead(name):
            os.unlink(name)


def _check_port(host: str, port: str) -> None:
    """Raises AddressError if i-PI could not listen there; others are left to its own words."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressError(
                    f"port {port} of {host} is in use, perhaps by another i-PI: let it end, or give"
                    " this input another <port>."
                ) from None


def _restart(plan: Plan, ipi: IpiProcess) -> str:
    step = restart_step(Path(), ipi.began)
    if step is None:
        return "It wrote no RESTART."
    return (
        f"Its RESTART is of step {step} of {plan.ipi.total_steps}: `forcenet-md ipi RESTART …`"
        " goes on from there."
    )


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):
        print(f"forcenet-md: {sentence}", flush=True)
