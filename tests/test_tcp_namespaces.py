"""LAMMPS on one machine and the server on another: two network namespaces with a cable between.

Making them takes root's rights and the program ip.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import serving
from lammps_runs import EXTERNAL, NO_PAIR, Run, crystal, lmp, real_lmp
from serving import ServeProcess

from forcenet_md.errors import AddressError
from forcenet_md.server.address import TcpAddress
from forcenet_md.server.run import check_reach

ARGON = "ase:lj,sigma=3.4,epsilon=0.0103,rc=8.0"
SERVER, CLIENT = "10.213.77.1", "10.213.77.2"
CLOSED_PORT = 9
STEPS = 200
CUT = 20  # the step that LAMMPS has written when something happens to the network
SMALL_BUFFER = 8192  # bytes that the server's system takes in before the server reads them


@dataclass(frozen=True)
class Network:
    """Names of two namespaces; the server's end of the cable between them is `cable`."""

    server: str
    client: str
    cable: str = "cable0"

    def pull(self) -> None:
        ip("-n", self.server, "link", "set", self.cable, "down")

    def plug(self) -> None:
        """Put the cable in, and wait until packets come through: what was asked for the server's
        address meanwhile must have failed first, and fails new connections with it."""
        ip("-n", self.server, "link", "set", self.cable, "up")
        end = time.monotonic() + serving.PATIENCE
        while not self._reachable():
            assert time.monotonic() < end, "the cable is in and nothing comes through"

    def _reachable(self) -> bool:
        connect = f"import socket; socket.create_connection(('{SERVER}', {CLOSED_PORT}), 1.0)"
        there = ["ip", "netns", "exec", self.client, sys.executable, "-S", "-c", connect]
        done = subprocess.run(there, capture_output=True, text=True, check=False)
        return "ConnectionRefusedError" in done.stderr


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("no network namespaces: the program ip (iproute2) is not installed")
    one = Network(f"fnmd-server-{os.getpid()}", f"fnmd-client-{os.getpid()}")
    ends = ((one.server, one.cable, SERVER), (one.client, "cable1", CLIENT))
    try:
        for name, _, _ in ends:
            ip("netns", "add", name)
        ip(*f"link add cable0 netns {one.server} type veth".split(),
           *f"peer name cable1 netns {one.client}".split())  # fmt: skip
        for name, cable, address in ends:
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces can be made here: {error.stderr.strip()}")
    else:
        yield one
    finally:
        for name, _, _ in ends:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "secret"
    file.touch(mode=0o600)
    file.write_text("a long random text\n")
    return file


@contextmanager
def serve_at(namespace: str, *words: str) -> Iterator[ServeProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "COMMAND", ["ip", "netns", "exec", namespace, *serving.COMMAND])
        process = ServeProcess(*words, model=ARGON)
    with process:
        yield process


@pytest.fixture(scope="module")
def server(network: Network, secret: Path) -> Iterator[ServeProcess]:
    """It listens on a free port, and for this machine on a unix socket too."""
    listen = ["--listen", f"tcp:{SERVER}:0", "--listen", f"unix:{secret.parent}/socket"]
    limits = f"echo 4096 {SMALL_BUFFER} {SMALL_BUFFER} > /proc/sys/net/ipv4/tcp_rmem"
    ip("netns", "exec", network.server, "sh", "-c", limits)
    with serve_at(network.server, *listen, "--secret-file", str(secret)) as process:
        yield process


@pytest.fixture
def address(server: ServeProcess, network: Network) -> Iterator[str]:
    network.plug()
    yield re.findall(r"listening on (tcp:\S+)", server.text)[0]
    network.plug()


def script(address: str, options: str, cells: int = 2, steps: int = STEPS) -> str:
    return (
        crystal(cells)
        + NO_PAIR
        + EXTERNAL
        + f"forcenet ext {address} elements Ar {options}\n"
        + "fix 1 all nve\nthermo 1\nthermo_modify format float %.15g\n"
        + f"run {steps}\n"
    )


