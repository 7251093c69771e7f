"""What i-PI asks and is answered: a scripted i-PI, i-PI's own interface, our driver in a thread."""

from __future__ import annotations

import select
import socket
import sys
import threading
import time

import numpy as np
import pytest
from ipi_driven import Cheap, Gate, driven, polled
from ipi_peer import (
    GETFORCE,
    STATUS,
    FakeIpi,
    RealIpi,
    free_port,
    init,
    posdata,
    posdata_batch,
    word,
)
from serving import PATIENCE, copper, reference

ATOMS = copper()
both_families = pytest.mark.parametrize("port", [None, 0], ids=["unix", "tcp"])


# What i-PI asks ----------------------------------------------------------------------------------


@both_families
def test_both_flows_and_both_layouts(port):
    with FakeIpi(port=port) as ipi, driven(ipi.address, ATOMS, sockets=3) as mine:
        single = ipi.accept()
        assert single.status() == "NEEDINIT"
        single.begin()
        older = ipi.accept().begin(" some : thing , ")
        batch = ipi.accept().begin(" , batch_size:4")
        energy, forces, _ = reference(ATOMS)
        for _ in range(2):
            answers = [single.ask(ATOMS), older.ask_older(ATOMS), *batch.ask_batch([ATOMS] * 4)]
            for answer in answers:
                assert answer.energy == pytest.approx(energy, rel=1e-9)
                np.testing.assert_allclose(answer.forces, forces, rtol=1e-9, atol=1e-12)
        single.drop()
        assert mine.ends() == ""
        assert "left after 2 steps: i-PI said EXIT" in mine.log


def test_a_status_during_the_evaluation_is_answered_when_it_is_done():
    gate = Gate()
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, Cheap(during=gate)) as mine:
        wire = ipi.accept().begin()
        wire.say(posdata(ATOMS))
        assert gate.reached.wait(PATIENCE)
        wire.say(STATUS)
        gate.open.set()
        assert wire.hear(12) == word("havedata")
        assert wire.status() == "HAVEDATA"
        wire.say(GETFORCE)
        wire.answer(4)
        assert wire.status() == "READY"
        wire.drop()
        assert mine.ends() == ""


def test_positions_that_come_instead_of_getforce_supersede_the_answer():
    other = copper(seed=1)
    with FakeIpi() as ipi, driven(ipi.address, ATOMS) as mine:
        wire = ipi.accept().begin()
        wire.say(posdata(ATOMS))
        assert wire.status() == "HAVEDATA"
        np.testing.assert_allclose(wire.ask(other).forces, reference(other)[1], rtol=1e-9)
        wire.drop()
        assert mine.ends() == ""


def test_init_may_come_again():
    with FakeIpi() as ipi, driven(ipi.address, ATOMS) as mine:
        wire = ipi.accept().begin()
        wire.ask(ATOMS)
        wire.say(init(" batch_size:2"))
        wire.ask_batch([ATOMS, copper(seed=1)])
        wire.say(init(""))
        wire.ask(ATOMS)
        wire.drop()
        assert mine.ends() == ""


def test_unwrapped_positions_have_the_forces_of_wrapped_ones():
    atoms = copper(2)
    far = atoms.copy()
    images = np.random.default_rng(0).integers(-50, 50, size=(len(atoms), 3))
    far.positions += images @ atoms.cell.array
    with FakeIpi() as ipi, driven(ipi.address, atoms):
        wire = ipi.accept().begin()
        near = wire.ask(atoms)
        for answer in (wire.ask(far), wire.ask(atoms)):
            np.testing.assert_allclose(answer.forces, near.forces, rtol=0, atol=1e-9)
            assert answer.energy == pytest.approx(near.energy, abs=1e-9)
            np.testing.assert_allclose(answer.virial, near.virial, rtol=0, atol=1e-8)


# Beads -------------------------------------------------------------------------------------------


def test_each_bead_has_its_own_session_and_copies_are_evaluated_once():
    cheap = Cheap()
    images = [copper(seed=seed) for seed in range(3)]
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, cheap):
        wire = ipi.accept().begin(" batch_size:4")
        for _ in range(3):
            answers = wire.ask_batch([*images, images[2]])
        for answer, atoms in zip(answers, [*images, images[2]], strict=True):
            np.testing.assert_allclose(answer.forces, -atoms.positions, rtol=1e-12)
    assert cheap.sizes == [3, 3, 3]
    sessions = [[request.session for request in batch] for batch in cheap.batches]
    assert sessions[0] == sessions[1] == sessions[2]
    assert len(set(map(id, sessions[0]))) == 3


def test_sockets_have_sessions_of_their_own():
    cheap = Cheap()
    with FakeIpi() as ipi, polled(ipi.address, ATOMS, cheap, sockets=4) as mine:
        wires = []
        for _ in range(4):
            wires.append(ipi.accept())
            wires[-1].say(STATUS, init(), STATUS)
            mine.settle()
            assert wires[-1].hear(24) == word("needinit") + word("ready")
        for _ in range(3):
            for wire in wires:
                wire.say(posdata(ATOMS), GETFORCE)
            mine.settle()
            for wire in wires:
                wire.answer(4)
    assert cheap.sizes == [4, 4, 4]
    sessions = [{id(request.session) for request in batch} for batch in cheap.batches]
    assert sessions[0] == sessions[1] == sessions[2]
    assert len(sessions[0]) == 4


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("sockets", [16, 32])
def test_more_sockets_than_i_pi_lets_queue(sockets, tcp):
    images = [copper(seed=seed) for seed in range(sockets)]
    port = free_port() if tcp else None
    with RealIpi(port=port) as ipi, driven(ipi.address, ATOMS, Cheap(), sockets) as mine:
        end = time.monotonic() + PATIENCE
        while len(ipi.interface.clients) < sockets and time.monotonic() < end:
            ipi.step(images)
        assert len(ipi.interface.clients) == sockets
        for atoms, answer in zip(images, ipi.step(images), strict=True):
            np.testing.assert_allclose(answer.forces, -atoms.positions, rtol=1e-12)
        ipi.close()
        assert mine.ends() == ""


