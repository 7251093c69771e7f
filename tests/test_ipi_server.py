"""i-PI's faults and ours, with a scripted i-PI and a driver in this process."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from ipi_driven import Cheap, driven, polled, template_of
from ipi_peer import (
    GETFORCE,
    STATUS,
    FakeIpi,
    RealIpi,
    Wire,
    free_port,
    init,
    own_name,
    posdata,
    posdata_batch,
    socket_file,
    word,
)
from serving import PATIENCE, copper, reference

from forcenet_md.errors import (
    AddressError,
    EvaluationError,
    RequestError,
    UnknownElementError,
)
from forcenet_md.server import ipi as driver_module
from forcenet_md.server.ipi import IpiDriver, IpiError, parse_ipi_address
from forcenet_md.server.loop import Server
from forcenet_md.server.template import Template, check_template, read_template

ATOMS = copper()
both_families = pytest.mark.parametrize("port", [None, 0], ids=["unix", "tcp"])


def readable(wire: Wire) -> bool:
    return bool(select.select([wire.sock], [], [], PATIENCE)[0])


class Gate:
    """Holds an evaluation until it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(PATIENCE)


# What i-PI asks --------------------------------------------------------------------------------


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


# Beads -----------------------------------------------------------------------------------------


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


# i-PI comes and goes ---------------------------------------------------------------------------


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


# What is refused: nothing is sent, the connection is closed, a sentence says why -----------------


def ends_with(mine, wire: Wire, words: str) -> None:
    assert wire.closed()
    failure = mine.ends()
    assert words in failure
    assert failure.endswith(".")
    assert words in mine.log


SPOILED = {
    "nan": (lambda f: replace(f, forces=f.forces * np.nan), "not finite"),
    "inf": (lambda f: replace(f, forces=f.forces + np.inf), "not finite"),
    "short": (lambda f: replace(f, forces=f.forces[:3]), "4 atoms with forces (3, 3)"),
    "no energy": (lambda f: replace(f, energy=None), "gave no energy"),
    "no virial": (lambda f: replace(f, stress=None), "no virial"),
    "energy": (lambda f: replace(f, energy=np.nan), "not finite"),
    "refused": (lambda f: EvaluationError("it is too hot."), "it is too hot."),
}


@pytest.mark.parametrize("flow", ["consolidated", "older", "batch"])
@pytest.mark.parametrize("fault", SPOILED)
def test_an_evaluator_that_fails(fault, flow):
    spoil, words = SPOILED[fault]
    cheap = Cheap(spoil=lambda request, forces: spoil(forces))
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, cheap) as mine:
        wire = ipi.accept().begin(" batch_size:2" if flow == "batch" else " ")
        if flow == "batch":
            wire.say(posdata_batch([ATOMS, copper(seed=1)]), GETFORCE)
        else:
            wire.say(posdata(ATOMS), GETFORCE if flow == "consolidated" else STATUS)
        ends_with(mine, wire, words)


def test_one_bead_that_fails_ends_all():
    bad = copper(seed=1)

    def spoil(request, forces):
        failed = np.allclose(request.system.positions, bad.positions)
        return EvaluationError("this one.") if failed else forces

    with FakeIpi() as ipi, driven(ipi.address, ATOMS, Cheap(spoil=spoil)) as mine:
        wire = ipi.accept().begin(" batch_size:3")
        wire.say(posdata_batch([ATOMS, bad, copper(seed=2)]), GETFORCE)
        ends_with(mine, wire, "this one.")
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, Cheap(spoil=spoil), 3) as mine:
        wires = [ipi.accept().begin() for _ in range(3)]
        for wire, atoms in zip(wires, (ATOMS, bad, copper(seed=2)), strict=True):
            wire.say(posdata(atoms), GETFORCE)
        ends_with(mine, wires[1], "this one.")
        assert mine.ends() == "this one."


def test_an_evaluator_that_raises():
    def broken() -> None:
        raise OSError("the device is gone")

    with FakeIpi() as ipi, polled(ipi.address, ATOMS, Cheap(during=broken)) as mine:
        wire = ipi.accept()
        wire.say(init(), posdata(ATOMS), GETFORCE)
        mine.settle()
        assert wire.closed()
        assert "the device is gone" in str(mine.driver.failure)
        assert len(mine.monitor.faults) == 1
        mine.monitor.lines.clear()


def nan_positions():
    atoms = copper()
    atoms.positions[2, 1] = np.nan
    return atoms


def flat_cell():
    atoms = copper()
    atoms.cell[2] = 0.0
    return atoms


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (posdata(copper(2)), "i-PI sends 32 atoms but the template has 4"),
        (posdata(ATOMS, n=3), "i-PI sends 3 atoms but the template has 4"),
        (posdata(ATOMS, n=-1), "i-PI sends -1 atoms but the template has 4"),
        (posdata(nan_positions()), "the position of atom 3 is not finite"),
        (posdata(flat_cell()), "the cell has no volume"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "which i-PI would not say now"),
        (GETFORCE, "which i-PI would not say now"),
        (init(" " * (2 << 20)), "i-PI's INIT has a text of 2097152 bytes"),
        (init(" batch_size:5000"), "set a batch_size from 1 to 4096"),
    ],
)
def test_a_request_that_cannot_be_served(message, words):
    with FakeIpi() as ipi, driven(ipi.address, ATOMS) as mine:
        wire = ipi.accept().begin()
        with contextlib.suppress(BrokenPipeError):
            wire.say(message)
        ends_with(mine, wire, words)


