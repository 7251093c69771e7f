"""`forcenet-md serve` as a user runs it: real processes, real signals, real faults."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from models import write_model
from serving import COMMAND, LJ, PATIENCE, ServeProcess, ask, copper, reference
from wire import step

from forcenet_md.errors import AddressError, RequestError
from forcenet_md.server.client import Client
from forcenet_md.server.protocol import MessageType, decode_forces


def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s"


def test_serve_and_ask_on_the_default_address(tmp_path):
    atoms = copper(2)
    with ServeProcess(env={"XDG_RUNTIME_DIR": str(tmp_path)}) as server:
        expected = f"unix:{tmp_path}/forcenet-md/default.sock"
        assert f"listening on {expected}\n" in server.text
        assert "    fix ext all external pf/callback 1 1\n" in server.text
        assert f"    forcenet ext {expected} elements " in server.text
        with Client(expected) as client:
            client.hello(["Cu"], masses=[63.546], n_atoms=len(atoms))
            answer = ask(client, atoms)
        server.until("left after 1 steps")
        assert server.end() == 0
    np.testing.assert_array_equal(answer.forces, reference(atoms)[1])
    assert list((tmp_path / "forcenet-md").iterdir()) == []


def test_many_addresses_at_once_and_a_secret_beyond_this_machine(tmp_path):
    (tmp_path / "secret").write_text(" salt\n")
    arguments = ["--listen", address(tmp_path), "--listen", "tcp:127.0.0.1:0"]
    arguments += ["--listen", "tcp:0.0.0.0:0", "--secret-file", str(tmp_path / "secret")]
    with ServeProcess(*arguments) as server:
        lines = [line for line in server.text.splitlines() if line.startswith("listening on ")]
        assert [("not encrypted" in line) for line in lines] == [False, False, True]
        places = [line.split()[2] for line in lines]
        for place in places:
            with Client(place.replace("0.0.0.0", "127.0.0.1"), secret=b"salt") as client:
                client.hello(["Cu"])
                ask(client, copper())
                assert_closed_to_other_programs(server.process.pid)
            with pytest.raises(RequestError, match="secret is wrong"):
                Client(place, secret=b"pepper")
        assert server.end() == 0
        assert "salt" not in server.text


def assert_closed_to_other_programs(pid: int) -> None:
    """A child of the server would otherwise keep its addresses alive after its end."""
    sockets = 0
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        if int(entry.name) > 2:
            flags = entry.read_text().split("flags:")[1].split()[0]
            assert int(flags, 8) & os.O_CLOEXEC
            sockets += 1
    assert sockets >= 4  # three that listen, and the client's


@pytest.mark.slow
def test_two_servers_on_one_address_and_a_stale_socket(tmp_path):
    place = address(tmp_path)
    with ServeProcess("--listen", place) as server:
        second = subprocess.run(
            [*COMMAND, "serve", "--model", LJ, "--listen", place],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert second.returncode == 1
        assert second.stderr.startswith(f"forcenet-md: error: {place} is already served: ")
        assert second.stderr.count("\n") == 1
        with Client(place) as client:
            client.hello(["Cu"])
        server.process.kill()
        server.wait()
    assert (tmp_path / "s").is_socket()  # stale now
    with ServeProcess("--listen", place) as server:
        with Client(place) as client:
            client.hello(["Cu"])
        assert server.end() == 0


# Signals ---------------------------------------------------------------------------------------


def test_ctrl_c_with_idle_clients(tmp_path):
    """And what they said is in the log file, after what was there."""
    log = tmp_path / "log"
    log.write_text("before\n")
    with ServeProcess("--listen", address(tmp_path), "--log-file", str(log)) as server:
        clients = [Client(address(tmp_path)) for _ in range(3)]
        clients[0].hello(["Cu"], engine="evil\x1b[2J\nname")
        assert server.end(signal.SIGINT) == 0
        for client in clients:
            with pytest.raises(AddressError, match=r"closed the connection|was lost"):
                ask(client, copper())
            client.close()
        assert server.text.rstrip().endswith("stopped")
    assert list(tmp_path.iterdir()) == [log]
    text = log.read_text()
    assert text.startswith("before\n")
    assert "evil\\x1b[2J\\nname" in text
    assert "\x1b" not in text + server.text


def test_sigterm_in_mid_step_lets_the_answer_go_out(tmp_path):
    atoms = copper(6)  # 864 atoms take ASE long enough for the signal to come first
    with ServeProcess("--listen", address(tmp_path)) as server:
        with Client(address(tmp_path)) as client:
            client.hello(["Cu"], n_atoms=len(atoms))
            client.send(step(atoms, 3))
            time.sleep(0.02)
            server.process.send_signal(signal.SIGTERM)
            answer = decode_forces(client.receive(MessageType.FORCES, 1 << 20))
        assert server.wait() == 0
    assert answer.step == 3
    np.testing.assert_array_equal(answer.forces, reference(atoms)[1])


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tmp_path):
    atoms = copper(20)  # 32,000 atoms: seconds
    place = address(tmp_path)
    with ServeProcess("--listen", place) as server, Client(place) as client:
        client.hello(["Cu"], n_atoms=len(atoms))
        client.send(step(atoms))
        time.sleep(0.5)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert server.process.poll() is None
        assert server.end(signal.SIGINT) == -signal.SIGINT


def test_the_twin_of_a_sigterm_is_no_second_signal(tmp_path):
    """As `timeout` and batch systems send it: to the process and to its group."""
    with ServeProcess("--listen", address(tmp_path)) as server:
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "stopped" in server.text


def test_the_twin_of_a_sigterm_may_come_late():
    """When the server has stopped, and Python has not."""
    code = """
