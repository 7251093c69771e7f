"""SIGTERM and SIGINT end the server in good order; a second one ends it at once, but for the twin
of a SIGTERM: `timeout` and batch systems send one to a process and one to its group.

Python runs a handler only between its own steps, not while the network computes inside one call;
two signals may then have become one. The wake-up socket has a byte for each.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from forcenet_md.server.loop import Server

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TWIN = 1.0  # s, within which a second SIGTERM is the first one's


class StopSignal:
    """Handles both signals from `installed` on, whether or not a server runs already.

    number: the signal that came, if any.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._server: Server | None = None
        self._noted = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals; give them back at the end, but for the SIGTERM of a process that one
        of them ended: its twin may yet come, and would end it with another status."""
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            if self.number == signal.SIGTERM:
                before[signal.SIGTERM] = signal.SIG_IGN
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def stops(self, server: Server) -> Iterator[None]:
        """From now on a signal stops this server instead of ending the process.

        The wake-up descriptor is written by the C part of the handler, so a signal that comes
        just before the server waits is not lost.
        """
        self._server = server
        before = signal.set_wakeup_fd(server.wakeup.fileno(), warn_on_full_buffer=False)
        try:
            if self.number is not None:
                server.stop()
            yield
        finally:
            signal.set_wakeup_fd(before)

    def note(self) -> None:
        """From now on a signal sets `number` and no more, for who looks there."""
        self._noted = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        since = time.monotonic()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda again, _: end_at_once(again, since))
        if self._noted:
            return
        if self._server is None:
            # Still loading: nothing is in flight. If a callback of the import system is what runs
            # now, Python drops the exception, and `stops` ends the server; no word of it.
            sys.unraisablehook = lambda _: None
            raise SystemExit(0)
        if number == signal.SIGINT and self._server.signals_waiting() > 1:
            os.kill(os.getpid(), number)
        self._server.stop()


def end_at_once(number: int, since: float) -> None:
    """By a second signal; since: time.monotonic() of the first."""
    if time.monotonic() - since >= TWIN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
