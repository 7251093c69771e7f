"""The loop and its connections, in this process: order, limits, isolation, clean ends."""

from __future__ import annotations

import gc
import os
import socket
import struct
import threading
import weakref
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from serving import LJ, ask, copper, in_process, in_thread, messages, reference
from wire import hello, only_error, ready_client, step

from forcenet_md.errors import EvaluationError, ForceNetError, RequestError
from forcenet_md.inference.ase_evaluator import AseEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.server import auth
from forcenet_md.server.client import Client
from forcenet_md.server.limits import Limits
from forcenet_md.server.protocol import (
    HEADER,
    MAGIC,
    MessageType,
    decode_forces,
    decode_text,
    encode_text,
    frame,
    step_size,
)
from forcenet_md.system import Forces


def test_forces_are_those_of_the_calculator(tmp_path):
    atoms = copper(3)
    energy, forces, virial = reference(atoms)
    with in_thread(tmp_path / "s") as (_, address), Client(address) as client:
        welcome = client.hello(["Cu"], masses=[63.546], n_atoms=len(atoms), need=["energy"])
        assert welcome.energy
        assert welcome.virial
        assert welcome.cutoff == 5.0
        answer = ask(client, atoms, step=7)
    np.testing.assert_array_equal(answer.forces, forces)
    assert answer.energy == energy
    np.testing.assert_allclose(answer.virial, virial, rtol=1e-12, atol=1e-12)


def test_bytes_one_by_one_give_the_same_answer():
    atoms = copper()
    with in_process() as loop:
        whole, dripped = ready_client(loop), ready_client(loop)
        whole.sendall(step(atoms))
        for byte in step(atoms):
            dripped.sendall(bytes([byte]))
            loop.server.poll(0.0)
        loop.settle()
        assert messages(whole) == messages(dripped)


def test_requests_that_wait_together_are_one_batch():
    sizes = []

    class Counting(AseEvaluator):
        def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
            sizes.append(len(requests))
            return super().evaluate(requests)

    with in_process(evaluator=Counting(LJ)) as loop:
        clients = [ready_client(loop) for _ in range(3)]
        for k, sock in enumerate(clients):
            sock.sendall(step(copper(seed=k), k))
        loop.server.poll(0.0)
        assert sizes == [3]
        for k, sock in enumerate(clients):
            [(kind, payload)], _ = messages(sock)
            assert kind is MessageType.FORCES
            answer = decode_forces(payload)
            assert answer.step == k
            np.testing.assert_array_equal(answer.forces, reference(copper(seed=k))[1])


@pytest.mark.parametrize("fault", ["nan", "inf", "cell", "overlap"])
def test_a_fault_of_one_client_leaves_the_others_answer_alone(fault):
    bad = copper()
    if fault == "nan":
        bad.positions[2, 1] = np.nan
    elif fault == "inf":
        bad.positions[2, 1] = np.inf
    elif fault == "cell":
        bad.cell[0] = np.nan
    else:
        bad.positions[:] = 0.5
    good = copper(seed=1)
    with in_process() as loop:
        a, b = ready_client(loop), ready_client(loop)
        b.sendall(step(good))
        loop.server.poll(0.0)
        alone = messages(b)
        a.sendall(step(bad))
        b.sendall(step(good))
        loop.server.poll(0.0)
        assert messages(b) == alone  # bitwise
        sentence = only_error(a, closed=False)
        assert ("finite" in sentence) or ("pairs" in sentence)
        a.sendall(step(good))  # and the connection is still good
        loop.server.poll(0.0)
        assert messages(a) == alone
        assert loop.monitor.faults == []


def test_a_failing_evaluator_is_told_and_the_server_lives():
    class Failing(AseEvaluator):
        def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
            raise OSError("the device is gone")

    with in_process(evaluator=Failing(LJ)) as loop:
        sock = ready_client(loop)
        sock.sendall(step(copper()))
        loop.settle()
        assert "the device is gone" in only_error(sock, closed=False)
        assert len(loop.monitor.faults) == 1


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
        assert len(connection._payload) == 0  # type: ignore[attr-defined]


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


def test_settings_can_change_between_steps(tmp_path):
    atoms = copper()
    with in_thread(tmp_path / "s") as (_, address), Client(address) as client:
        client.hello(["Cu"])
        metal = ask(client, atoms)
        client.hello(["Cu"], units="real")
        real = ask(client, atoms)
        assert metal.energy is not None
        assert real.energy == pytest.approx(metal.energy * 23.0605, rel=1e-5)
        client.hello(["Cu"])
        bigger = ask(client, copper(2))  # atoms were added
    np.testing.assert_array_equal(bigger.forces, reference(copper(2))[1])


def test_a_refused_hello_ends_the_connection():
    with in_process() as loop:
        sock = loop.connect()
        sock.sendall(hello(units="lj"))
        loop.settle()
        found, closed = messages(sock)
        assert [kind for kind, _ in found] == [MessageType.GREETING, MessageType.ERROR]
        assert b"units lj" in found[1][1]
        assert closed


# Secret ----------------------------------------------------------------------------------------


def test_both_sides_prove_the_secret(tmp_path):
    with in_thread(tmp_path / "s", secret=b"salt") as (_, address):
        with Client(address, secret=b"salt") as client:
            client.hello(["Cu"])
            ask(client, copper())
        with pytest.raises(RequestError, match="the secret is wrong"):
            Client(address, secret=b"pepper")
        with pytest.raises(RequestError, match="asks for a secret"):
            Client(address)
    with (
        in_thread(tmp_path / "open") as (_, address),
        pytest.raises(RequestError, match="does not ask"),
    ):
        Client(address, secret=b"salt")


