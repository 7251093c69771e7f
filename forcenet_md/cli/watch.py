"""forcenet-md watch: what a run is doing, while it does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from forcenet_md.server.client import Client


def watch(
    address: Annotated[
        str | None,
        typer.Argument(
            help="run:NUMBER of a process, or unix:PATH or tcp:HOST:PORT of a server; without it"
            " your run on this machine, if there is one.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    secret_file: Annotated[
        Path | None,
        typer.Option(
            help="The file with the server's secret (or the variable FORCENET_MD_SECRET).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Watch a server, or a run of `ipi` or `lammps`: ms per step, and of each simulation the step,
    the temperature of each element, how much the model heats it, its largest force, a committee's
    spread, and the closest pair where one is nearer than usual.

    Ends with what it watches, or by Ctrl-C. The forces are not held up.
    """
    import time
    from contextlib import nullcontext

    from rich.console import Console
    from rich.live import Live

    from forcenet_md.errors import AddressError

    console = Console()
    with _client(address, secret_file) as client:
        now = client.status()
        if once:
            time.sleep(min(every, 1.0))  # a rate needs two looks
            console.print(client.status().render(now))
            return
        live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        with live or nullcontext():
            try:
                while True:
                    time.sleep(every)
                    before, now = now, client.status()
                    if live is None:
                        console.print(now.render(before))
                    else:
                        live.update(now.render(before), refresh=True)
            except AddressError:
                console.print("it has ended")


def _client(address: str | None, secret_file: Path | None) -> Client:
    """Of an address, or of the one run there is. Raises AddressError where there are others."""
    from contextlib import suppress

    from forcenet_md.errors import AddressError, ForceNetError
    from forcenet_md.server.auth import load_secret
    from forcenet_md.server.client import Client
    from forcenet_md.server.runs import SCHEME, RunAddress, running

    if address is not None:
        if address.startswith(SCHEME):
            return Client(RunAddress.parse(address).connect())
        if not address.startswith(("unix:", "tcp:")):
            raise AddressError(
                f"{address!r} is not an address: use {SCHEME}NUMBER, unix:PATH or tcp:HOST:PORT."
            )
        return Client(address, load_secret(secret_file))
    found = running()
    if not found:
        raise AddressError(
            "no run of yours is on this machine: start one, or give the address of a server."
        )
    if len(found) == 1:
        return Client(found[0].connect())
    told = []
    for run in found:
        with suppress(ForceNetError), Client(run.connect()) as client:  # it may just have ended
            status = client.status()
            told.append(f"{run} ({status.model}, {status.steps} steps)")
    raise AddressError(f"you have several runs here: watch one of {', '.join(told)}.")
