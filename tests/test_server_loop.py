"""The loop and its connections, in this process: answers, batches, isolation of faults."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from serving import LJ, ask, copper, in_process, in_thread, messages, reference
from wire import hello, only_error, ready_client, step

from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.inference.ase_evaluator import AseEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.server.client import Client
from forcenet_md.server.protocol import (
    MessageType,
    decode_forces,
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
