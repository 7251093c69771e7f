"""Real i-PI processes: what they survive with us, and how full the batches of their beads are."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from ase import Atoms
from ipi_driven import Cheap, driven
from ipi_peer import free_port, own_name, socket_file
from ipi_runs import i_pi
from ipi_xml import STRUCTURE, dynamics, simulation, system, thermostat
from serving import LJ, PATIENCE, copper

from forcenet_md.errors import EvaluationError
from forcenet_md.inference.ase_evaluator import AseEvaluator

NVT = system(dynamics("nvt", thermostat("langevin")))
CHECKPOINT = "<checkpoint filename='checkpoint' stride='5' overwrite='True'/></output>"


@pytest.fixture
def name() -> Iterator[str]:
    name = own_name()
    yield name
    socket_file(name).unlink(missing_ok=True)


def text_of(name: str, steps: int, elements: str = "", systems: str = NVT, tcp: int = 0) -> str:
    """elements: more of <ffsocket>; tcp: a port, in place of the name."""
    mode, address = ("inet", "localhost") if tcp else ("unix", name)
    place = f"<address> {address} </address> <port> {tcp or 1} </port>"
    field = f"<ffsocket name='model' mode='{mode}' pbc='False'> {place} {elements} </ffsocket>"
    text = simulation([field], systems, steps)
    return text.replace("</output>", CHECKPOINT)


def folder_with(atoms: Atoms, folder: Path) -> Path:
    folder.mkdir()
    atoms.write(folder / STRUCTURE)
    return folder


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0, output
    return output


def state(folder: Path) -> tuple[int, np.ndarray]:
    """The step and all positions and momenta that i-PI has written at its end."""
    root = ElementTree.parse(folder / "RESTART").getroot()
    numbers = [
        np.fromstring(root.find(f".//beads/{what}").text.strip(" []\n"), sep=",")  # type: ignore[union-attr]
        for what in ("q", "p")
    ]
    return int(root.findtext("step") or 0), np.concatenate(numbers)


def steps_written(folder: Path) -> int:
    path = folder / "out.scalars"
    return len(path.read_text().splitlines()) if path.exists() else 0


def undisturbed(folder: Path, atoms: Atoms, steps: int, systems: str = NVT) -> np.ndarray:
    name = own_name()
    folder_with(atoms, folder)
    text = text_of(name, steps, systems=systems)
    with i_pi(folder, text) as process, driven(f"unix:{name}", atoms) as mine:
        finished(process)
        assert mine.ends() == ""
    step, numbers = state(folder)
    assert step == steps
    return numbers


def assert_same_state(folder: Path, steps: int, expected: np.ndarray) -> None:
    """i-PI's checkpoints keep nine digits of its timestep."""
    step, numbers = state(folder)
    assert step == steps
    assert np.abs(expected).max() > 1.0
    np.testing.assert_allclose(numbers, expected, rtol=0, atol=1e-6)


class Disturbing(AseEvaluator):
    """Something happens in the middle of one evaluation."""

    def __init__(self, at: int, what: Callable[[], None]) -> None:
        super().__init__(LJ)
        self.count, self.at, self.what = 0, at, what

    def evaluate(self, requests):
        self.count += 1
        if self.count == self.at:
            self.what()
        return super().evaluate(requests)


# Faults ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_i_pi_is_killed_and_goes_on_from_its_checkpoint(tmp_path, name):
    """The driver waits meanwhile, and is told EXIT at the end."""
    atoms = copper()
    folder = folder_with(atoms, tmp_path / "killed")
    text = text_of(name, 40)
    started: list[subprocess.Popen[str]] = []
    evaluator = Disturbing(18, lambda: (started[0].kill(), started[0].wait()))
    with driven(f"unix:{name}", atoms, evaluator) as mine:
        with i_pi(folder, text) as process:
            started.append(process)
            process.wait(PATIENCE)
        socket_file(name).unlink()  # i-PI would refuse to start
        with i_pi(folder, (folder / "out.checkpoint").read_text()) as process:
            expected = undisturbed(tmp_path / "alone", atoms, 40)
            finished(process)
            assert mine.ends() == ""
    assert evaluator.count > 41
    assert_same_state(folder, 40, expected)


@pytest.mark.slow
@pytest.mark.parametrize("elements", ["", "<consolidate_messages> False </consolidate_messages>"])
@pytest.mark.parametrize("sockets", [1, 4])
def test_the_driver_is_killed_and_another_joins(tmp_path, name, sockets, elements):
    atoms = copper(2)
    paths = system(dynamics("nvt", thermostat("pile_g")), beads=4)
    folder = folder_with(atoms, tmp_path / "killed")
    killed = get_context("spawn").Process(target=killed_driver, args=(name, atoms, sockets))
    with i_pi(folder, text_of(name, 40, elements, paths)) as process:
        killed.start()
        killed.join(PATIENCE)
        assert killed.exitcode == -signal.SIGKILL
        assert process.poll() is None
        with driven(f"unix:{name}", atoms, sockets=sockets) as mine:
            finished(process)
            assert mine.ends() == ""
    assert_same_state(folder, 40, undisturbed(tmp_path / "alone", atoms, 40, paths))


def killed_driver(name: str, atoms: Atoms, sockets: int) -> None:
    """A process that is killed in the midst of a full batch: it has read all that i-PI said. If it
    died with something unread, i-PI would see its connection reset, of which the thread that speaks
    with the drivers may end: no other driver could help it then."""

    class Killed(AseEvaluator):
        count = 0

        def evaluate(self, requests):
            self.count += 1
            if self.count > 15 and len(requests) == sockets:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().evaluate(requests)

    with driven(f"unix:{name}", atoms, Killed(LJ), sockets) as mine:
        mine.ends()