import os, signal, sys
from forcenet_md.server.signals import StopSignal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as that of the command line
stop = StopSignal()
with stop.installed():
    stop.note()
    os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
print("to the end")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "to the end\n")


@pytest.mark.slow
def test_a_second_sigterm_ends_it_at_once(tmp_path):
    place = address(tmp_path)
    with ServeProcess("--listen", place) as server, Client(place) as client:
        client.hello(["Cu"], n_atoms=4)
        client.send(step(copper())[:-1])  # for the rest of it the server waits a moment
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1.2)
        assert server.process.poll() is None
        assert server.end(signal.SIGTERM) == -signal.SIGTERM


def test_a_signal_that_python_drops_ends_the_server_without_a_word():
    """An exception raised while a callback runs, as those of imports, is lost."""
    code = """
import os, signal, weakref
from forcenet_md.server.signals import StopSignal
class Thing: pass
stop = StopSignal()
with stop.installed():
    thing = Thing()
    callback = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del thing
    print(stop.number is not None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.slow
def test_a_signal_at_any_time_from_the_start_leaves_nothing_behind(tmp_path):
    """Before the verb has come to run a signal has its usual meaning; from then on 0."""
    chance = random.Random(0)
    for k in range(6):
        number = (signal.SIGTERM, signal.SIGINT)[k % 2]
        place = tmp_path / f"{k}"
        with ServeProcess("--listen", f"unix:{place}", wait=False) as server:
            if k < 3:
                server.until("loading")
            time.sleep(chance.uniform(0.0, 0.5))
            code = server.end(number)
            assert code == 0 or (k >= 3 and code in (-number, 128 + number))
            assert "Traceback" not in server.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_time_limits_can_be_set(tmp_path):
    limits = ("--handshake-timeout", "0.2", "--message-timeout", "0.4")
    with ServeProcess("--listen", address(tmp_path), *limits) as server:
        with Client(address(tmp_path)) as half, Client(address(tmp_path)) as silent:
            half.hello(["Cu"])
            half.send(step(copper())[:100])
            with pytest.raises(RequestError, match=r"rest of a message .* 0\.4 s"):
                half.receive(MessageType.FORCES)
            with pytest.raises(RequestError, match=r"handshake took longer than 0\.2 s"):
                silent.receive(MessageType.WELCOME)
        assert server.end() == 0


# Clients that die, outputs that fail -----------------------------------------------------------

DYING_CLIENT = """
import os, sys
sys.path[:0] = [sys.argv[2]]
from serving import copper
from wire import step
from forcenet_md.server.client import Client
client = Client(sys.argv[1])
client.hello(["Cu"], n_atoms=2048)
client.send(step(copper(8))[:int(sys.argv[3]) or None])
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_clients_killed_in_mid_step_leave_nothing(tmp_path):
    with ServeProcess("--listen", address(tmp_path)) as server:
        descriptors = f"/proc/{server.process.pid}/fd"
        before = len(os.listdir(descriptors))
        for k, cut in enumerate((0, 5000), start=1):
            command = [sys.executable, "-c", DYING_CLIENT, address(tmp_path)]
            command += [str(Path(__file__).parent), str(cut)]
            done = subprocess.run(command, timeout=PATIENCE)
            assert done.returncode == -9
            server.until(f"client {k} left")
        with Client(address(tmp_path)) as client:
            client.hello(["Cu"])
            np.testing.assert_array_equal(ask(client, copper()).forces, reference(copper())[1])
        server.until("client 3 left")
        until = time.monotonic() + PATIENCE  # the socket is closed just after that is said
        while len(os.listdir(descriptors)) > before and time.monotonic() < until:
            time.sleep(0.01)
        assert len(os.listdir(descriptors)) == before
        assert len(os.listdir(f"/proc/{server.process.pid}/task")) == 1


