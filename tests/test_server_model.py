"""A model file behind the server: forces alone, many clients, faults of one client."""

from __future__ import annotations

import random
import signal
import time

import numpy as np
import pytest
from models import write_model
from serving import ServeProcess, ask, copper, in_process, messages
from wire import ready_client, step

from forcenet_md.errors import RequestError
from forcenet_md.inference.interface import Request
from forcenet_md.inference.load import load_evaluator
from forcenet_md.server.client import Client
from forcenet_md.server.protocol import MessageType, decode_forces
from forcenet_md.system import Forces, System


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.pt"
    write_model(path)
    return path


def test_a_batch_of_clients_of_different_sizes(model):
    evaluator = load_evaluator(str(model), dtype="float64")
    systems = [copper(1), copper(2, seed=1), copper(1, seed=2)]
    with in_process(evaluator=evaluator) as loop:
        sockets = [ready_client(loop) for _ in systems]
        for sock, atoms in zip(sockets, systems, strict=True):
            sock.sendall(step(atoms))
        loop.server.poll(0.0)
        for sock, atoms in zip(sockets, systems, strict=True):
            [(kind, payload)], _ = messages(sock)
            assert kind is MessageType.FORCES
            answer = decode_forces(payload)
            [alone] = evaluator.evaluate([Request(evaluator.new_session(), System.from_ase(atoms))])
            assert isinstance(alone, Forces)
            np.testing.assert_allclose(answer.forces, alone.forces, rtol=0, atol=1e-11)
            np.testing.assert_allclose(answer.forces.sum(axis=0), 0.0, atol=1e-12)
            assert answer.energy is None
            assert answer.virial is None


@pytest.mark.parametrize("fault", ["nan", "piled"])
def test_a_fault_leaves_the_others_answer_as_it_is_bit_by_bit(model, fault):
    bad = copper(5)
    bad.positions[:] = np.nan if fault == "nan" else bad.positions[0]
    with in_process(evaluator=load_evaluator(str(model))) as loop:
        a, b = ready_client(loop), ready_client(loop)
        b.sendall(step(copper()))
        loop.server.poll(0.0)
        alone = messages(b)
        a.sendall(step(bad))
        b.sendall(step(copper()))
        loop.server.poll(0.0)
        assert messages(b) == alone
        [(kind, _)], closed = messages(a)
        assert kind is MessageType.ERROR
        assert not closed
        assert loop.monitor.faults == []


def test_the_net_force_is_kept_where_atoms_are_held(model):
    evaluator = load_evaluator(str(model), dtype="float64")
    with in_process(evaluator=evaluator) as loop:
        nets = []
        for held in ("no", "yes"):
            sock = ready_client(loop, held=held)
            sock.sendall(step(copper()))
            loop.server.poll(0.0)
            [(_, payload)], _ = messages(sock)
            nets.append(abs(decode_forces(payload).forces.sum(axis=0)).max())
            sock.close()
            loop.settle()
    assert nets[0] < 1e-12
    assert nets[1] > 1e-6
    # [atoms] nets is the largest component of the sum, the log has its length per atom
    told = [float(line.split("at most ")[1].split()[0]) for line in loop.monitor.lines
            if "net force" in line]  # fmt: skip
    assert len(told) == 2
    assert nets[1] / 4 * 0.9 < told[1] < 2 * nets[1] / 4


@pytest.mark.slow
def test_forces_alone_are_refused_to_who_needs_more(model, tmp_path):
    place = f"unix:{tmp_path}/s"
    with ServeProcess("--listen", place, model=str(model)) as server:
        assert ": forces; Ag Au Cu Pd Pt; cutoff 6 Å" in server.text
        assert "    forcenet ext " + place + " elements Ag Au Cu Pd Pt\n" in server.text
        with Client(place) as client:
            welcome = client.hello(["Au", "Cu"], masses=[196.97, 63.55])
            assert not welcome.energy
            assert not welcome.virial
            assert welcome.sha256 is not None
            assert len(welcome.warnings) == 1
            ask(client, copper())
        for need in ("energy", "virial"):
            with Client(place) as client, pytest.raises(RequestError, match=f"gives no {need}"):
                client.hello(["Cu"], need=[need])
        assert server.end() == 0


@pytest.mark.slow
def test_a_signal_while_a_model_loads(model, tmp_path):
    chance = random.Random(1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        place = f"unix:{tmp_path}/s"
        with ServeProcess("--listen", place, model=str(model), wait=False) as server:
            server.until("loading")
            time.sleep(chance.uniform(0.0, 1.5))
            assert server.end(number) == 0
            assert "Traceback" not in server.text
    assert list(tmp_path.iterdir()) == []
