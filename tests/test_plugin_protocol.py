"""The plugin's C++ is held to the golden messages, byte for byte, and survives what is not one."""

from __future__ import annotations

import hashlib
import hmac
import random
import subprocess
from pathlib import Path

import pytest

from forcenet_md.engines.plugin_build import compile_in

GOLDEN = Path(__file__).parent / "data" / "protocol"


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin's own protocol code without LAMMPS, with every check the compiler offers."""
    folder = tmp_path_factory.mktemp("golden")
    compile_in(
        folder,
        [
            "-DFORCENET_PLUGIN=OFF",
            "-DFORCENET_GOLDEN=ON",
            "-DCMAKE_BUILD_TYPE=Debug",
            "-DCMAKE_CXX_FLAGS=-fsanitize=address,undefined -fno-sanitize-recover=all -Werror",
        ],
    )
    return folder / "forcenet_golden"


def call(program: Path, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program, *arguments], input=data, capture_output=True, timeout=30)


def read(program: Path, data: bytes) -> dict[str, list[str]]:
    done = call(program, "read", data=data)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in done.stdout.decode().splitlines()]
    values: dict[str, list[str]] = {}
    for key, _, value in lines:
        values.setdefault(key, []).append(value)
    return values


@pytest.mark.parametrize(
    "name", ["auth", "hello", "hello_spread", "step", "step_velocities", "bye"]
)
def test_what_the_plugin_writes(name: str, program: Path) -> None:
    done = call(program, "write", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.hex() == golden(name).hex()


def test_what_the_plugin_reads(program: Path) -> None:
    forces = ["0.5 -0.5 0.25", "1.5 -1.5 1.25", "-2 2 -1.5"]
    assert read(program, golden("forces")) == {
        "type": ["7"],
        "energy": ["0 0"],
        "virial": ["0 0 0 0 0 0 0"],
        "force": forces,
    }
    assert read(program, golden("forces_energy_virial")) == {
        "type": ["7"],
        "energy": ["1 -7.25"],
        "virial": ["1 1 2 3 4 5 6"],
        "force": forces,
    }
    assert read(program, golden("forces_spread")) == {
        "type": ["7"],
        "energy": ["0 0"],
        "virial": ["0 0 0 0 0 0 0"],
        "force": forces,
        "spread": ["0.125", "0", "2"],
    }
    welcome = {
        "type": ["5"],
        "model": ["alloy"],
        "sha256": ["none"],
        "energy": ["1"],
        "virial": ["0"],
        "velocities": ["1"],
        "warning": ["the first of two", "100% {} of the second"],
    }
    assert read(program, golden("welcome")) == welcome
    assert read(program, golden("welcome_spread")) == welcome | {"spread": ["1"]}
    assert read(program, golden("greeting"))["challenge"] == ["none"]
    assert read(program, golden("greeting_challenge"))["challenge"] == [bytes(range(32)).hex()]
    mac = golden("authenticated").split()[-1].decode()
    assert read(program, golden("authenticated"))["mac"] == [mac]
    error = call(program, "read", data=golden("error")).stdout.decode()
    assert error == "type 8\natom 7 has a position that is not finite (100 %s {} µ).\n"


def test_forces_for_another_step_or_of_another_length_are_refused(program: Path) -> None:
    good = golden("forces")
    other_step = good[:16] + b"\x15" + good[17:]
    short = good[:8] + (len(good) - 24).to_bytes(8, "little") + good[16:-8]
    infinite = good[:-2] + b"\xf0\x7f"
    spread = golden("forces_spread")
    unflagged = spread[:32] + b"\0" + spread[33:]
    for bad, sentence in [
        (other_step, b"another timestep"),
        (short, b"another number of atoms"),
        (infinite, b"not finite"),
        (spread[:-2] + b"\xf0\x7f", b"not finite"),
        (unflagged, b"another number of atoms"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"no forcenet-md server"),
        (good[:4] + b"\x02" + good[5:], b"protocol version 2"),
        (good[:6] + b"\x0a" + good[7:], b"unknown type 10"),
    ]:
        done = call(program, "read", data=bad)
        assert done.returncode == 1
        assert sentence in done.stderr


def test_damaged_messages_never_crash_the_reader(program: Path) -> None:
    chance = random.Random(4711)
    names = ["forces_energy_virial", "forces_spread", "welcome", "greeting", "error"]
    for _ in range(40):
        data = bytearray(golden(chance.choice(names)))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        done = call(program, "read", data=bytes(data))
        assert done.returncode in (0, 1), data.hex()  # read or refused
        assert b"Sanitizer" not in done.stderr, data.hex()
        assert b"runtime error" not in done.stderr, data.hex()


@pytest.mark.parametrize("length", [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000])
def test_sha256_and_hmac(length: int, program: Path) -> None:
    data = random.Random(length).randbytes(length)
    assert call(program, "sha256", data=data).stdout.decode().strip() == (
        hashlib.sha256(data).hexdigest()
    )
    key = "k" * (length // 5)
    assert call(program, "hmac", key, data=data).stdout.decode().strip() == (
        hmac.new(key.encode(), data, hashlib.sha256).hexdigest()
    )
