"""i-PI comes and goes, and so do we: deaths, timeouts, EXIT and signals, with a scripted i-PI."""

from __future__ import annotations

import select
import socket
import time
from dataclasses import replace

import numpy as np
import pytest
from ipi_driven import Cheap, Gate, driven
from ipi_peer import (
    GETFORCE,
    FakeIpi,
    Wire,
    own_name,
    posdata,
    socket_file,
)
from serving import PATIENCE, copper

from forcenet_md.server import ipi as driver_module

ATOMS = copper()
both_families = pytest.mark.parametrize("port", [None, 0], ids=["unix", "tcp"])


def readable(wire: Wire) -> bool:
    return bool(select.select([wire.sock], [], [], PATIENCE)[0])


# i-PI comes and goes -----------------------------------------------------------------------------


@both_families
def test_i_pi_that_is_not_there_yet_is_waited_for(port):
    with FakeIpi(port=port) as probe:
        address = probe.address
        place = probe.listener.getsockname()
    with driven(address, ATOMS, sockets=2) as mine:
        mine.until("waiting for i-PI at ")
        name, port = (None, place[1]) if port == 0 else (place.removeprefix("/tmp/ipi_"), None)
        with FakeIpi(name, port) as ipi:
            wires = [ipi.accept().begin(), ipi.accept().begin()]
            wires[0].ask(ATOMS)
            wires[1].drop()
            assert mine.ends() == ""
    assert mine.log.count("waiting for i-PI") == 1


@both_families
@pytest.mark.parametrize("when", ["idle", "half a header", "half of the positions", "evaluating"])
def test_i_pi_that_dies_and_is_started_again(port, when):
    gate = Gate()
    with FakeIpi(port=port) as ipi, driven(ipi.address, ATOMS, Cheap(during=gate), 2) as mine:
        name = ipi.address.removeprefix("unix:") if port is None else None
        number = int(ipi.address.rpartition(":")[2]) if port == 0 else None
        wires = [ipi.accept().begin(), ipi.accept().begin()]
        if when == "half a header":
            wires[0].say(b"POSD")
        elif when == "half of the positions":
            wires[0].say(posdata(ATOMS)[:100])
        elif when == "evaluating":
            wires[0].say(posdata(ATOMS), GETFORCE)
            assert gate.reached.wait(PATIENCE)
        ipi.listener.close()
        for wire in wires:
            wire.close()
        gate.open.set()
        mine.until("waiting for i-PI at ")
        ipi.close()
        with FakeIpi(name, number) as again:
            wires = [again.accept().begin(), again.accept().begin()]
            np.testing.assert_allclose(wires[1].ask(ATOMS).forces, -ATOMS.positions, rtol=1e-12)
            wires[0].drop()
            assert mine.ends() == ""


def test_a_stale_socket_of_a_killed_i_pi_is_waited_at():
    name = own_name()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_file(name)))
    with driven(f"unix:{name}", ATOMS) as mine:
        mine.until("waiting for i-PI")
        with FakeIpi(name) as ipi:
            ipi.accept().begin().drop()
            assert mine.ends() == ""


@both_families
def test_a_driver_that_was_too_slow_for_i_pis_timeout_comes_back(port):
    gate = Gate()
    with FakeIpi(port=port) as ipi, driven(ipi.address, ATOMS, Cheap(during=gate)) as mine:
        wire = ipi.accept().begin()
        wire.say(posdata(ATOMS), GETFORCE)
        assert gate.reached.wait(PATIENCE)
        wire.drop()
        gate.open.set()
        ipi.accept().begin().ask(ATOMS)
        assert "if it goes on, raise its <timeout>" in mine.log
        ipi.wires[-1].drop()
        assert mine.ends() == ""


@pytest.mark.parametrize("first", [80, None])
def test_steps_are_i_pis_also_of_what_it_asks_for_twice(first):
    """It got no answer to its second request, and its next connection asks for that again."""
    gate, cheap = Gate(), Cheap()
    atoms = [copper(seed=seed) for seed in (1, 2, 3)]
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, cheap, step=first) as mine:
        wire = ipi.accept().begin()
        wire.ask(atoms[0])
        cheap._during = gate
        wire.say(posdata(atoms[1]), GETFORCE)
        assert gate.reached.wait(PATIENCE)
        wire.drop()
        gate.open.set()
        wire = ipi.accept().begin()
        for other in atoms[1:]:
            wire.ask(other)
        wire.drop()
        assert mine.ends() == ""
    steps = [request.moment.step for batch in cheap.batches for request in batch]
    assert steps == ([None] * 4 if first is None else [80, 81, 81, 82])


