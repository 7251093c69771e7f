"""`forcenet-md watch`: what it shows of a server at work, and that it holds nothing up."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import typer
from ase.build import bulk
from in_process_runs import ARGON, NVE, lammps
from lammps_runs import EXTERNAL, NO_PAIR, crystal, lmp
from serving import COMMAND, ServeProcess, copper, in_thread
from test_ipi_run import FOREVER, INPUT
from typer.testing import CliRunner

from forcenet_md.cli.watch import watch
from forcenet_md.errors import AddressError, ProtocolError, RequestError
from forcenet_md.inference.load import load_evaluator
from forcenet_md.inference.watched import WatchedEvaluator
from forcenet_md.server import runs
from forcenet_md.server.client import Client
from forcenet_md.server.monitor import Largest, Monitor
from forcenet_md.server.runs import RunAddress, running
from forcenet_md.server.status import Status, status_lines
from forcenet_md.system import Forces
from forcenet_md.watching.heat import HeatWatch


def watched(address: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "watch", address, *options],
        capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def once(*address: str) -> str:
    """In this process: a start of Python for each would take longer than the rest."""
    watching = typer.Typer()
    watching.command()(watch)
    return CliRunner().invoke(watching, [*address, "--once"], catch_exceptions=False).stdout


def test_a_status_tells_of_steps_and_of_each_simulation(tmp_path: Path) -> None:
    evaluator = WatchedEvaluator(load_evaluator("ase:emt"), [HeatWatch(lambda _: None)])
    atoms = copper()
    with (
        in_thread(tmp_path / "s", evaluator) as (_, address),
        Client(address) as looker,
        Client(address) as engine,
    ):
        first = looker.status()
        assert (first.steps, first.simulations, first.clients) == (0, {}, 0)
        assert engine.hello(["Cu"], masses=[63.546]).velocities
        v = np.full((len(atoms), 3), 2.0)
        for step in (7, 8):
            engine.step(
                atoms.positions, np.ones(len(atoms)), atoms.cell.array, velocities=v,
                step=step, timestep=0.0,
            )  # fmt: skip
        status = looker.status()
        engine.close()
        with Client(address) as another:  # which takes the place of the first
            another.hello(["Cu"], masses=[63.546])
            for step in (9, 10):
                another.step(
                    atoms.positions, np.ones(len(atoms)), atoms.cell.array, velocities=0.5 * v,
                    step=step, timestep=0.0,
                )  # fmt: skip
            [later] = looker.status().simulations.values()
    assert (status.model, status.steps, status.ranks) == ("ase:emt", 2, 1)
    assert status.clients == 1  # who looks is none
    assert status.atoms == 2 * len(atoms)
    assert status.clock > first.clock
    [told] = status.simulations.values()
    assert (told["step"], told["atoms"]) == ("8", str(len(atoms)))
    # m v² / 3 kB, 12 Å²/ps²
    expected = 63.546 * 12.0 * 1.0364270e-4 / (3.0 * 8.617333e-5)
    assert told["temperature"] == f"Cu {expected:.4g}"
    assert later["temperature"] == f"Cu {expected / 4.0:.4g}"


def test_a_net_force_that_means_nothing_is_not_told() -> None:
    """Of models that were trained without it."""
    largest = Largest()
    largest.see(Forces(np.ones((2, 3)), net_force=np.array([0.6, 0.0, 0.0])))
    for removed, told in ((False, 1), (True, 0)):
        model = replace(load_evaluator("ase:emt").capabilities, net_force_removed=removed)
        said = largest.describe(model)
        assert said == ["had a net force of at most 0.3 eV/Å per atom"] * told
        lines = status_lines(model, Monitor(), {0: {"force": "1.7", "net": "0.3"}})
        assert ("simulation", "1 force 1.7") in lines
        assert lines.count(("simulation", "1 net 0.3")) == told


def test_who_only_looks_takes_no_place_of_a_simulation(tmp_path: Path) -> None:
    """The first that asks for forces is simulation 1, whoever came before it."""
    evaluator = WatchedEvaluator(load_evaluator("ase:emt"), [])
    atoms = copper()

    def ask(client: Client) -> None:
        client.hello(["Cu"])
        client.step(atoms.positions, np.ones(len(atoms)), atoms.cell.array)

    with in_thread(tmp_path / "s", evaluator) as (_, address), Client(address) as looker:
        looker.status()
        with Client(address) as one, Client(address) as two:
            ask(one)
            ask(two)
            assert sorted(looker.status().simulations) == [1, 2]
        while looker.status().clients:
            pass
        with Client(address) as three:
            ask(three)
            assert sorted(looker.status().simulations) == [1, 2]


def test_a_status_with_a_gap_is_refused() -> None:
    with pytest.raises(ProtocolError, match="STATUS is incomplete"):
        Status.read({"server": ["x"]})


def test_a_run_is_watched_and_goes_on(tmp_path: Path, plugin: Path) -> None:
    with ServeProcess("--listen", f"unix:{tmp_path}/s") as server:
        script = (
            crystal(cells=3)
            + NO_PAIR
            + EXTERNAL
            + f"forcenet ext unix:{tmp_path}/s elements Ar\nfix 1 all nve\nthermo 1\nrun 100000\n"
        )
        with lmp(script, tmp_path) as engine:
            server.until("108 atoms")
            done = watched(f"unix:{tmp_path}/s", "--once")
            assert done.returncode == 0, done.stderr
            assert re.search(r"serves ase:lj\S* to 1 client:", done.stdout)
            assert re.search(r"steps/s, .* ms a step: network ", done.stdout)
            for row in (r"simulation +1", r"step +\d+", r"atoms +108", r"temperature, K +Ar \d"):
                assert re.search(rf"^{row}", done.stdout, re.M), done.stdout
            assert engine.poll() is None
        server.end(signal.SIGTERM)
        assert server.text.count("connected") == 1  # no word of who has looked
    with pytest.raises(AddressError):
        once(f"unix:{tmp_path}/s")


def test_in_a_terminal_it_ends_with_the_server(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with ServeProcess("--listen", f"unix:{tmp_path}/s") as server:
        command = [*COMMAND, "watch", f"unix:{tmp_path}/s", "--every", "0.1"]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        looker = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        text = ""
        while "no simulation has asked for forces yet" not in text:
            text += os.read(ours, 4096).decode()
        server.end(signal.SIGTERM)
        while "it has ended" not in text:
            text += os.read(ours, 4096).decode()
        assert looker.wait(20) == 0
    os.close(ours)


def test_a_run_is_watched_by_its_number_and_asked_for_nothing_else(tmp_path: Path) -> None:
    """Also where forces want a secret: the system tells who is at the other end."""
    secret = tmp_path / "secret"
    secret.write_text("of this server")
    options = ("--listen", f"unix:{tmp_path}/s", "--secret-file", str(secret))
    with ServeProcess(*options) as server:
        address = RunAddress(server.process.pid)
        assert address in running()
        assert "serves ase:lj" in once(str(address))
        with (
            Client(address.connect()) as looker,
            pytest.raises(RequestError, match="for watching alone"),
        ):
            looker.hello(["Ar"])
        server.process.kill()
        server.process.wait()
        assert address not in running()
    with pytest.raises(AddressError, match=f"no run {address.number} of yours"):
        address.connect()


def test_without_an_address_the_one_run_is_watched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[RunAddress] = []
    monkeypatch.setattr(runs, "running", lambda: found)  # not those of other tests

    with pytest.raises(AddressError, match="no run of yours is on this machine"):
        once()
    with pytest.raises(AddressError, match="'foo' is not an address: use run:NUMBER, unix:"):
        once("foo")
    with ServeProcess("--listen", f"unix:{tmp_path}/s") as server:
        found.append(RunAddress(server.process.pid))
        assert "serves ase:lj" in once()
        found.append(RunAddress(2**22 + 1))  # more than the system numbers: it has just ended
        sentence = rf"watch one of {found[0]} \(ase:lj.*, 0 steps\)\.$"
        with pytest.raises(AddressError, match=sentence):
            once()


def until_it_steps(address: RunAddress) -> Status:
    """What a run says of itself once it has made steps."""
    while address not in running():
        time.sleep(0.05)
    with Client(address.connect()) as looker:
        while not looker.status().steps:
            time.sleep(0.05)
        return looker.status()


@pytest.mark.usefixtures("plugin")
def test_lammps_with_the_model_in_its_process_is_watched(tmp_path: Path) -> None:
    with lammps(ARGON + NVE + "run 1000000", tmp_path) as process:
        address = RunAddress(process.pid)
        status = until_it_steps(address)
        assert status.model.startswith("ase:lj")
        assert status.simulations[1]["atoms"] == "32"
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL
    assert address not in running()


@pytest.mark.slow
def test_ipi_is_watched(tmp_path: Path) -> None:
    bulk("Cu", cubic=True).write(tmp_path / "cu.extxyz")
    name = f"forcenet_md_{uuid4().hex}"
    text = INPUT.format(name=name, steps=FOREVER, beads=1, timestep=1, more="")
    (tmp_path / "input.xml").write_text(text)
    process = subprocess.Popen(
        [*COMMAND, "ipi", "input.xml", "--model", "ase:emt"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        address = RunAddress(process.pid)
        status = until_it_steps(address)
        assert status.model == "ase:emt"
        assert status.simulations[1]["atoms"] == "4"
        process.terminate()
        said = process.communicate(timeout=60)[0]
        assert f"to watch it: forcenet-md watch {address}\n" in said
        assert address not in running()
    finally:
        process.kill()
        process.communicate()