@pytest.mark.parametrize("beads", [1, 2, 3, 7])
def test_other_numbers_of_beads_than_sockets(beads):
    images = [copper(seed=seed) for seed in range(beads)]
    with RealIpi() as ipi, driven(ipi.address, ATOMS, Cheap(), 4) as mine:
        for _ in range(6):
            for atoms, answer in zip(images, ipi.step(images), strict=True):
                np.testing.assert_allclose(answer.forces, -atoms.positions, rtol=1e-12)
        ipi.close()
        assert mine.ends() == ""


def test_a_request_that_comes_slowly_is_waited_for_by_the_others():
    cheap = Cheap()
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, cheap, 2):
        one, other = ipi.accept().begin(), ipi.accept().begin()
        whole = posdata(ATOMS) + GETFORCE
        other.say(whole[:100])
        one.say(whole)
        assert not select.select([one.sock], [], [], 0.1)[0]
        other.say(whole[100:])
        one.answer(4)
        other.answer(4)
    assert cheap.sizes == [2]


# Large and many ----------------------------------------------------------------------------------


@both_families
def test_a_large_answer_goes_out_in_parts_to_a_slow_reader(port):
    atoms = copper(18)  # 23,328 atoms: 560 kB
    with FakeIpi(port=port) as ipi, driven(ipi.address, atoms, Cheap()):
        wire = ipi.accept()
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        wire.begin(" batch_size:2")
        wire.say(posdata_batch([atoms, atoms]), GETFORCE)
        first = b"".join(wire.hear(997) for _ in range(100))
        assert first.startswith(word("forceready"))
        rest = wire.hear(12 + 16 + 4 + 48 * len(atoms) + 144 - len(first))
        forces = np.frombuffer((first + rest)[32 : 32 + 24 * len(atoms)]).reshape(-1, 3)
        assert np.corrcoef(forces.ravel(), -atoms.positions.ravel())[0, 1] == pytest.approx(1.0)
        for _ in range(2):
            wire.hear(int.from_bytes(wire.hear(4), sys.byteorder))
        assert wire.status() == "READY"


def test_what_was_read_along_with_a_question_is_answered_after_it():
    atoms = copper(18)
    with FakeIpi() as ipi, driven(ipi.address, atoms, Cheap()):
        wire = ipi.accept().begin()
        wire.say(posdata(atoms))
        assert wire.status() == "HAVEDATA"
        wire.say(GETFORCE + STATUS)
        wire.answer(len(atoms))
        assert wire.hear(12) == word("ready")


def test_a_half_sent_answer_goes_out_before_the_next_batch():
    """i-PI reads one answer to its end, and drops a driver that sends nothing for 2 s."""
    atoms = copper(18)
    gate = Gate()
    cheap = Cheap(during=gate)
    with FakeIpi() as ipi, driven(ipi.address, atoms, cheap, 2):
        one, other = ipi.accept().begin(), ipi.accept().begin()
        one.say(posdata(atoms), GETFORCE)
        assert gate.reached.wait(PATIENCE)
        late = threading.Thread(target=other.say, args=(posdata(atoms), GETFORCE))
        late.start()
        gate.open.set()
        late.join(PATIENCE)
        assert not select.select([other.sock], [], [], 0.1)[0]
        one.answer(len(atoms))
        other.answer(len(atoms))
    assert cheap.sizes == [1, 1]


@both_families
def test_i_pi_that_dies_while_it_reads_a_large_answer(port):
    atoms = copper(18)
    with FakeIpi(port=port) as ipi, driven(ipi.address, atoms, Cheap()) as mine:
        wire = ipi.accept().begin(" batch_size:4")
        wire.say(posdata_batch([atoms] * 4), GETFORCE)
        wire.hear(1000)
        wire.close()
        ipi.accept().begin().drop()
        assert mine.ends() == ""


def repeat_steps(n: int) -> int:
    """How many more blocks of memory n steps leave behind than the steps before them did."""
    with FakeIpi() as ipi, polled(ipi.address, ATOMS, Cheap()) as mine:
        wire = ipi.accept()
        wire.say(init())
        message = STATUS + posdata(ATOMS) + GETFORCE

        def steps(count: int) -> int:
            for _ in range(count):
                wire.say(message)
                mine.settle()
                wire.hear(12)
                wire.answer(4)
                mine.server.evaluator.batches.clear()
            return sys.getallocatedblocks()

        before = steps(300)
        return steps(n) - before


def test_steps_leave_nothing_behind():
    assert repeat_steps(1000) < 100


@pytest.mark.slow
def test_many_steps_leave_nothing_behind():
    assert repeat_steps(20_000) < 100