def test_the_client_refuses_a_server_that_does_not_know_the_secret():
    mine, theirs = socket.socketpair()
    challenge = auth.new_nonce()
    theirs.sendall(frame(MessageType.GREETING, encode_text(("challenge", challenge.hex()))))
    theirs.sendall(frame(MessageType.AUTHENTICATED, encode_text(("mac", "0" * 64))))
    with theirs:
        with pytest.raises(RequestError, match="does not know the secret"):
            Client(mine, secret=b"salt")
        sent = theirs.recv(1 << 16)
    assert b"salt" not in sent


def test_nothing_is_served_before_the_secret_and_no_answer_can_be_replayed():
    with in_process(secret=b"salt") as loop:
        sock = loop.connect()
        sock.sendall(hello())
        loop.settle()
        found, closed = messages(sock)
        assert [kind for kind, _ in found] == [MessageType.GREETING, MessageType.ERROR]
        assert closed

        first, second = loop.connect(), loop.connect()
        loop.settle()
        nonces = [decode_text(messages(s)[0][0][1])["challenge"][0] for s in (first, second)]
        assert nonces[0] != nonces[1]
        mine = auth.new_nonce()
        mac = auth.client_mac(b"salt", bytes.fromhex(nonces[0]), mine)
        message = frame(MessageType.AUTH, encode_text(("nonce", mine.hex()), ("mac", mac)))
        second.sendall(message)
        loop.settle()
        assert "secret is wrong" in only_error(second, closed=True)
        first.sendall(message)
        loop.settle()
        assert [kind for kind, _ in messages(first)[0]] == [MessageType.AUTHENTICATED]


# Ends ------------------------------------------------------------------------------------------


def test_a_client_that_vanishes_in_mid_step_leaves_nothing():
    with in_process() as loop:
        good = ready_client(loop)
        for cut in (1, 15, 16, 17, 100, None):
            sock = ready_client(loop)
            sock.sendall(step(copper())[:cut])
            sock.close()
            loop.settle()
            assert len(loop.server._peers) == 1
        good.sendall(step(copper()))
        loop.settle()
        assert [kind for kind, _ in messages(good)[0]] == [MessageType.FORCES]


def test_a_thousand_clients_leave_no_descriptor_thread_or_object():
    with in_process() as loop:
        ready_client(loop).close()
        loop.settle()
        descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        sessions: weakref.WeakSet[object] = weakref.WeakSet()
        new_session = loop.server.evaluator.new_session

        def watched():
            session = new_session()
            sessions.add(session)
            return session

        loop.server.evaluator.new_session = watched  # type: ignore[method-assign]
        for k in range(1000):
            sock = loop.connect()
            sock.sendall(hello() + (step(copper()) if k % 10 == 0 else b""))
            loop.settle()
            sock.close()
            loop.settle()
        assert len(loop.server._peers) == 0
        gc.collect()
        assert len(sessions) == 0
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert threading.active_count() == threads


def test_stop_answers_the_request_in_flight(tmp_path):
    started, go_on = threading.Event(), threading.Event()

    class Held(AseEvaluator):
        def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
            started.set()
            go_on.wait(30)
            return super().evaluate(requests)

    atoms = copper()
    with in_thread(tmp_path / "s", evaluator=Held(LJ)) as (server, address):
        client = Client(address)
        client.hello(["Cu"])
        client.send(step(atoms))
        assert started.wait(30)
        server.stop()
        go_on.set()
        answer = decode_forces(client.receive(MessageType.FORCES))
        np.testing.assert_array_equal(answer.forces, reference(atoms)[1])
        client.close()
    assert not (tmp_path / "s").exists()


def test_stop_waits_for_the_rest_of_a_half_sent_request():
    with in_process() as loop:
        sock, idle = ready_client(loop), ready_client(loop)
        message = step(copper())
        sock.sendall(message[:60])
        loop.settle()
        loop.server.stop()
        rest = threading.Timer(0.05, sock.sendall, [message[60:]])
        rest.start()
        loop.server.serve()
        rest.join()
        found, closed = messages(sock)
        assert [kind for kind, _ in found] == [MessageType.FORCES]
        assert closed
        assert messages(idle) == ([], True)


def test_an_unserved_element_is_refused_by_name():
    with in_process(evaluator=AseEvaluator("ase:emt")) as loop:
        sock = loop.connect()
        sock.sendall(hello(elements="Fe"))
        loop.settle()
        found, _ = messages(sock)
        sentence = found[1][1].decode()
        assert "does not know Fe (atom type 1): it knows Ag Al Au C Cu H N Ni O Pd Pt" in sentence


def test_errors_reach_the_client_in_one_line():
    class Talkative(AseEvaluator):
        def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
            return [EvaluationError("a\x1b[31m\nb%s" + "ä" * 5000)] * len(requests)

    with in_process(evaluator=Talkative(LJ)) as loop:
        sock = ready_client(loop)
        sock.sendall(step(copper()))
        loop.settle()
        sentence = only_error(sock, closed=False)
        assert sentence.startswith("a\\x1b[31m b%sä")
        assert 4090 < len(sentence.encode()) <= 4096
