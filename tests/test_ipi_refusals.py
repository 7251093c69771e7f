"""What is refused: nothing is sent to i-PI, the connection is closed, a sentence says why."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace

import numpy as np
import pytest
from ipi_driven import Cheap, driven, polled, template_of
from ipi_peer import (
    GETFORCE,
    STATUS,
    FakeIpi,
    RealIpi,
    init,
    own_name,
    posdata,
    posdata_batch,
    socket_file,
)
from serving import copper

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
        mine.fails(wire, words)


def test_one_bead_that_fails_ends_all():
    bad = copper(seed=1)

    def spoil(request, forces):
        failed = np.allclose(request.system.positions, bad.positions)
        return EvaluationError("this one.") if failed else forces

    with FakeIpi() as ipi, driven(ipi.address, ATOMS, Cheap(spoil=spoil)) as mine:
        wire = ipi.accept().begin(" batch_size:3")
        wire.say(posdata_batch([ATOMS, bad, copper(seed=2)]), GETFORCE)
        mine.fails(wire, "this one.")
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, Cheap(spoil=spoil), 3) as mine:
        wires = [ipi.accept().begin() for _ in range(3)]
        for wire, atoms in zip(wires, (ATOMS, bad, copper(seed=2)), strict=True):
            wire.say(posdata(atoms), GETFORCE)
        mine.fails(wires[1], "this one.")
        assert wires[2].closed()


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


def test_a_fault_of_our_own_is_told_too():
    cheap = Cheap(spoil=lambda _, forces: replace(forces, forces="no array"))
    with FakeIpi() as ipi, polled(ipi.address, ATOMS, cheap) as mine:
        wire = ipi.accept()
        wire.say(init(), posdata(ATOMS), GETFORCE)
        mine.settle()
        assert wire.closed()
        assert "a fault of the server" in str(mine.driver.failure)
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
        mine.fails(wire, words)


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
        mine.fails(wire, "which i-PI would not say now")


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


def test_i_pi_is_sought_where_it_listens(monkeypatch):
    """It knows IPv4 only, whatever a host's name means first."""
    with FakeIpi(port=0) as ipi:
        place = ipi.listener.getsockname()
        found = [(socket.AF_INET6, ("::1", place[1], 0, 0)), (socket.AF_INET, place)]
        monkeypatch.setattr(driver_module, "resolve", lambda _: found)
        with driven(ipi.address, ATOMS) as mine:
            ipi.accept().begin().drop()
            assert mine.ends() == ""


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
    assert "(Too many open files): give fewer --sockets" in str(driver.failure)


def test_an_address_that_will_never_be_i_pis():
    path = socket_file(own_name())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with driven(f"unix:{path}", ATOMS) as mine:
            assert "cannot be connected to (Protocol wrong type for socket)" in mine.ends()
    path.unlink()


def test_structures_are_refused_before_they_are_evaluated():
    """The evaluator never sees what System refuses."""
    cheap = Cheap()
    with FakeIpi() as ipi, driven(ipi.address, ATOMS, cheap) as mine:
        wire = ipi.accept().begin(" batch_size:2")
        wire.say(posdata_batch([ATOMS, nan_positions()]), GETFORCE)
        mine.fails(wire, "not finite")
    assert cheap.batches == []
