"""i-PI's driver: the server as a client of i-PI, which asks for forces over sockets it listens on.

i-PI cannot be told of a fault: it waits for ever, or goes on with whatever it got. So nothing but
finite forces of the right shape is sent; at a fault every connection is closed and not made again,
and `IpiDriver.failure` says why.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import AddressError, ForceNetError, RequestError
from forcenet_md.inference.interface import Kind
from forcenet_md.server.address import Address, TcpAddress, parse_address, resolve, watch
from forcenet_md.server.gather import Gather
from forcenet_md.server.ipi_connection import IpiConnection
from forcenet_md.server.loop import Server
from forcenet_md.server.monitor import Largest
from forcenet_md.server.template import Template, check_template
from forcenet_md.system import System

PREFIX = "/tmp/ipi_"  # of i-PI's unix sockets
SOON, LATE = 0.02, 0.5  # s between two attempts to connect: doubled from one to the other
FAREWELL = 3.0  # s in which an i-PI that dropped us would answer again
MAX_CELLS = 64  # different ones without a virial: more than any set of systems of one run


class IpiError(ForceNetError):
    """A fault that i-PI cannot be told of: it is left waiting."""


def parse_ipi_address(text: str) -> Address:
    """unix:NAME (i-PI's /tmp/ipi_NAME), unix:/PATH or tcp:HOST:PORT. Raises AddressError."""
    scheme, _, name = text.partition(":")
    if scheme == "unix" and name and "/" not in name:
        return parse_address(f"unix:{PREFIX}{name}")
    if scheme not in ("unix", "tcp"):
        raise AddressError(
            f"'{text}' is no address of i-PI: give unix:NAME with the <address> of its <ffsocket>,"
            " or tcp:HOST:PORT."
        )
    return parse_address(text)


class IpiDriver:
    """Keeps a number of connections to one i-PI until it says EXIT or a request fails.

    kind: what its requests are for, which i-PI does not say
    step: the step of its first request, where each request is one step further; else None
    timestep: ps of such a step, 0 where it is not known
    ended: called then; failure: why, if it was a fault.
    """

    def __init__(
        self,
        server: Server,
        address: Address,
        template: Template,
        sockets: int = 1,
        ended: Callable[[], None] = lambda: None,
        kind: Kind = Kind.UNKNOWN,
        step: int | None = None,
        timestep: float = 0.0,
    ) -> None:
        """Raises UnknownElementError and RequestError for a template that cannot be served."""
        check_template(template, server.evaluator.capabilities, server.limits.max_atoms)
        self.server = server
        self.address = address
        self.template = template
        self.kind = kind
        self.timestep = timestep
        self._step = step
        self._positions: NDArray[np.float64] | None = None  # of the last request
        self.gather = Gather(sockets)
        self.failure: IpiError | None = None
        self.largest = Largest()
        self._ended = ended
        self._target = _resolved(address)
        self._open: dict[int, IpiConnection] = {}
        self._calling: int | None = None  # the connection that i-PI has not answered yet
        self._sockets = sockets
        self._done = False
        self._wait = SOON
        self._scheduled = False
        self._told_waiting = False
        self._farewell = inf  # time.monotonic() until which a dropped connection may come back
        self._cells: set[bytes] = set()
        self._last_cell = b""

    @property
    def sending(self) -> bool:
        """An answer is half sent, so no batch begins: i-PI, which reads it, drops a driver that
        stops sending for 2 s."""
        return any(connection.sending for connection in self._open.values())

    def connect(self) -> None:
        """Make the next connection that is missing; try again later if that fails.

        One after the other: i-PI lets few of them queue, and a tcp connection beyond those is lost
        without a sign.
        """
        self._scheduled = False
        if self._done or self._calling is not None or len(self._open) == self._sockets:
            return
        if time.monotonic() > self._farewell:
            self.server.monitor.log("i-PI ended")
            self.finish("i-PI ended")
            return
        if not (self._open or self._told_waiting):
            self._told_waiting = True
            self.server.monitor.log(
                f"waiting for i-PI at {self.address}, the <address> of its <ffsocket>"
            )
        try:
            sock = _begin_to_connect(*self._target)
        except OSError as error:
            mend = "give the address of an i-PI of yours"
            if error.errno in (errno.EMFILE, errno.ENFILE):
                mend = "give fewer --sockets or raise `ulimit -n`"
            self.fail(
                AddressError(f"{self.address} cannot be connected to ({error.strerror}): {mend}.")
            )
            return
        if sock is None:
            self._retry_later()
            return
        number = min(set(range(self._sockets)) - self._open.keys())
        self._calling = number
        self._open[number] = IpiConnection(self, sock, number)
        self.server.add(self._open[number])

    def connected(self, number: int) -> None:
        """i-PI has asked a first question: it is there."""
        if number == self._calling:
            self._calling = None
        self._wait = SOON
        self._farewell = inf
        self._told_waiting = False
        self.connect()

    def dropped(self, seconds: float) -> None:
        """i-PI said EXIT while it waited for an answer: it ends, or its patience did."""
        self.server.monitor.log(
            f"i-PI let go of a request after {seconds:.3g} s: if it goes on, raise its <timeout>"
        )
        if self._farewell == inf:
            self._farewell = time.monotonic() + FAREWELL

    def left(self, number: int) -> None:
        """A connection has ended; another one is made unless all is over."""
        self._open.pop(number, None)
        if number == self._calling:
            self._calling = None
        self.gather.leave(number)
        self._retry_later()

    def fail(self, fault: ForceNetError) -> None:
        """No forces for i-PI: leave it, and say why."""
        if self.failure is None:
            self.failure = IpiError(str(fault))
        self.finish(str(fault))

    def finish(self, why: str) -> None:
        """End every connection and make none again."""
        self.stop()
        for connection in list(self._open.values()):
            connection.leave(why)
        self._ended()

    def stop(self) -> None:
        """Make no connection again; those that are open end by themselves."""
        model = self.server.evaluator.capabilities
        for what in () if self._done else self.largest.describe(model):
            self.server.monitor.log(f"i-PI {what}")
        self._done = True

    def step_of(self, system: System) -> int | None:
        """i-PI's count of steps at its next request, where it can be known. It asks again for what
        it got no answer to."""
        before, self._positions = self._positions, system.positions
        anew = before is not None and not np.array_equal(before, system.positions)
        if self._step is not None and anew:
            self._step += 1
        return self._step

    def check_cell(self, system: System) -> None:
        """Raises RequestError when i-PI moves the cell of a model without a virial."""
        model = self.server.evaluator.capabilities
        cell = system.cell.tobytes()
        if model.stress or cell == self._last_cell or len(self._cells) > MAX_CELLS:
            return
        self._last_cell = cell
        shape = np.round(system.cell @ system.cell.T, 7) + 0.0  # the same however it is turned
        self._cells.add(shape.tobytes())
        if len(self._cells) > MAX_CELLS:
            raise RequestError(
                f"i-PI changes the cell, but the model {model.name} gives no virial, so its"
                " pressure would be wrong: run at constant volume."
            )

    def _retry_later(self) -> None:
        if not (self._scheduled or self._done):
            self._scheduled = True
            self.server.call_later(self._wait, self.connect)
            self._wait = min(2 * self._wait, LATE)


def _resolved(address: Address) -> tuple[socket.AddressFamily, Any]:
    if isinstance(address, TcpAddress):
        # i-PI listens on IPv4 only
        return min(resolve(address), key=lambda found: found[0] != socket.AF_INET)
    return socket.AF_UNIX, str(address.path)


def _begin_to_connect(family: socket.AddressFamily, target: Any) -> socket.socket | None:
    """A socket that is connected or about to be; None if nobody listens or too many wait.

    Raises OSError for what does not change with time.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    if family != socket.AF_UNIX:
        watch(sock)
    error = sock.connect_ex(target)
    if error in (0, errno.EINPROGRESS):
        return sock
    sock.close()
    if error in (errno.EACCES, errno.EPERM, errno.EPROTOTYPE):
        raise OSError(error, os.strerror(error))
    return None
