"""From the options of `forcenet-md serve` to a running server, and what the user is told."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from forcenet_md import __version__
from forcenet_md.errors import AddressError
from forcenet_md.inference.interface import Capabilities
from forcenet_md.inference.load import load_evaluator
from forcenet_md.server.address import (
    Address,
    Listener,
    TcpAddress,
    default_address,
    is_loopback,
    parse_address,
)
from forcenet_md.server.auth import ENVIRONMENT, load_secret
from forcenet_md.server.lammps import symbols
from forcenet_md.server.limits import Limits
from forcenet_md.server.loop import Server
from forcenet_md.server.monitor import Lines, Monitor, TerminalMonitor
from forcenet_md.server.signals import StopSignal


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
    max_edges: int
    log_file: Path | None


def run(options: Options, stop: StopSignal) -> None:
    """Claim the addresses, load and warm up the model, say so, serve until a signal.

    Raises a ForceNetError where an address, the secret or the model is at fault.
    """
    secret = load_secret(options.secret_file)
    addresses = [parse_address(text) for text in options.listen] or [default_address()]
    check_reach(addresses, secret)
    with contextlib.ExitStack() as stack:
        terminal = sys.stdout.isatty()
        logs = [Lines.append_to(options.log_file)] if options.log_file else []
        say = Lines(sys.stdout.fileno())
        monitor = TerminalMonitor(Console(), *logs) if terminal else Monitor(say, *logs)
        listeners = []
        for address in addresses:
            listeners.append(Listener(address))
            stack.callback(listeners[-1].close)
        monitor.log(f"loading {options.model}")
        evaluator = load_evaluator(
            options.model,
            device=options.device,
            threads=options.threads,
            dtype=options.dtype,
            trust=options.trust,
            sha256=options.sha256,
            max_edges=options.max_edges,
        )
        evaluator.warm_up()
        for listener in listeners:
            listener.listen()
        server = Server(evaluator, listeners, options.limits, secret, monitor)
        stack.enter_context(stop.stops(server))
        for line in ready_lines(evaluator.capabilities, listeners, secret):
            say.write(line)
        if isinstance(monitor, TerminalMonitor):
            stack.enter_context(monitor.shown())
        server.serve()
        monitor.log("stopped")


def check_reach(addresses: Sequence[Address], secret: bytes | None) -> None:
    """Raises AddressError for an address beyond this machine without a secret."""
    for address in addresses:
        if secret is None and not is_loopback(address):
            raise AddressError(
                f"{address} can be reached from other machines: give a secret with --secret-file"
                f" or the variable {ENVIRONMENT}, or listen on tcp:127.0.0.1:PORT."
            )


def ready_lines(
    model: Capabilities, listeners: Sequence[Listener], secret: bytes | None
) -> list[str]:
    """What a user reads when the server is ready, with the lines to paste into LAMMPS."""
    gives = ["forces", *(["energy"] if model.energy else []), *(["virial"] if model.stress else [])]
    few = len(model.numbers) <= 12
    known = symbols(model.numbers) if few else f"{len(model.numbers)} elements"
    lines = [
        f"forcenet-md {__version__} serves {model.name}: {', '.join(gives)}; {known}"
        + (f"; cutoff {model.cutoff:g} Å" if model.cutoff else ""),
        *(f"warning: {warning}" for warning in model.warnings),
    ]
    for listener in listeners:
        beyond = not is_loopback(listener.address)
        note = " (authenticated by the secret, but not encrypted)" if beyond else ""
        lines.append(f"listening on {listener.address}{note}")
    address = _seen_from_outside(listeners[0].address)
    secret_option = " secret SECRET_FILE" if secret is not None else ""
    elements = symbols(model.numbers) if few else "ELEMENT_OF_TYPE_1 ELEMENT_OF_TYPE_2 …"
    lines += [
        "ready; in a LAMMPS input, with one element per atom type:",
        "",
        "    fix ext all external pf/callback 1 1",
        f"    forcenet ext {_lammps_word(str(address))} elements {elements}{secret_option}",
        "",
    ]
    return lines


def _lammps_word(text: str) -> str:
    """Quoted where LAMMPS would end the word, or take a part of it for something else."""
    quote = "'" if '"' in text else '"'
    return f"{quote}{text}{quote}" if re.search(r"[\s\"'$#&]", text) else text


def _seen_from_outside(address: Address) -> Address:
    """What a client writes: the name of this machine where every interface is listened on."""
    if isinstance(address, TcpAddress) and address.host in ("0.0.0.0", "::"):
        return TcpAddress(socket.gethostname(), address.port)
    return address
