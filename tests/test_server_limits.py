"""What one client may not do: forged headers, too much, too slowly."""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from serving import LJ, copper, in_process, in_thread, messages
from wire import hello, only_error, ready_client, step

from forcenet_md.errors import ForceNetError, RequestError
from forcenet_md.inference.ase_evaluator import AseEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.server.address import Listener, UnixAddress, connect
from forcenet_md.server.client import Client
from forcenet_md.server.limits import Limits
from forcenet_md.server.protocol import (
    HEADER,
    MAGIC,
    MessageType,
    frame,
    step_size,
)
from forcenet_md.system import Forces

HEADERS = {
    "magic": struct.pack("<4sHHQ", b"GET ", 1, 4, 10),
    "version": struct.pack("<4sHHQ", MAGIC, 2, 4, 10),
    "type": struct.pack("<4sHHQ", MAGIC, 1, 77, 10),
    "server's type": struct.pack("<4sHHQ", MAGIC, 1, 7, 10),
    "step before hello": struct.pack("<4sHHQ", MAGIC, 1, 6, 172),
    "auth without challenge": struct.pack("<4sHHQ", MAGIC, 1, 2, 10),
    "huge": struct.pack("<4sHHQ", MAGIC, 1, 4, 2**64 - 1),
    "just too long": struct.pack("<4sHHQ", MAGIC, 1, 4, 2**20 + 1),
    "bye with payload": struct.pack("<4sHHQ", MAGIC, 1, 9, 1),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_bad_header_ends_the_connection_with_a_sentence(name):
    with in_process() as loop:
        sock = loop.connect()
        loop.settle()
        messages(sock)
        sock.sendall(HEADERS[name])
        loop.settle()
        assert only_error(sock, closed=True).endswith(".")
        sock.sendall(b"x" * 1000)  # dropped
        sock.close()
        loop.settle()
        assert len(loop.server._peers) == 0
        assert loop.monitor.faults == []


def test_a_huge_length_takes_no_memory():
    with in_process(limits=Limits(max_atoms=100)) as loop:
        sock = ready_client(loop)
        limit = step_size(100, velocities=True)
        sock.sendall(HEADER.pack(MAGIC, 1, MessageType.STEP, limit + 1))
        loop.settle()
        assert "--max-atoms 100" in only_error(sock, closed=True)
        [connection] = loop.server._peers
        assert len(connection._incoming._payload) == 0  # type: ignore[attr-defined]


def test_without_descriptors_new_clients_wait_and_old_ones_are_served(clock, tmp_path):
    listener = Listener(UnixAddress(tmp_path / "s"))
    listener.listen()
    with in_process(listeners=[listener]) as loop:
        old = ready_client(loop)
        waiting = connect(listener.address, 5.0)
        loop.sockets.append(waiting)
        waiting.setblocking(False)
        with open(os.devnull) as file:
            lowest_free = file.fileno()
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
        try:
            loop.settle()
            old.sendall(step(copper()))
            loop.settle()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert [kind for kind, _ in messages(old)[0]] == [MessageType.FORCES]
        assert messages(waiting) == ([], False)
        assert sum("no more clients" in line for line in loop.monitor.lines) == 1  # no busy loop
        clock.now += 1.5
        loop.settle()
        assert [kind for kind, _ in messages(waiting)[0]] == [MessageType.GREETING]


def test_a_refusal_reaches_a_client_that_sends_more_than_the_socket_holds(tmp_path):
    """Closing at once would reset the connection and destroy the sentence."""
    with (
        in_thread(tmp_path / "s", limits=Limits(max_atoms=10)) as (_, address),
        Client(address) as client,
    ):
        client.hello(["Cu"], n_atoms=10)
        client.send(frame(MessageType.STEP, bytes(50_000_000)))
        with pytest.raises(RequestError, match="longer than this server takes"):
            client.receive(MessageType.FORCES)


@pytest.fixture
def clock(monkeypatch):
    """The time that the loop sees; the test sets `now`."""
    time = SimpleNamespace(now=1000.0, monotonic=lambda: time.now)
    monkeypatch.setattr("forcenet_md.server.loop.time", time)
    return time


def test_time_limits(clock):
    with in_process() as loop:
        silent, half, idle = loop.connect(), ready_client(loop), ready_client(loop)
        half.sendall(step(copper())[:50])
        loop.settle()
        messages(silent)
        clock.now += 10.5
        loop.settle()
        assert "handshake" in only_error(silent, closed=True)
        assert messages(half) == ([], False)
        clock.now += 20.0
        loop.settle()
        assert "rest of a message" in only_error(half, closed=True)
        clock.now += 1e6
        loop.settle()
        assert messages(idle) == ([], False)
        assert len(loop.server._peers) == 1  # the refused ones are gone for good
        idle.sendall(step(copper()))
        loop.settle()
        assert [kind for kind, _ in messages(idle)[0]] == [MessageType.FORCES]


def test_the_time_of_the_evaluator_is_not_the_clients(clock):
    """While the network runs nobody is heard, so no deadline may run."""

    class Slow(AseEvaluator):
        def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
            clock.now += 1000.0
            return super().evaluate(requests)

    with in_process(evaluator=Slow(LJ)) as loop:
        fast, half = ready_client(loop), ready_client(loop)
        fast.sendall(step(copper()))
        half.sendall(step(copper())[:50])
        loop.settle()
        half.sendall(step(copper())[50:])
        loop.settle()
        assert messages(half) == messages(fast)
        assert clock.now == 3000.0


def test_an_answer_that_is_not_read_ends_the_connection(clock):
    atoms = copper(4)
    with in_process() as loop:
        mine, theirs = socket.socketpair()
        loop.sockets.append(mine)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        loop.server.adopt(theirs)
        mine.sendall(hello(atoms="256"))
        loop.settle()
        mine.sendall(step(atoms))
        mine.sendall(step(atoms))
        loop.settle()
        [connection] = loop.server._peers
        for _ in range(3):
            loop.settle()
        assert loop.server._peers[connection] == 2  # waits to write
        clock.now += 31.0
        loop.settle()
        clock.now += 3.0
        loop.settle()
        assert len(loop.server._peers) == 0


def test_more_clients_than_allowed_are_told_so(tmp_path):
    with in_thread(tmp_path / "s", limits=Limits(max_clients=2)) as (_, address):
        with Client(address) as first, Client(address):
            with pytest.raises(RequestError, match="limit of 2 clients"):
                Client(address)
            first.hello(["Cu"])
        with Client(address) as again:
            again.hello(["Cu"])