@pytest.mark.parametrize("settings", [{}, {"consolidate_messages": False}, {"batch_size": 2}])
@pytest.mark.parametrize("fault", ["atoms", "positions"])
def test_i_pi_goes_on_with_a_better_driver(fault, settings):
    """i-PI's polling thread dies of a connection that is reset."""
    images = [copper(2), copper(2, seed=1)]
    with RealIpi(**settings) as ipi:
        with driven(ipi.address, ATOMS if fault == "atoms" else images[0], Cheap()) as mine:
            requests = ipi.queue(images)
            if fault == "positions":
                good = requests[0]["pos"]
                requests[0]["pos"] = good * np.nan
            while mine.thread.is_alive():
                ipi.poll()
            assert mine.ends()
        if fault == "positions":
            requests[0]["pos"] = good
        with driven(ipi.address, images[0], Cheap()):
            for atoms, answer in zip(images, ipi.wait(requests), strict=True):
                np.testing.assert_allclose(answer.forces, -atoms.positions, rtol=1e-12)


def test_positions_before_init_are_refused():
    with FakeIpi() as ipi, driven(ipi.address, ATOMS) as mine:
        wire = ipi.accept()
        wire.say(posdata(ATOMS))
        ends_with(mine, wire, "which i-PI would not say now")


@pytest.mark.parametrize("settings", [{}, {"batch_size": 2}, {"consolidate_messages": False}])
def test_shared_memory_is_recognised(settings):
    with RealIpi(mode="shm", **settings) as ipi, driven(ipi.address, ATOMS) as mine:
        ipi.queue([ATOMS])
        while mine.thread.is_alive():
            ipi.poll()
        assert "set mode='unix' in place of mode='shm'" in mine.ends()


def test_a_moving_cell_needs_a_virial():
    cheap = Cheap(stress=False)
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, cheap) as mine:
        wire = ipi.accept().begin()
        for _ in range(100):
            wire.ask(ATOMS)  # the same cell for ever is fine
        atoms = ATOMS.copy()
        answered = 0
        with contextlib.suppress(EOFError):
            for _ in range(200):
                atoms.set_cell(atoms.cell.array * 1.0001, scale_atoms=True)
                wire.ask(atoms)
                answered += 1
        assert "run at constant volume" in mine.ends()
        assert answered < 100


def test_templates_that_cannot_be_served():
    model = Cheap().capabilities
    numbers = np.array([29, 29, 3], dtype=np.int64)
    pbc = np.ones(3, dtype=bool)
    with pytest.raises(UnknownElementError, match="the template has Li"):
        check_template(Template(numbers, pbc), model, 100)
    with pytest.raises(RequestError, match="3 atoms, more than the 2"):
        check_template(Template(np.full(3, 29), pbc), model, 2)
    with pytest.raises(RequestError, match="no atoms"):
        check_template(Template(np.zeros(0, dtype=np.int64), pbc), model, 2)
    server = Server(Cheap())
    with pytest.raises(UnknownElementError):
        IpiDriver(server, parse_ipi_address("unix:x"), Template(numbers, pbc))
    server.close()


def test_a_template_says_elements_periodicity_and_held_atoms(tmp_path):
    from ase.constraints import FixAtoms

    atoms = copper()
    atoms.symbols[1] = "Au"
    atoms.pbc = (True, True, False)
    atoms.set_constraint(FixAtoms([0]))
    atoms.write(tmp_path / "held.traj")
    template = read_template(tmp_path / "held.traj")
    assert template.numbers.tolist() == [29, 79, 29, 29]
    assert template.pbc.tolist() == [True, True, False]
    assert template.keep_net_force
    atoms.set_constraint()
    atoms.write(tmp_path / "plain.xyz", format="xyz")
    template = read_template(tmp_path / "plain.xyz")
    assert template.pbc.all()
    assert not template.keep_net_force


def test_what_is_held_reaches_the_evaluator():
    cheap = Cheap()
    server = Server(cheap)
    with FakeIpi() as ipi:
        driver = IpiDriver(server, parse_ipi_address(ipi.address), template_of(ATOMS, True))
        driver.connect()
        ipi.accept().say(init(), posdata(ATOMS))
        for _ in range(4):
            server.poll(0.0)
        assert cheap.batches[0][0].keep_net_force
        server.close()


@pytest.mark.parametrize("text", ["", "unix:", "name", "tcp:host", "unix:" + "n" * 120])
def test_addresses_that_are_none(text):
    with pytest.raises(AddressError):
        parse_ipi_address(text)


def test_addresses_are_i_pis():
    assert str(parse_ipi_address("unix:name")) == "unix:/tmp/ipi_name"
    assert str(parse_ipi_address("unix:/run/name")) == "unix:/run/name"
    assert str(parse_ipi_address("tcp:localhost:31415")) == "tcp:localhost:31415"


def test_too_many_sockets_for_this_process(monkeypatch):
    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    server = Server(Cheap())
    driver = IpiDriver(server, parse_ipi_address("unix:x"), template_of(ATOMS), 7, server.stop)
    with monkeypatch.context() as context:
        context.setattr(driver_module.socket, "socket", none_left)
        driver.connect()
    server.serve()
    assert isinstance(driver.failure, IpiError)
    assert "7 connections to i-PI cannot be opened (Too many open files)" in str(driver.failure)


# Large and many --------------------------------------------------------------------------------


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


def test_structures_are_refused_before_they_are_evaluated():
    """The evaluator never sees what System refuses."""
    cheap = Cheap()
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, cheap) as mine:
        wire = ipi.accept().begin(" batch_size:2")
        wire.say(posdata_batch([ATOMS, nan_positions()]), GETFORCE)
        ends_with(mine, wire, "not finite")
    assert cheap.batches == []
