"""From the options of `forcenet-md serve` to a running server, and what the user is told."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from forcenet_md import __version__
from forcenet_md.errors import AddressError, RequestError
from forcenet_md.inference.frames import PLAIN, Symmetry
from forcenet_md.inference.interface import Capabilities, Evaluator, Kind
from forcenet_md.inference.load import check_files, load_evaluator
from forcenet_md.server.address import (
    Address,
    Listener,
    MpiAddress,
    TcpAddress,
    default_address,
    is_loopback,
    parse_address,
    private_folder,
)
from forcenet_md.server.auth import ENVIRONMENT, load_secret
from forcenet_md.server.ipi import IpiDriver, parse_ipi_address
from forcenet_md.server.lammps import symbols
from forcenet_md.server.limits import Limits
from forcenet_md.server.loop import Server
from forcenet_md.server.monitor import Lines, Monitor, TerminalMonitor
from forcenet_md.server.runs import RunAddress, open_to_watchers
from forcenet_md.server.signals import StopSignal
from forcenet_md.server.template import Template
from forcenet_md.watching.watching import Watching

NO_BEADS = (
    "i-PI does not say which bead it sends, so that several cannot be recorded: leave --record out,"
    " and let i-PI write trajectories (<trajectory> in its <output>)."
)
FEW = 12  # elements that are named one by one


@dataclass(frozen=True, slots=True)
class IpiOptions:
    """The i-PI that is served: unix:NAME, unix:/PATH or tcp:HOST:PORT, over so many sockets.

    kind: what it asks for, which it does not say; step, timestep: see `IpiDriver`
    """

    address: str
    template: Template
    sockets: int = 1
    kind: Kind = Kind.UNKNOWN
    step: int | None = None
    timestep: float = 0.0


@dataclass(frozen=True, slots=True)
class Options:
    """What `forcenet-md serve` was asked for."""

    model: str
    listen: tuple[str, ...]
    device: str
    threads: int
    dtype: str
    limits: Limits
    secret_file: Path | None
    sha256: str | None
    trust: bool
    max_edges: int | None
    log_file: Path | None
    committee: tuple[str, ...] = ()  # models that answer together with `model`
    symmetry: Symmetry = PLAIN  # frames that forces are averaged over, and in which
    ipi: IpiOptions | None = None  # with it nothing is listened on unless `listen` says so
    watching: Watching = field(default_factory=Watching)

    def load(self) -> Evaluator:
        """The evaluator that these options describe. Raises ModelFileError."""
        return load_evaluator(
            self.model,
            device=self.device,
            threads=self.threads,
            dtype=self.dtype,
            trust=self.trust,
            sha256=self.sha256,
            max_edges=self.max_edges,
            committee=self.committee,
            symmetry=self.symmetry,
        )


def run(
    options: Options,
    stop: StopSignal,
    started: Callable[[Server], None] = lambda server: None,
    load: Callable[[Options], Evaluator] = Options.load,
) -> None:
    """Claim the addresses, load and warm up the model, say so, serve until a signal or the end
    of i-PI.

    started: called when the model is ready, before i-PI is connected to; load: where the model is
    not that of this process alone. Raises a ForceNetError
    where an address, the secret, the model or the template is at fault, and IpiError for a fault
    that i-PI cannot be told of.
    """
    secret = load_secret(options.secret_file)
    addresses = [parse_address(text) for text in options.listen]
    if not addresses and options.ipi is None:
        addresses = [default_address()]
    check_reach(addresses, secret)
    check_files(options.model, options.committee)
    check_record(options)
    if options.ipi is not None:
        parse_ipi_address(options.ipi.address)  # a mistyped one is told before the model is loaded
    with contextlib.ExitStack() as stack:
        say, monitor = make_monitor(options)
        listeners = []
        for address in addresses:
            listeners.append(Listener(address))
            stack.callback(listeners[-1].close)

        def loaded() -> Evaluator:
            models = " ".join([options.model, *options.committee])
            monitor.log(f"loading {models}{options.symmetry}")
            return load(options)

        alone = NO_BEADS if options.ipi is not None else ""
        evaluator = stack.enter_context(options.watching.over(loaded, monitor.log, alone=alone))
        evaluator.warm_up()
        for listener in listeners:
            listener.listen()
        watched = open_to_watchers(monitor.log)
        server = Server(evaluator, [*listeners, *watched], options.limits, secret, monitor)
        stack.callback(server.close)
        driver = make_driver(options.ipi, server, alone=not listeners) if options.ipi else None
        stack.enter_context(stop.stops(server))
        for line in model_lines(evaluator.capabilities):
            say.write(line)
        for line in listening_lines(evaluator.capabilities, listeners, secret):
            say.write(line)
        if not listeners:
            for each in watched:
                say.write(watch_line(each.address))
        if isinstance(monitor, TerminalMonitor):
            stack.enter_context(monitor.shown())
        started(server)
        if driver is not None:
            driver.connect()
        server.serve()
        monitor.stopped()
        if driver is not None and driver.failure is not None:
            raise driver.failure


def parse_mpi_address(text: str) -> MpiAddress | None:
    """`mpi:NAME`, where NAME is a path if it has a slash; None for another kind of address.

    Raises AddressError.
    """
    scheme, _, name = text.partition(":")
    if scheme != "mpi":
        return None
    if not name or "\0" in name:
        raise AddressError(f"{text!r} is not an address: use mpi:NAME.")
    folder = Path() if "/" in name else private_folder()
    return MpiAddress(text, Path(os.path.abspath(folder / name)))


def mpi_address(options: Options, color: int | None) -> MpiAddress | None:
    """The address of ranks that speak MPI, if that is what is to be served.

    color: of LAMMPS's launch with several programs. Raises AddressError and RequestError.
    """
    found = [a for a in map(parse_mpi_address, options.listen) if a is not None]
    if not found:
        if color is not None:
            raise RequestError(
                "--mpicolor is for a LAMMPS of the same launch: give --listen mpi:NAME."
            )
        return None
    if len(options.listen) > 1 or options.ipi is not None:
        raise RequestError(
            f"{found[0]} is served alone: start a server of its own for other addresses or i-PI."
        )
    if options.secret_file is not None:
        raise RequestError(f"{found[0]} knows no secret: leave --secret-file out.")
    return found[0]


def check_record(options: Options) -> None:
    """Raises RequestError where a recording could not tell one simulation from another."""
    if options.watching.record.path is None or options.ipi is None:
        return
    if options.listen:
        raise RequestError(
            "i-PI and other clients cannot be recorded together: give --record to a server with"
            " --ipi alone."
        )
    if options.ipi.sockets > 1:
        raise RequestError(NO_BEADS)


def make_monitor(options: Options) -> tuple[Lines, Monitor]:
    """Lines for standard output, and what is said in the course of time. Raises AddressError."""
    logs = [Lines.append_to(options.log_file)] if options.log_file else []
    say = Lines(sys.stdout.fileno())
    return say, TerminalMonitor(Console(), *logs) if sys.stdout.isatty() else Monitor(say, *logs)


def make_driver(options: IpiOptions, server: Server, alone: bool) -> IpiDriver:
    """i-PI's driver; if it is all that is served the server stops with it."""
    ended = server.stop if alone else lambda: None
    address = parse_ipi_address(options.address)
    template, sockets = options.template, options.sockets
    return IpiDriver(
        server, address, template, sockets, ended, options.kind, options.step, options.timestep
    )


