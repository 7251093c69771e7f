"""How connections and the server end: nothing is left, nothing in flight is lost."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Sequence

import numpy as np
from serving import LJ, copper, in_process, in_thread, messages, reference
from wire import hello, ready_client, step

from forcenet_md.errors import ForceNetError
from forcenet_md.inference.ase_evaluator import AseEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.server.client import Client
from forcenet_md.server.limits import Limits
from forcenet_md.server.protocol import (
    MessageType,
    decode_forces,
)
from forcenet_md.system import Forces


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


def test_hundreds_of_clients_leave_no_descriptor_thread_or_object():
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
        for k in range(400):
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


def test_stop_does_not_wait_for_ever_for_half_a_request():
    with in_process(limits=Limits(goodbye=0.05)) as loop:
        sock = ready_client(loop)
        sock.sendall(step(copper())[:60])
        loop.settle()
        loop.server.stop()
        loop.server.serve()
        assert messages(sock) == ([], True)
