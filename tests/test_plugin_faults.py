"""A lost, lying or silent server stops LAMMPS with one sentence, or is waited for."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_server import (
    ERROR,
    FORCES,
    FakeServer,
    Step,
    fake_server,
    forces_message,
    message,
    no_forces,
)
from lammps_runs import EXTERNAL, NO_PAIR, cases, crystal, lmp
from lammps_runs import quick_run as run

pytestmark = pytest.mark.usefixtures("plugin")


def script(address: str, options: str = "", steps: int = 5, cells: int = 2) -> str:
    return (
        crystal(cells)
        + NO_PAIR
        + EXTERNAL
        + f"forcenet ext {address} elements Ar {options}\n"
        + "fix 1 all nve\nthermo_modify format float %.15g\n"
        + f"run {steps}\n"
    )


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s"


def spring(step: Step) -> bytes:
    """Forces that depend on the id and the place of every atom, so that any mix-up shows."""
    return forces_message(step.step, -0.05 * (step.positions - 0.1 * step.ids[:, None]))


def at_step(number: int, fault: Callable[[Step], bytes | None]) -> Callable[[Step], bytes | None]:
    return lambda step: fault(step) if step.step == number else no_forces(step)


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_servers_sentence_stops_every_rank(ranks: int, address: str, tmp_path: Path) -> None:
    sentence = "atom 7 is at %s %n {} {0:d} %d: use a smaller timestep, 100 % of it, µ"
    refuse = at_step(3, lambda _: message(ERROR, sentence.encode()))
    with fake_server(address, answer=refuse):
        done = run(script(address), tmp_path, ranks)
    assert done.returncode != 0
    assert done.error == f"forcenet ext: {sentence}"


def test_what_a_terminal_could_obey_is_taken_out(address: str, tmp_path: Path) -> None:
    with fake_server(address, refusal="no \x1b[31mXx\x07\nERROR: two \x9b1m µ"):
        done = run(script(address), tmp_path)
    assert done.error == "forcenet ext: no ?[31mXx??ERROR: two ??1m µ"


def shorter(step: Step) -> bytes:
    return forces_message(step.step, np.zeros((len(step.ids) - 1, 3)))


def not_finite(step: Step) -> bytes:
    forces = np.zeros_like(step.positions)
    forces[-1, 2] = np.nan
    return forces_message(step.step, forces)


LIES = {
    "noise": (lambda _: os.urandom(3) + b"noise" * 10, "no forcenet-md server"),
    "version": (lambda _: b"FNMD\x02\x00\x07\x00" + bytes(8), "protocol version 2"),
    "type": (lambda _: b"FNMD\x01\x00\x63\x00" + bytes(8), "unknown type 99"),
    "length": (
        lambda _: b"FNMD" + struct.pack("<HHQ", 1, FORCES, 1 << 60),
        "announced a message of 1152921504606846976 bytes",
    ),
    "other message": (lambda _: message(3, b"mac 0\n"), "sent message type 3 where type 7"),
    "wrong n": (shorter, "another number of atoms"),
    "wrong step": (
        lambda step: forces_message(step.step + 1, np.zeros_like(step.positions)),
        "another timestep",
    ),
    "nan": (not_finite, "forces that are not finite at step 2"),
    "close": (
        lambda _: b"",
        "was lost at step 2 (it was stopped or failed: the connection is closed)",
    ),
    "half": (lambda step: no_forces(step)[:100], "was lost at step 2 (it did not answer in time)"),
    "silence": (lambda _: None, "was lost at step 2 (it did not answer in time)"),
}


RARELY = {"version", "type", "other message", "wrong n", "half"}


@pytest.mark.parametrize("name", cases(LIES, RARELY))
def test_a_lying_or_lost_server_stops_lammps(name: str, address: str, tmp_path: Path) -> None:
    answer, sentence = LIES[name]
    with fake_server(address, answer=at_step(2, answer)):
        done = run(script(address, "timeout 0.5"), tmp_path)
    assert done.returncode != 0
    assert sentence in done.error
    assert len(done.error.splitlines()) == 1


def test_a_server_killed_in_mid_step_stops_every_rank(address: str, tmp_path: Path) -> None:
    server = FakeServer(address)

    def die(_: Step) -> None:
        threading.Thread(target=server.stop).start()

    server.answer = at_step(3, die)
    done = run(script(address), tmp_path, ranks=2)
    assert done.returncode != 0
    assert "the force server at unix:" in done.error
    assert "was lost at step 3" in done.error
    assert "retry SECONDS" in done.error


def test_a_wrong_greeting_is_no_server(address: str, tmp_path: Path) -> None:
    with fake_server(address, greeting=b"SSH-2.0-OpenSSH_9.2\r\n"):
        done = run(script(address), tmp_path)
    assert "what answers there is no forcenet-md server" in done.error


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_retry_goes_on_where_it_was(ranks: int, address: str, tmp_path: Path) -> None:
    with fake_server(address, answer=spring):
        undisturbed = run(script(address, steps=10), tmp_path)

    first = FakeServer(address)
    second: list[FakeServer] = []

    def restart() -> None:
        first.stop()
        time.sleep(0.4)
        second.append(FakeServer(address, answer=spring))

    restarting = threading.Thread(target=restart)

    def die(step: Step) -> bytes | None:
        if step.step < 4:
            return spring(step)
        restarting.start()
        return None

    first.answer = die
    try:
        done = run(script(address, "retry 20", steps=10), tmp_path, ranks)
        restarting.join()
        steps = [step.step for step in second[0].steps]
    finally:
        for server in (first, *second):
            server.stop()
    assert done.returncode == 0, done.output
    assert "was lost at step 4" in done.output
    assert "look at its messages (waiting up to 20 s)" in done.output
    assert "is back, going on at step 4" in done.output
    assert steps == [4, 5, 6, 7, 8, 9, 10]
    np.testing.assert_allclose(done.thermo()[0], undisturbed.thermo()[0], rtol=1e-12)


def test_retry_waits_for_a_server_that_is_not_there_yet(address: str, tmp_path: Path) -> None:
    servers: list[FakeServer] = []
    late = threading.Timer(0.6, lambda: servers.append(FakeServer(address)))
    late.start()
    try:
        done = run(script(address, "retry 20"), tmp_path)
    finally:
        late.join()
        servers[0].stop()
    assert done.returncode == 0, done.output


def test_retry_ends(address: str, tmp_path: Path) -> None:
    done = run(script(address, "retry 0.3"), tmp_path)
    assert done.returncode != 0
    assert "cannot be reached" in done.error
    assert "'retry SECONDS'" not in done.error


def test_retry_does_not_go_on_with_another_model(address: str, tmp_path: Path) -> None:
    first = FakeServer(address)
    second: list[FakeServer] = []

    def restart(_: Step) -> None:
        def swap() -> None:
            first.stop()
            second.append(FakeServer(address, welcome={"model": "other"}))

        threading.Thread(target=swap).start()

    first.answer = at_step(2, restart)
    done = run(script(address, "retry 20"), tmp_path)
    second[0].stop()
    assert done.returncode != 0
    assert "now serves the model 'other', another than before" in done.error


SECRET = b"a long random text"


def test_a_secret_is_proved_both_ways(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    with fake_server("tcp", secret=SECRET) as server:
        by_file = run(script(server.address, "secret secret"), tmp_path)
        environment = {"FORCENET_MD_SECRET": f" {SECRET.decode()} "}
        by_variable = run(script(server.address), tmp_path, environment=environment)
    assert by_file.returncode == 0, by_file.output
    assert by_variable.returncode == 0, by_variable.output


def test_a_secret_that_does_not_fit_is_refused(address: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"another")
    (tmp_path / "empty").write_bytes(b" \n")
    with fake_server(address, secret=SECRET):
        wrong = run(script(address, "secret secret"), tmp_path)
        missing = run(script(address), tmp_path)
        empty = run(script(address, "secret empty"), tmp_path)
        nowhere = run(script(address, "secret nowhere"), tmp_path)
    assert wrong.error == "forcenet ext: the secret is wrong"
    assert "asks for a secret: give 'secret FILE' or set FORCENET_MD_SECRET" in missing.error
    assert "the secret of the file 'empty' is empty" in empty.error
    assert "the secret file 'nowhere' cannot be read" in nowhere.error


def test_a_server_without_the_secret_is_refused(address: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    with fake_server(address):
        none = run(script(address, "secret secret"), tmp_path)
    with fake_server(address, secret=SECRET, answer_mac=b"0" * 64):
        forged = run(script(address, "secret secret"), tmp_path)
    assert "knows no secret but this side was given one" in none.error
    assert "does not know the secret it asks for" in forged.error


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_ends_lammps_while_it_waits(ranks: int, address: str, tmp_path: Path) -> None:
    asked = threading.Event()

    def silent(_: Step) -> None:
        asked.set()

    with (
        fake_server(address, answer=silent),
        lmp(script(address), tmp_path, ranks) as process,
    ):
        assert asked.wait(30)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode != 0
        assert not processes_in(tmp_path)


def processes_in(folder: Path) -> list[int]:
    """Processes whose working folder it is."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder.resolve():
                found.append(int(entry.name))
        except OSError:
            continue  # ended meanwhile, or not ours
    return found


@pytest.mark.slow
def test_waiting_ranks_sleep(address: str, tmp_path: Path) -> None:
    used: list[float] = []

    def cpu() -> float:
        ticks = 0
        for pid in processes_in(tmp_path):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def slow(step: Step) -> bytes:
        before = cpu()
        time.sleep(1.0)
        used.append(cpu() - before)
        return no_forces(step)

    with fake_server(address, answer=at_step(1, slow)):
        done = run(script(address, steps=2), tmp_path, ranks=3)
    assert done.returncode == 0, done.output
    assert used[0] < 0.3  # of 2 waiting ranks; spinning ones would use all the processor there is