def test_a_drop_that_was_mended_is_forgotten(monkeypatch):
    """Later i-PI dies without a word, and is waited for."""
    monkeypatch.setattr(driver_module, "FAREWELL", 0.05)
    gate = Gate()
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, Cheap(during=gate)) as mine:
        wire = ipi.accept().begin()
        wire.say(posdata(ATOMS), GETFORCE)
        assert gate.reached.wait(PATIENCE)
        wire.drop()
        gate.open.set()
        ipi.accept().begin().ask(ATOMS)
        time.sleep(0.1)
        name = ipi.address.removeprefix("unix:")
        ipi.close()
        mine.until("i-PI closed the connection")
        with FakeIpi(name) as again:
            again.accept().begin().drop()
            assert mine.ends() == ""


@both_families
def test_an_exit_that_crosses_the_answer_is_not_the_end(port):
    """i-PI's patience ends as the answer leaves: it has not read it, and asks again."""
    with FakeIpi(port=port) as ipi, driven(ipi.address, ATOMS) as mine:
        wire = ipi.accept().begin()
        wire.say(posdata(ATOMS), GETFORCE)
        assert readable(wire)
        wire.drop()
        ipi.accept().begin().ask(ATOMS)
        ipi.wires[-1].drop()
        assert mine.ends() == ""


@both_families
def test_i_pi_that_ends_during_an_evaluation_is_not_waited_for(port, monkeypatch):
    monkeypatch.setattr(driver_module, "FAREWELL", 0.3)
    gate = Gate()
    with FakeIpi(port=port) as ipi, driven(ipi.address, ATOMS, Cheap(during=gate), 3) as mine:
        wires = [ipi.accept().begin() for _ in range(3)]
        for wire in wires:
            wire.say(posdata(ATOMS), GETFORCE)
        assert gate.reached.wait(PATIENCE)
        ipi.listener.close()
        for wire in wires:
            wire.drop()
        ipi.close()
        gate.open.set()
        assert mine.ends() == ""


@both_families
def test_exit_to_one_socket_ends_all(port):
    with FakeIpi(port=port) as ipi, driven(ipi.address, ATOMS, sockets=3) as mine:
        wires = [ipi.accept().begin() for _ in range(3)]
        wires[1].ask(ATOMS)
        wires[1].drop()
        assert mine.ends() == ""
        assert wires[0].closed()
        assert wires[2].closed()


def test_exit_as_the_first_word():
    with FakeIpi() as ipi, driven(ipi.address, ATOMS) as mine:
        ipi.accept().drop()
        assert mine.ends() == ""


# The server stops --------------------------------------------------------------------------------


def test_stopped_while_it_waits_for_i_pi():
    with driven(f"unix:{own_name()}", ATOMS, sockets=3) as mine:
        mine.until("waiting for i-PI")
        mine.server.stop()
        assert mine.ends() == ""


def test_stopped_with_beads_that_wait_for_others():
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, Cheap(), 3) as mine:
        wires = [ipi.accept().begin() for _ in range(3)]
        wires[1].say(posdata(ATOMS), GETFORCE)
        mine.server.stop()
        [answer] = wires[1].answer(4)
        np.testing.assert_allclose(answer.forces, -ATOMS.positions, rtol=1e-12)
        assert [wire.closed() for wire in wires] == [True] * 3
        assert mine.ends() == ""


@pytest.mark.parametrize("sent", [5, 100, 200])
def test_stopped_in_the_middle_of_a_request(sent):
    """It is not waited for, and i-PI's side is not reset."""
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, Cheap()) as mine:
        wire = ipi.accept().begin()
        wire.say(posdata(ATOMS)[:sent])
        mine.server.stop()
        assert wire.sock.recv(1) == b""
        assert mine.ends() == ""


def test_a_fault_of_the_last_answer_is_told_though_the_server_stops():
    gate = Gate()
    cheap = Cheap(during=gate, spoil=lambda _, forces: replace(forces, energy=None))
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, cheap) as mine:
        wire = ipi.accept().begin()
        wire.say(posdata(ATOMS), GETFORCE)
        assert gate.reached.wait(PATIENCE)
        mine.server.stop()
        gate.open.set()
        mine.fails(wire, "gave no energy")
