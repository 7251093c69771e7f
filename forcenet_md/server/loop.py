"""The event loop: one thread, no locks, any number of connections, one evaluator.

Every round reads all that can be read; the requests that are then complete are evaluated together
as one batch; their answers are written. It can be embedded: hand it connected sockets with `adopt`
(or any Peer with `add`) and call `serve` until `stop`.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Protocol

from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.inference.interface import Evaluator, Request
from forcenet_md.server.address import Listener, watch
from forcenet_md.server.connection import Connection
from forcenet_md.server.limits import Limits
from forcenet_md.server.monitor import Monitor
from forcenet_md.server.protocol import MessageType, encode_error, frame
from forcenet_md.server.runs import RunListener, same_user
from forcenet_md.server.shared import STOPPED, Shared
from forcenet_md.server.status import Lines, status_of
from forcenet_md.system import Forces


class Peer(Protocol):
    """Whoever asks for forces over a socket; `Connection` speaks docs/protocol.md.

    sock: not blocking; the loop closes it when `ended`
    requests: complete and not yet answered; they are evaluated and answered together
    interest: selectors.EVENT_READ or EVENT_WRITE
    deadline: seconds of the loop's clock at which `expire` is called, or infinity
    finish: the server stops; be `ended` as soon as nothing is half done
    """

    sock: socket.socket
    ended: bool

    @property
    def requests(self) -> Sequence[Request]: ...
    @property
    def interest(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    def receive(self, now: float) -> None: ...
    def write(self, now: float) -> None: ...
    def answer(self, results: Sequence[Forces | ForceNetError], now: float) -> None: ...
    def expire(self, now: float) -> None: ...
    def finish(self) -> None: ...
    def end(self, why: str) -> None: ...


class Server:
    """Serves one evaluator to the clients of all (listening) listeners and adopted sockets.

    `stop` may be called from a signal handler or another thread; bytes written to `wakeup` end a
    wait (for `signal.set_wakeup_fd`, which writes signal numbers).
    """

    def __init__(
        self,
        evaluator: Evaluator,
        listeners: Sequence[Listener | RunListener] = (),
        limits: Limits | None = None,
        secret: bytes | None = None,
        monitor: Monitor | None = None,
        status: Callable[[], Lines] | None = None,
    ) -> None:
        """status: what is told to whoever watches, if not that of this evaluator"""
        self.evaluator = evaluator
        self.limits = limits or Limits()
        self.monitor = monitor or Monitor()
        self._listeners = listeners
        status = status or partial(status_of, evaluator, self.monitor)
        self._shared = Shared(evaluator, self.limits, secret, self.monitor, status)
        self._peers: dict[Peer, int] = {}  # with the interest that the selector knows
        self._count = 0
        self._stopping = False
        self._evaluating = 0.0  # s in all: time that no client is blamed for
        self._accept_again = inf
        self._later: list[tuple[float, int, Callable[[], None]]] = []  # a heap
        self._order = count()
        self._selector = selectors.DefaultSelector()
        self._woken, self.wakeup = socket.socketpair()
        self._woken.setblocking(False)
        self.wakeup.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._accept_from_now()

    def serve(self) -> None:
        """Serve until `stop`; then answer what is in flight and close everything."""
        try:
            while not self._stopping:
                self.poll()
            self._finish()
        finally:
            self.close()

    def stop(self) -> None:
        """Make `serve` return after the request in flight."""
        self._stopping = True
        with contextlib.suppress(OSError):  # full: it is awake anyway
            self.wakeup.send(b"\0")

    def signals_waiting(self) -> int:
        """How many signals `signal.set_wakeup_fd` has written that no round has seen yet."""
        with contextlib.suppress(BlockingIOError):
            waiting = self._woken.recv(4096, socket.MSG_PEEK)
            return len(waiting) - waiting.count(0)
        return 0

    def adopt(self, sock: socket.socket, name: str | None = None, watches: bool = False) -> None:
        """Serve a client at the other end of an already connected stream socket.

        watches: it may ask how the server is, and for nothing else
        """
        sock.setblocking(False)
        self._count += 1
        name = name or f"client {self._count}"
        self.add(Connection(sock, name, self._shared, self.clock(), watches))

    def add(self, peer: Peer) -> None:
        """Serve a peer that speaks any protocol."""
        self._peers[peer] = peer.interest
        self._selector.register(peer.sock, peer.interest, peer)
        self._update(peer)

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function from the loop, once, that many seconds from now."""
        heappush(self._later, (time.monotonic() + seconds, next(self._order), function))

    def clock(self) -> float:
        """Seconds, not counting those in which the evaluator kept the loop from listening."""
        return time.monotonic() - self._evaluating

    def poll(self, timeout: float | None = None) -> None:
        """One round: wait for at most `timeout` seconds, read, evaluate, answer."""
        wait = self._wait()
        if timeout is not None:
            wait = timeout if wait is None else min(wait, timeout)
        for key, _ in self._selector.select(wait):
            if key.fileobj is self._woken:
                self._drain_wakeup()
            elif isinstance(key.data, Listener | RunListener):
                self._accept(key.data)
            else:
                self._serve_peer(key.data)
        self._evaluate()
        now = self.clock()
        for peer in [p for p in self._peers if p.ended or p.deadline <= now]:
            with self._only(peer):
                if not peer.ended:
                    peer.expire(now)
        if now >= self._accept_again:
            self._accept_from_now()
        while self._later and self._later[0][0] <= time.monotonic():
            heappop(self._later)[2]()
        self.monitor.tick()

    def close(self) -> None:
        """Close every socket, whatever is in flight."""
        for peer in list(self._peers):
            peer.end(STOPPED)
            self._update(peer)
        for listener in self._listeners:
            listener.close()
        self._selector.close()
        self._woken.close()
        self.wakeup.close()

    # -------------------------------------------------------------------------------------------

    def _wait(self) -> float | None:
        soonest = min((p.deadline for p in self._peers), default=inf)
        soonest = min(soonest, self._accept_again) - self.clock()
        due = min(self.monitor.due, self._later[0][0] if self._later else inf)
        soonest = min(soonest, due - time.monotonic())
        return None if soonest == inf else max(soonest, 0.0)

    def _serve_peer(self, peer: Peer) -> None:
        with self._only(peer):
            if peer.interest == selectors.EVENT_WRITE:
                peer.write(self.clock())
            else:
                peer.receive(self.clock())

    @contextlib.contextmanager
    def _only(self, peer: Peer) -> Iterator[None]:
        """Whatever goes wrong with one peer ends that peer, not the server."""
        try:
            yield
        except Exception as error:
            self._report(error)
            peer.end(f"a fault of the server: {error!r}")
        self._update(peer)

    def _report(self, fault: Exception) -> None:
        self.monitor.log("".join(traceback.format_exception(fault)))

    def _update(self, peer: Peer) -> None:
        """Tell the selector what the peer waits for, or forget the peer."""
        if peer.ended:
            if self._peers.pop(peer, None) is not None:
                self._selector.unregister(peer.sock)
                peer.sock.close()
        elif self._peers[peer] != peer.interest:
            self._peers[peer] = peer.interest
            self._selector.modify(peer.sock, peer.interest, peer)

    def _evaluate(self) -> None:
        waiting = [(p, asked) for p in self._peers if (asked := p.requests)]
        if not waiting:
            return
        start = time.monotonic()
        requests = [request for _, asked in waiting for request in asked]
        answers: Sequence[Forces | ForceNetError]
        try:
            answers = self.evaluator.evaluate(requests)
            if len(answers) != len(requests):
                raise RuntimeError(f"{len(answers)} answers to {len(requests)} requests")
        except Exception as error:  # a fault of the evaluator itself
            self._report(error)
            answers = [EvaluationError(f"the evaluator failed: {error!r}.")] * len(requests)
        timings = self.evaluator.timings
        atoms = sum(request.system.n_atoms for request in requests)
        self.monitor.batch(len(requests), atoms, timings.graph, timings.network)
        self.monitor.answers(answers)
        self._evaluating += time.monotonic() - start
        now = self.clock()
        first = 0
        for peer, asked in waiting:
            with self._only(peer):
                peer.answer(answers[first : first + len(asked)], now)
            first += len(asked)

    def _finish(self) -> None:
        """Answer what has been asked, and no more; wait a moment for what is half sent."""
        self.poll(0.0)
        self._accept_again = inf
        for listener in self._listeners:
            with contextlib.suppress(KeyError):
                self._selector.unregister(listener.socket)
            listener.close()
        for peer in list(self._peers):
            peer.finish()
            self._update(peer)
        until = self.clock() + self.limits.goodbye
        while self._peers and self.clock() < until:
            self.poll(until - self.clock())

    def _drain_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    # Accepting ---------------------------------------------------------------------------------

    def _accept_from_now(self) -> None:
        self._accept_again = inf
        for listener in self._listeners:
            self._selector.register(listener.socket, selectors.EVENT_READ, listener)

    def _accept(self, listener: Listener | RunListener) -> None:
        try:
            sock, _ = listener.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self.monitor.log(f"no more clients for a second: {error}")
                for one in self._listeners:
                    self._selector.unregister(one.socket)
                self._accept_again = self.clock() + 1.0
            return
        if len(self._peers) >= self.limits.max_clients:
            sentence = f"this server serves its limit of {self.limits.max_clients} clients."
            self.monitor.log(f"a client was turned away: {sentence}")
            sock.setblocking(False)
            with sock, contextlib.suppress(OSError):
                sock.send(frame(MessageType.ERROR, encode_error(sentence)))
            return
        if sock.family != socket.AF_UNIX:
            watch(sock)
        watches = isinstance(listener, RunListener)
        if watches and not same_user(sock):
            sock.close()
            return
        self.adopt(sock, watches=watches)
