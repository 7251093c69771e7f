"""forcenet-md watch: what a server is doing, while it does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch(
    address: Annotated[
        str, typer.Argument(help="unix:PATH or tcp:HOST:PORT of a server.", show_default=False)
    ],
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
    """Watch a server: ms per step, and of each simulation the step, the temperature of each
    element, how much the model heats it, its largest force, closest pair and spread.

    Ends with the server, or by Ctrl-C. The forces are not held up.
    """
    import time
    from contextlib import nullcontext

    from rich.console import Console
    from rich.live import Live

    from forcenet_md.errors import AddressError
    from forcenet_md.server.auth import load_secret
    from forcenet_md.server.client import Client

    console = Console()
    with Client(address, load_secret(secret_file)) as client:
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
                console.print("the server has ended")
