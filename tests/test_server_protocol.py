"""protocol.py held to the golden bytes of docs/protocol.md, and to what it must refuse."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forcenet_md.errors import ProtocolError
from forcenet_md.inference.interface import Capabilities, Kind
from forcenet_md.server import auth, lammps, protocol
from forcenet_md.server.protocol import HEADER, ForcesFrame, MessageType, StepFrame

GOLDEN = Path(__file__).parent / "data" / "protocol"
SECRET = b"correct horse battery staple"
SERVER_NONCE = bytes(range(32))
CLIENT_NONCE = bytes(range(255, 223, -1))
X = np.array([[0.1, 0.2, 0.3], [1.1, 1.2, 1.3], [2.1, 2.2, 2.3]])


def golden(name: str) -> tuple[bytes, MessageType, bytes]:
    """The whole message, its type and its payload."""
    data = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())
    kind, length = protocol.read_header(data[: HEADER.size])
    assert length == len(data) - HEADER.size
    return data, kind, data[HEADER.size :]


def golden_step(velocities: bool) -> StepFrame:
    return StepFrame(
        step=123456789012,
        kind=Kind.RUN if velocities else Kind.MINIMISE,
        timestep=0.002,
        cell=np.array([[10.0, 0, 0], [1.5, 9.0, 0], [-0.5, 0.25, 8.0]]),
        origin=np.array([-1.0, -2.0, -3.0]),
        periodic=(True, True, False),
        ids=np.array([2, 7, 4294967299]),
        positions=X,
        velocities=-X if velocities else None,
        types=np.array([1, 2, 1], dtype=np.int32),
    )


@pytest.mark.parametrize("name", ["step", "step_velocities"])
def test_golden_step(name):
    data, kind, payload = golden(name)
    expected = golden_step(velocities=name == "step_velocities")
    assert kind is MessageType.STEP
    assert protocol.frame(kind, protocol.encode_step(expected)) == data
    read = protocol.decode_step(payload)
    for field, value in expected._asdict().items():
        np.testing.assert_array_equal(getattr(read, field), value, err_msg=field)


@pytest.mark.parametrize("name", ["forces", "forces_energy_virial", "forces_spread"])
def test_golden_forces(name):
    data, kind, payload = golden(name)
    both = name == "forces_energy_virial"
    expected = ForcesFrame(
        step=123456789012,
        energy=-7.25 if both else None,
        virial=np.arange(1.0, 7.0) if both else None,
        forces=np.array([[0.5, -0.5, 0.25], [1.5, -1.5, 1.25], [-2.0, 2.0, -1.5]]),
        spread=np.array([0.125, 0.0, 2.0]) if name == "forces_spread" else None,
    )
    assert kind is MessageType.FORCES
    assert bytes(protocol.encode_forces(*expected)) == data
    read = protocol.decode_forces(payload)
    for field, value in expected._asdict().items():
        np.testing.assert_array_equal(getattr(read, field), value, err_msg=field)


def test_golden_handshake():
    for name in ("greeting", "greeting_challenge"):
        data, kind, payload = golden(name)
        lines = protocol.decode_text(payload)
        assert lines["protocol"] == [str(protocol.VERSION)]
        pairs = [(key, values[0]) for key, values in lines.items()]
        assert protocol.frame(MessageType.GREETING, protocol.encode_text(*pairs)) == data
    assert auth.parse_nonce(lines["challenge"][0]) == SERVER_NONCE

    data, kind, payload = golden("auth")
    mac = auth.client_mac(SECRET, SERVER_NONCE, CLIENT_NONCE)
    text = protocol.encode_text(("nonce", CLIENT_NONCE.hex()), ("mac", mac))
    assert protocol.frame(MessageType.AUTH, text) == data

    data, kind, payload = golden("authenticated")
    mac = auth.server_mac(SECRET, SERVER_NONCE, CLIENT_NONCE)
    assert protocol.frame(kind, protocol.encode_text(("mac", mac))) == data


def test_golden_hello_and_welcome():
    _, kind, payload = golden("hello")
    assert kind is MessageType.HELLO
    model = Capabilities(
        name="alloy",
        numbers=frozenset({47, 79, 29, 46, 78}),
        cutoff=6.0,
        energy=True,
        stress=True,
        conservative=True,
    )
    settings = lammps.read_hello(payload, model, max_atoms=3)
    assert settings.engine == "lammps 20250722"
    assert settings.units.name == "metal"
    assert settings.numbers.tolist() == [47, 79]
    assert settings.need == {"energy", "virial"}
    assert not settings.keep_net_force
    assert not settings.spread
    _, _, payload = golden("hello_spread")
    assert lammps.read_hello(payload, model, max_atoms=3).spread

    data, kind, _ = golden("welcome")
    model = Capabilities(
        name="alloy",
        numbers=model.numbers,
        cutoff=6.0,
        energy=True,
        stress=False,
        conservative=False,
        velocities=True,
        warnings=("the first of two", "100% {} of the second"),
    )
    for model_spread, asked in ((False, True), (True, False)):
        told = replace(model, spread=model_spread)
        assert protocol.frame(kind, lammps.welcome(told, spread=asked)) == data
    data, kind, _ = golden("welcome_spread")
    committee = replace(model, spread=True)
    assert protocol.frame(kind, lammps.welcome(committee, spread=True)) == data


def test_golden_error_and_bye():
    data, kind, payload = golden("error")
    assert protocol.frame(kind, protocol.encode_error(payload.decode())) == data
    data, kind, payload = golden("bye")
    assert payload == b""
    assert protocol.frame(kind) == data


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (struct.pack("<4sHHQ", b"POST", 1, 4, 0), "FNMD"),
        (struct.pack("<4sHHQ", b"FNMD", 2, 4, 0), "version 2"),
        (struct.pack("<4sHHQ", b"FNMD", 1, 0, 0), "type 0"),
        (struct.pack("<4sHHQ", b"FNMD", 1, 12, 0), "type 12"),
    ],
)
def test_foreign_headers_are_refused(header, words):
    with pytest.raises(ProtocolError, match=words):
        protocol.read_header(header)


@pytest.mark.parametrize("at", [8, 12, 120, 128])
def test_a_step_with_one_field_changed_is_refused(at):
    payload = bytearray(golden("step")[2])
    payload[at] = 0xFF
    with pytest.raises(ProtocolError):
        protocol.decode_step(payload)


def test_a_step_of_every_wrong_length_is_refused():
    payload = golden("step")[2]
    for n in range(len(payload)):
        with pytest.raises(ProtocolError):
            protocol.decode_step(payload[:n])
    with pytest.raises(ProtocolError):
        protocol.decode_step(payload + b"\0")


@given(st.text())
def test_escaped_text_is_one_printable_line(text):
    safe = protocol.escape(text)
    assert safe.isprintable()
    safe.encode()
    if text.isprintable():
        assert safe == text


@given(st.text(min_size=1))
def test_an_error_is_short_valid_utf8(text):
    payload = protocol.encode_error(text * 3000)
    assert len(payload) <= 4096
    assert payload.decode().isprintable()


@given(st.dictionaries(st.text("kxy_", min_size=1), st.text("aä1 %\n\x1b")))
def test_text_comes_back(lines):
    lines = {key: protocol.escape(value).strip() for key, value in lines.items()}
    read = protocol.decode_text(protocol.encode_text(*lines.items()))
    assert {key: values[0] for key, values in read.items()} == lines


def test_the_first_of_repeated_keys_counts_and_unknown_keys_are_kept_apart():
    lines = protocol.decode_text(b"units metal\nunits real\nfuture 1 2\n\nflag\n")
    assert lines == {"units": ["metal", "real"], "future": ["1 2"], "flag": [""]}