@contextmanager
def lmp_at(network: Network, text: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """LAMMPS on the other machine; signals reach LAMMPS itself."""
    program, environment = real_lmp()
    start = folder / "lmp-there"
    start.write_text(f'#!/bin/sh\nexec ip netns exec {network.client} "{program}" "$@"\n')
    start.chmod(0o700)
    with lmp(text, folder, environment=environment, program=start) as process:
        yield process


def run_at(network: Network, text: str, folder: Path) -> Run:
    with lmp_at(network, text, folder) as process:
        return ended(process)


def ended(process: subprocess.Popen[str], before: str = "") -> Run:
    output, _ = process.communicate(timeout=600)
    return Run(process.returncode, before + output)


@contextmanager
def moving(
    network: Network, text: str, folder: Path
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """LAMMPS in the midst of its run, and what it has written so far."""
    with lmp_at(network, text, folder) as process:
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if line.split()[:1] == [str(CUT)]:
                yield process, seen
                return
    pytest.fail(f"LAMMPS ended too early: {seen}")


@contextmanager
def between_two_steps(process: subprocess.Popen[str]) -> Iterator[None]:
    """LAMMPS stands still, and the answer that it may have waited for has come."""
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    yield
    process.send_signal(signal.SIGCONT)


@pytest.mark.usefixtures("plugin")
class TestLammps:
    def test_moves_as_over_a_unix_socket(
        self, network: Network, address: str, secret: Path, tmp_path: Path
    ) -> None:
        there = run_at(network, script(address, f"secret {secret}"), tmp_path)
        assert there.returncode == 0, there.output
        here = run_at(network, script(f"unix:{secret.parent}/socket", f"secret {secret}"), tmp_path)
        (table,), (expected,) = there.thermo(), here.thermo()
        assert len(table) == STEPS + 1
        np.testing.assert_array_equal(table, expected)

    @pytest.mark.parametrize("own", ["another", "none"])
    def test_is_refused_without_the_secret(
        self, own: str, network: Network, address: str, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("another long random text\n")
        options = f"secret {tmp_path}/secret" if own == "another" else ""
        done = run_at(network, script(address, options), tmp_path)
        assert done.returncode != 0
        assert ("asks for a secret" if own == "none" else "the secret is wrong") in done.error
        assert "Loop time" not in done.output

    @pytest.mark.slow
    def test_goes_on_after_a_short_cut(
        self, network: Network, address: str, secret: Path, tmp_path: Path
    ) -> None:
        text = script(address, f"secret {secret}")
        whole = run_at(network, text, tmp_path)
        with moving(network, text, tmp_path) as (process, seen):
            with between_two_steps(process):
                network.pull()
            time.sleep(1.0)
            assert process.poll() is None
            network.plug()
            done = ended(process, seen)
        assert done.returncode == 0, done.output
        np.testing.assert_array_equal(done.thermo()[0], whole.thermo()[0])

    @pytest.mark.slow
    def test_stops_at_its_time_limit_when_the_network_is_cut(
        self, network: Network, address: str, secret: Path, tmp_path: Path
    ) -> None:
        text = script(address, f"secret {secret} timeout 1")
        with moving(network, text, tmp_path) as (process, seen):
            with between_two_steps(process):
                network.pull()
            done = ended(process, seen)
        assert done.returncode != 0
        assert "was lost at step" in done.error
        assert "it did not answer in time" in done.error

    @pytest.mark.slow
    @pytest.mark.waits
    def test_stops_by_itself_when_what_it_sent_reaches_nobody(
        self, network: Network, address: str, secret: Path, server: ServeProcess, tmp_path: Path
    ) -> None:
        with moving(network, script(address, f"secret {secret}"), tmp_path) as (process, seen):
            with between_two_steps(process):
                network.pull()
            done = ended(process, seen)
        assert done.returncode != 0
        assert "the network has not reached its machine for two minutes" in done.error
        server.until("the connection was lost: Connection timed out")  # it does not wait either

    @pytest.mark.slow
    @pytest.mark.waits
    def test_stops_by_itself_when_the_machine_it_waits_for_is_gone(
        self, network: Network, address: str, secret: Path, server: ServeProcess, tmp_path: Path
    ) -> None:
        with moving(network, script(address, f"secret {secret}"), tmp_path) as (process, seen):
            server.process.send_signal(signal.SIGSTOP)  # its system still takes the request
            time.sleep(1.0)
            network.pull()
            try:
                done = ended(process, seen)
            finally:
                server.process.send_signal(signal.SIGCONT)
        assert done.returncode != 0
        assert "was lost at step" in done.error
        assert "Connection timed out" in done.error

    @pytest.mark.slow
    @pytest.mark.waits
    def test_waits_for_a_server_that_is_only_busy(
        self, network: Network, address: str, secret: Path, server: ServeProcess, tmp_path: Path
    ) -> None:
        """Its machine is there, but takes in no more than a part of the request."""
        text = script(address, f"secret {secret}", cells=6, steps=CUT + 2)
        assert 3 * SMALL_BUFFER < 4 * 6**3 * 36
        with moving(network, text, tmp_path) as (process, seen):
            with between_two_steps(process):
                server.process.send_signal(signal.SIGSTOP)
            time.sleep(200.0)
            assert process.poll() is None
            server.process.send_signal(signal.SIGCONT)
            done = ended(process, seen)
        assert done.returncode == 0, done.output


def test_a_server_beyond_this_machine_needs_a_secret() -> None:
    with pytest.raises(AddressError, match="can be reached from other machines: give a secret"):
        check_reach([TcpAddress(SERVER, 0)], None)