def check_reach(addresses: Sequence[Address], secret: bytes | None) -> None:
    """Raises AddressError for an address beyond this machine without a secret."""
    for address in addresses:
        if secret is None and not is_loopback(address):
            raise AddressError(
                f"{address} can be reached from other machines: give a secret with --secret-file"
                f" or the variable {ENVIRONMENT}, or listen on tcp:127.0.0.1:PORT."
            )


def model_lines(model: Capabilities) -> list[str]:
    """What is served."""
    gives = [
        "forces",
        *(["their spread"] if model.spread else []),
        *(["energy"] if model.energy else []),
        *(["virial"] if model.stress else []),
    ]
    return [
        f"forcenet-md {__version__} serves {model.name}"
        + (f" on {model.ranks} ranks" if model.ranks > 1 else "")
        + f": {', '.join(gives)}; {_known(model)}"
        + (f"; cutoff {model.cutoff:g} Å" if model.cutoff else ""),
        *(f"warning: {warning}" for warning in model.warnings),
    ]


def listening_lines(
    model: Capabilities, listeners: Sequence[Listener], secret: bytes | None
) -> list[str]:
    """Where it is served, with the lines to paste into LAMMPS."""
    if not listeners:
        return []
    lines = []
    for listener in listeners:
        beyond = not is_loopback(listener.address)
        note = " (authenticated by the secret, but not encrypted)" if beyond else ""
        lines.append(f"listening on {listener.address}{note}")
    address = _seen_from_outside(listeners[0].address)
    secret_option = " secret SECRET_FILE" if secret is not None else ""
    return [*lines, *ready_lines(model, str(address), secret_option)]


def ready_lines(model: Capabilities, address: str, secret_option: str = "") -> list[str]:
    """The lines to paste into LAMMPS."""
    few = len(model.numbers) <= FEW
    elements = _known(model) if few else "ELEMENT_OF_TYPE_1 ELEMENT_OF_TYPE_2 …"
    return [
        "ready; in a LAMMPS input, with one element per atom type:",
        "",
        "    fix ext all external pf/callback 1 1",
        f"    forcenet ext {_lammps_word(address)} elements {elements}{secret_option}",
        "",
    ]


def watch_line(run: RunAddress) -> str:
    return f"to watch it: forcenet-md watch {run}"


def _known(model: Capabilities) -> str:
    few = len(model.numbers) <= FEW
    return symbols(model.numbers) if few else f"{len(model.numbers)} elements"


def _lammps_word(text: str) -> str:
    """Quoted where LAMMPS would end the word, or take a part of it for something else."""
    quote = "'" if '"' in text else '"'
    return f"{quote}{text}{quote}" if re.search(r"[\s\"'$#&]", text) else text


def _seen_from_outside(address: Address) -> Address:
    """What a client writes: the name of this machine where every interface is listened on."""
    if isinstance(address, TcpAddress) and address.host in ("0.0.0.0", "::"):
        return TcpAddress(socket.gethostname(), address.port)
    return address
