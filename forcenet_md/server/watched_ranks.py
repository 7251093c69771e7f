"""`forcenet-md watch` of a LAMMPS whose ranks have its atoms apart.

Rank 0 tells what all ranks know. It does so in a thread: the main one is LAMMPS's, or waits for
it, and the others of MPI.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace

from forcenet_md.inference.interface import Evaluator
from forcenet_md.mpi import Ranks
from forcenet_md.server.loop import Server
from forcenet_md.server.monitor import Monitor
from forcenet_md.server.runs import RunAddress, open_to_watchers
from forcenet_md.server.status import Lines, status_lines
from forcenet_md.watching.ranks import RanksWatch

PATIENCE = 2.0  # s for the thread to end


@contextlib.contextmanager
def watched_ranks(
    network: Evaluator, ranks: Ranks, monitor: Monitor, watches: Mapping[int, RanksWatch]
) -> Iterator[list[RunAddress]]:
    """Whoever watches this process is answered; where, if it can be. On rank 0 alone.

    monitor: counts the steps; watches: by stream, more may come
    """
    model = replace(network.capabilities, ranks=ranks.size)

    def status() -> Lines:
        figures = {stream: watch.figures(stream) for stream, watch in list(watches.items())}
        return status_lines(model, monitor, figures)

    listeners = open_to_watchers(monitor.log)
    server = Server(network, listeners, status=status)

    def serve() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})  # of a watcher who has left
        server.serve()

    thread = threading.Thread(target=serve, name="watched", daemon=True)
    thread.start()
    try:
        yield [listener.address for listener in listeners]
    finally:
        server.stop()
        thread.join(PATIENCE)