def test_a_server_killed_in_mid_step_is_told_to_the_client(tmp_path):
    with ServeProcess("--listen", address(tmp_path)) as server:
        client = Client(address(tmp_path))
        client.hello(["Cu"], n_atoms=2048)
        client.send(step(copper(8)))
        server.process.kill()
        with pytest.raises(AddressError, match=r"closed the connection|was lost"):
            client.receive(MessageType.FORCES)
        client.close()


def test_a_full_disk_and_a_closed_pipe_cost_lines_not_forces(tmp_path):
    with ServeProcess("--listen", address(tmp_path), "--log-file", "/dev/full") as server:
        assert server.process.stdout is not None
        server.process.stdout.close()
        for _ in range(3):
            with Client(address(tmp_path)) as client:
                client.hello(["Cu"])
                ask(client, copper())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


# Memory ----------------------------------------------------------------------------------------


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_thousand_clients_leave_no_memory(tmp_path):
    with ServeProcess("--listen", address(tmp_path)) as server:

        def clients(n: int) -> None:
            for k in range(n):
                with Client(address(tmp_path)) as client:
                    client.hello(["Cu"])
                    if k % 20 == 0:
                        ask(client, copper())

        clients(300)
        before = memory(server.process.pid)
        clients(1000)
        assert memory(server.process.pid) - before < 1_000_000
        assert len(os.listdir(f"/proc/{server.process.pid}/task")) == 1


@pytest.mark.slow
def test_fifty_thousand_steps_take_no_memory(tmp_path):
    """Of a network, its neighbour list and the socket."""
    model = tmp_path / "m.pt"
    write_model(model, hidden=8)
    with ServeProcess("--listen", address(tmp_path), model=str(model)) as server:
        atoms = copper()
        chance = np.random.default_rng(0)
        with Client(address(tmp_path)) as client:
            client.hello(["Cu"], n_atoms=4)
            before = 0
            for k in range(50_000):
                if k == 10_000:
                    before = memory(server.process.pid)
                atoms.positions += chance.normal(scale=0.003, size=(4, 3))
                ask(client, atoms, step=k)
                if k % 100 == 99:
                    atoms = copper()
            grown = memory(server.process.pid) - before
    assert grown < 2_000_000