@pytest.mark.slow
def test_the_driver_is_stopped_by_a_signal_and_another_joins(tmp_path, name):
    atoms = copper(2)
    folder = folder_with(atoms, tmp_path / "stopped")
    with i_pi(folder, text_of(name, 40)) as process:
        with driven(f"unix:{name}", atoms, Disturbing(10, lambda: mine.server.stop())) as mine:
            mine.ends()
        with driven(f"unix:{name}", atoms) as mine:
            finished(process)
            assert mine.ends() == ""
    assert_same_state(folder, 40, undisturbed(tmp_path / "alone", atoms, 40))


@pytest.mark.slow
@pytest.mark.parametrize("sockets", [1, 3])
@pytest.mark.parametrize("tcp", [False, True])
def test_i_pis_timeout_drops_a_slow_driver_that_comes_back(tmp_path, name, tcp, sockets):
    atoms = copper()
    port = free_port() if tcp else 0
    paths = system(dynamics("nvt", thermostat("pile_g")), beads=3)
    folder = folder_with(atoms, tmp_path / "slow")
    address = f"tcp:localhost:{port}" if tcp else f"unix:{name}"
    slow = Disturbing(10, lambda: time.sleep(1.5))
    text = text_of(name, 40, "<timeout> 0.5 </timeout>", paths, port)
    with i_pi(folder, text) as process, driven(address, atoms, slow, sockets) as mine:
        finished(process)
        assert mine.ends() == ""
    assert "raise its <timeout>" in mine.log
    assert_same_state(folder, 40, undisturbed(tmp_path / "alone", atoms, 40, paths))


@pytest.mark.slow
def test_i_pi_can_be_asked_to_end_when_its_driver_fails(tmp_path, name):
    """<exit_on_disconnect>: then nobody is left waiting, and there is a RESTART."""
    atoms = copper()
    folder = folder_with(atoms, tmp_path / "failing")
    count = iter(range(1000))
    cheap = Cheap(spoil=lambda _, f: EvaluationError("no more.") if next(count) == 20 else f)
    text = text_of(name, 40, "<exit_on_disconnect> True </exit_on_disconnect>")
    with i_pi(folder, text) as process, driven(f"unix:{name}", atoms, cheap) as mine:
        finished(process)
        assert mine.ends() == "no more."
    assert state(folder)[0] == 19  # the last step of which all forces came


@pytest.mark.slow
@pytest.mark.parametrize("elements", ["", "<consolidate_messages> False </consolidate_messages>"])
def test_over_tcp_with_more_sockets_than_may_queue(tmp_path, name, elements):
    atoms = copper()
    port = free_port()
    paths = system(dynamics("nvt", thermostat("pile_g")), beads=16)
    folder = folder_with(atoms, tmp_path / "tcp")
    text = text_of(name, 40, elements, paths, port)
    with i_pi(folder, text) as process, driven(f"tcp:localhost:{port}", atoms, None, 16) as mine:
        finished(process)
        assert mine.ends() == ""
    assert_same_state(folder, 40, undisturbed(tmp_path / "alone", atoms, 40, paths))


# Batches ---------------------------------------------------------------------------------------


def share_in_full_batches(
    folder: Path, name: str, beads: int, sockets: int, elements: str = "", repeat: int = 1
) -> float:
    """Of the beads of 100 steps, without the first ones, with a model of some milliseconds.

    All but some: what else the machine does tears a batch apart now and then.
    """
    atoms = copper(repeat)
    cheap = Cheap(during=lambda: time.sleep(0.005))
    paths = system(dynamics("nvt", thermostat("pile_g"), timestep=0.5), beads=beads)
    text = text_of(name, 100, elements, paths)
    own = folder_with(atoms, folder / "run")
    with i_pi(own, text) as process, driven(f"unix:{name}", atoms, cheap, sockets) as mine:
        finished(process)
        assert mine.ends() == ""
    later = cheap.sizes[10:]
    return later.count(beads) * beads / sum(later)


OLDER = "<consolidate_messages> False </consolidate_messages>"
BATCHED = "<batch_size> 16 </batch_size>"


@pytest.mark.parametrize(
    ("beads", "sockets", "elements"),
    [
        pytest.param(16, 1, BATCHED, marks=pytest.mark.slow),
        pytest.param(16, 16, "", marks=pytest.mark.slow),
        pytest.param(4, 4, "", marks=pytest.mark.slow),
        pytest.param(4, 1, "<batch_size> 4 </batch_size>", marks=pytest.mark.slow),
        pytest.param(4, 4, OLDER, marks=pytest.mark.slow),
        pytest.param(32, 32, "", marks=pytest.mark.slow),
        pytest.param(32, 2, BATCHED, marks=pytest.mark.slow),
    ],
)
def test_the_beads_of_a_step_are_one_batch(tmp_path, name, beads, sockets, elements):
    assert share_in_full_batches(tmp_path, name, beads, sockets, elements) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("sockets", [4, 1])
def test_large_structures_need_i_pis_latency(tmp_path, name, sockets):
    """i-PI takes a millisecond to queue a bead of 4000 atoms, and sends what it has by then."""
    elements = "<latency> 5e-3 </latency>"
    elements += "<batch_size> 4 </batch_size>" if sockets == 1 else ""
    assert share_in_full_batches(tmp_path, name, 4, sockets, elements, repeat=10) >= 0.7
