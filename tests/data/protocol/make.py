"""Writes the golden messages beside this file from docs/protocol.md, with `struct` alone.

It knows neither the Python server nor the C++ plugin: both are held to what it writes.
Run it only when the page changes: `python tests/data/protocol/make.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from pathlib import Path

SECRET = b"correct horse battery staple"
SERVER_NONCE = bytes(range(32))
CLIENT_NONCE = bytes(range(255, 223, -1))


def message(number: int, payload: bytes) -> bytes:
    return b"FNMD" + struct.pack("<HHQ", 1, number, len(payload)) + payload


def text(*lines: str) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def mac(label: bytes) -> str:
    return hmac.new(SECRET, label + SERVER_NONCE + CLIENT_NONCE, hashlib.sha256).hexdigest()


def step(velocities: bool) -> bytes:
    """Three atoms with ids 2, 7 and 4294967299 in a triclinic box, step 123456789012."""
    payload = struct.pack("<qIId", 123456789012, 1 if velocities else 2, int(velocities), 0.002)
    payload += struct.pack("<9d", 10.0, 0.0, 0.0, 1.5, 9.0, 0.0, -0.5, 0.25, 8.0)
    payload += struct.pack("<3d", -1.0, -2.0, -3.0)
    payload += struct.pack("<QII", 3, 0b011, 0)
    payload += struct.pack("<3q", 2, 7, 4294967299)
    payload += struct.pack("<9d", 0.1, 0.2, 0.3, 1.1, 1.2, 1.3, 2.1, 2.2, 2.3)
    if velocities:
        payload += struct.pack("<9d", -0.1, -0.2, -0.3, -1.1, -1.2, -1.3, -2.1, -2.2, -2.3)
    return payload + struct.pack("<3i", 1, 2, 1)


def forces(energy_and_virial: bool, spread: bool = False) -> bytes:
    """The answer to `step`; energy −7.25, virial 1 … 6 and spread 0.125, 0, 2 if given."""
    flags = 3 * energy_and_virial + 4 * spread
    payload = struct.pack("<qQII", 123456789012, 3, flags, 0)
    numbers = (-7.25, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0) if energy_and_virial else (0.0,) * 7
    payload += struct.pack("<7d", *numbers)
    payload += struct.pack("<9d", 0.5, -0.5, 0.25, 1.5, -1.5, 1.25, -2.0, 2.0, -1.5)
    return payload + (struct.pack("<3d", 0.125, 0.0, 2.0) if spread else b"")


HELLO = (
    "engine lammps 20250722",
    "units metal",
    "elements Ag Au",
    "masses 107.8682 196.96657",
    "mass_check on",
    "periodic 1 1 0",
    "group all",
    "held no",
    "atoms 3",
    "need energy virial",
)
WELCOME = (
    "model alloy",
    "sha256 none",
    "energy yes",
    "virial no",
    "conservative no",
    "velocities yes",
    "cutoff 6.0",
    "elements Ag Au Cu Pd Pt",
)
WARNINGS = ("warning the first of two", "warning 100% {} of the second")


MESSAGES = {
    "greeting": (1, text("server forcenet-md 0.1.0", "protocol 1", "challenge none")),
    "greeting_challenge": (
        1,
        text("server forcenet-md 0.1.0", "protocol 1", f"challenge {SERVER_NONCE.hex()}"),
    ),
    "auth": (2, text(f"nonce {CLIENT_NONCE.hex()}", f"mac {mac(b'forcenet client')}")),
    "authenticated": (3, text(f"mac {mac(b'forcenet server')}")),
    "hello": (4, text(*HELLO)),
    "hello_spread": (4, text(*HELLO, "spread yes")),
    "welcome": (5, text(*WELCOME, *WARNINGS)),
    "welcome_spread": (5, text(*WELCOME, "spread yes", *WARNINGS)),
    "step": (6, step(velocities=False)),
    "step_velocities": (6, step(velocities=True)),
    "forces": (7, forces(energy_and_virial=False)),
    "forces_energy_virial": (7, forces(energy_and_virial=True)),
    "forces_spread": (7, forces(energy_and_virial=False, spread=True)),
    "error": (8, "atom 7 has a position that is not finite (100 %s {} µ).".encode()),
    "bye": (9, b""),
}


def main() -> None:
    for name, (number, payload) in MESSAGES.items():
        digits = message(number, payload).hex()
        lines = [digits[i : i + 64] for i in range(0, len(digits), 64)]
        Path(__file__).with_name(f"{name}.hex").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
