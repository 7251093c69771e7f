"""`forcenet-md serve --ipi` as a user runs it: processes, signals, exit codes, other clients."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from ipi_peer import GETFORCE, STATUS, FakeIpi, posdata, word
from serving import COMMAND, PATIENCE, ServeProcess, ask, copper

from forcenet_md.cli.serve import ipi_options
from forcenet_md.errors import DataError, RequestError
from forcenet_md.server.client import Client

ATOMS = copper(2)


@pytest.fixture
def template(tmp_path: Path) -> str:
    ATOMS.write(tmp_path / "template.extxyz")
    return str(tmp_path / "template.extxyz")


@pytest.fixture
def ipi() -> Iterator[FakeIpi]:
    with FakeIpi() as ipi:
        yield ipi


def overlapping():
    atoms = ATOMS.copy()
    atoms.positions[1] = atoms.positions[0]
    return atoms


def test_a_model_that_fails_is_told_in_a_sentence_and_with_how_to_end_i_pi(ipi, template):
    with ServeProcess(
        *("--ipi", ipi.address, "--template", template, "--sockets", "2"), wait=False
    ) as server:
        one, other = ipi.accept().begin(), ipi.accept().begin()
        one.say(posdata(ATOMS), GETFORCE)
        other.say(posdata(overlapping()), GETFORCE)
        assert other.closed()
        assert server.wait() == 1
    last = server.text.rstrip().splitlines()[-1]
    assert last.startswith("forcenet-md: error: the forces are not finite: two atoms lie on one")
    assert last.endswith("end it with `touch EXIT` in its folder, which leaves a RESTART.")
    assert "Traceback" not in server.text


@pytest.mark.parametrize(
    ("number", "flow"),
    [
        (signal.SIGTERM, "consolidated"),
        pytest.param(signal.SIGINT, "older", marks=pytest.mark.slow),
    ],
)
def test_a_signal_lets_the_answer_go_out(number, flow, ipi, template):
    atoms = copper(6)  # 864 atoms take ASE long enough for the signal to come first
    atoms.write(template)
    with ServeProcess("--ipi", ipi.address, "--template", template, wait=False) as server:
        wire = ipi.accept().begin()
        wire.say(posdata(atoms), GETFORCE if flow == "consolidated" else STATUS)
        server.process.send_signal(number)
        if flow == "older":
            assert wire.hear(12) == word("havedata")
            wire.say(GETFORCE)
        [answer] = wire.answer(len(atoms))
        assert wire.closed()
        assert server.wait() == 0
    assert "i-PI socket 1 left after 1 steps: the server was stopped" in server.text
    twin = atoms.copy()
    twin.calc = LennardJones(sigma=2.3, epsilon=0.3, rc=5.0)
    np.testing.assert_allclose(answer.forces, twin.get_forces(), atol=1e-9)


@pytest.mark.slow
def test_i_pi_goes_on_with_another_server(ipi, template):
    arguments = ("--ipi", ipi.address, "--template", template, "--sockets", "2")
    answers = []
    for number in (signal.SIGINT, signal.SIGKILL, None):
        with ServeProcess(*arguments, wait=False) as server:
            wires = [ipi.accept().begin(), ipi.accept().begin()]
            answers += [wire.ask(ATOMS).forces for wire in wires]
            if number is None:
                wires[1].drop()
                assert server.wait() == 0
            else:
                assert server.end(number) == (0 if number == signal.SIGINT else -number)
                assert all(wire.closed() for wire in wires)
    assert "left after 1 steps: i-PI said EXIT" in server.text
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])


def test_lammps_is_served_beside_i_pi_and_after_its_fault(ipi, template, tmp_path):
    place = f"unix:{tmp_path}/s"
    arguments = ("--ipi", ipi.address, "--template", template, "--listen", place)
    with ServeProcess(*arguments) as server:
        wire = ipi.accept().begin()
        with Client(place) as client:
            client.hello(["Cu"])
            for seed in range(3):
                atoms = copper(2, seed)
                wire.say(posdata(atoms), GETFORCE)
                mine = ask(client, atoms).forces
                [theirs] = wire.answer(len(atoms))
                assert wire.status() == "READY"
                np.testing.assert_allclose(mine, theirs.forces, atol=1e-9)
            wire.say(posdata(overlapping()), GETFORCE)
            assert wire.closed()
            ask(client, ATOMS)
        with Client(place) as client:
            client.hello(["Cu"])
            ask(client, ATOMS)
        server.until("left after 3 steps: the forces are not finite")
        assert server.end() == 1  # the fault of i-PI's side is not forgotten
    assert "error: the forces are not finite" in server.text


@pytest.mark.slow
def test_a_structure_with_other_elements_is_refused_at_the_start(ipi, template):
    atoms = ATOMS.copy()
    atoms.symbols[:4] = "FeFeLiFe"
    atoms.write(template)
    arguments = ("--ipi", ipi.address, "--template", template)
    command = [*COMMAND, "serve", "--model", "ase:emt", *arguments]
    server = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert server.returncode == 1
    assert "the template has Fe Li, which the model ase:emt does not know" in server.stderr
    assert server.stderr.count("\n") == 1


def test_options_that_lack_one_another(tmp_path, template):
    path = Path(template)
    with pytest.raises(RequestError, match="give its address as --ipi"):
        ipi_options(None, path, 1)
    with pytest.raises(RequestError, match="give its address as --ipi"):
        ipi_options(None, None, 2)
    with pytest.raises(RequestError, match="--template FILE"):
        ipi_options("unix:x", None, 1)
    with pytest.raises(DataError, match="there is no file"):
        ipi_options("unix:x", tmp_path / "none", 1)
    assert ipi_options(None, None, 1) is None
    options = ipi_options("unix:x", path, 3)
    assert options is not None
    assert options.sockets == 3
    assert options.template.numbers.tolist() == [29] * 32
