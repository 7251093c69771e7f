"""Noise, forged and mutated messages: the server lives and answers the next good client."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from serving import InProcess, copper, in_process, messages
from wire import HELLO, hello, ready_client, step

from forcenet_md.server.limits import Limits
from forcenet_md.server.protocol import HEADER, MAGIC, STEP, MessageType, encode_text, frame

LENGTHS = (0, 1, 15, 16, 135, 136, 172, 4096, 65536, 2**20, 2**31, 2**32, 2**63, 2**64 - 1)
NUMBERS = (0.0, -0.0, 1e-308, 5e-324, 1e-10, 1.0, 1e10, 1e150, 1e308, np.inf, -np.inf, np.nan)
WORDS = ("Cu", "Fe", "Xx", "metal", "lj", "real", "none", "nan", "1e400", "9" * 30, "ä", "\x1b")


class Fuzzer:
    """Messages from a seed: good ones, good ones changed a little, and plain noise."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.good_step = step(copper(seed=seed))

    def message(self) -> bytes:
        make = self.random.choices(
            (self.step, self.changed_step, self.hello, self.header, self.flipped, self.noise),
            weights=(2, 5, 3, 2, 4, 1),
        )[0]
        return make()

    def step(self) -> bytes:
        return self.good_step

    def hello(self) -> bytes:
        lines = [*HELLO]
        for _ in range(self.random.randrange(4)):
            k = self.random.randrange(len(lines))
            match self.random.randrange(4):
                case 0:
                    lines[k] = (lines[k][0], " ".join(self.random.choices(WORDS, k=3)))
                case 1:
                    lines.insert(k, (self.random.choice(WORDS), self.random.choice(WORDS)))
                case 2:
                    lines[k] = (lines[k][0], "Cu " * self.random.randrange(2000))
                case _:
                    del lines[k]
        return frame(MessageType.HELLO, encode_text(*lines))

    def changed_step(self) -> bytes:
        """Fields and numbers of a STEP replaced, its length right or wrong."""
        message = bytearray(self.good_step)
        for _ in range(self.random.randrange(1, 4)):
            match self.random.randrange(5):
                case 0:  # a number of cell, origin, positions
                    first = self.random.choice((24, STEP.size + 32))
                    at = HEADER.size + first + 8 * self.random.randrange(12)
                    struct.pack_into("<d", message, at, self.random.choice(NUMBERS))
                case 1:  # number of atoms
                    struct.pack_into("<Q", message, HEADER.size + 120, self.random.choice(LENGTHS))
                case 2:  # an id or a type
                    at = len(message) - 4 * self.random.randrange(1, 5)
                    struct.pack_into("<i", message, at, self.random.choice((-1, 0, 2, 2**31 - 1)))
                case 3:
                    at = HEADER.size + STEP.size + 8 * self.random.randrange(4)
                    struct.pack_into("<q", message, at, self.random.choice((-1, 0, 2, 2**63 - 1)))
                case _:  # kind and flags
                    at = HEADER.size + self.random.choice((8, 12, 128, 132))
                    struct.pack_into("<I", message, at, self.random.randrange(2**32))
        if self.random.random() < 0.1:
            cut = self.random.randrange(len(message))
            message = message[:cut]
            if cut >= HEADER.size and self.random.random() < 0.5:
                struct.pack_into("<Q", message, 8, cut - HEADER.size)
        return bytes(message)

    def header(self) -> bytes:
        kind = self.random.choice((*range(11), 2**16 - 1))
        magic = self.random.choice((MAGIC, MAGIC, MAGIC, b"HTTP"))
        version = self.random.choice((1, 1, 1, 0, 2))
        payload = self.random.randbytes(self.random.randrange(200))
        length = self.random.choice((len(payload), len(payload), self.random.choice(LENGTHS)))
        return struct.pack("<4sHHQ", magic, version, kind, length) + payload

    def flipped(self) -> bytes:
        """Some bits of a good message the other way round."""
        message = bytearray(self.random.choice((self.good_step, hello())))
        for _ in range(self.random.randrange(1, 9)):
            message[self.random.randrange(len(message))] ^= 1 << self.random.randrange(8)
        return bytes(message)

    def noise(self) -> bytes:
        return self.random.randbytes(self.random.randrange(1, 2000))


def fuzz(loop: InProcess, n_messages: int, seed: int) -> None:
    """Send the messages over connections that are replaced as they end, or at random."""
    fuzzer = Fuzzer(seed)
    sockets = [loop.connect() for _ in range(4)]

    def replace(i: int) -> None:
        sockets[i].close()
        sockets[i] = loop.connect()
        if fuzzer.random.random() < 0.9:
            sockets[i].sendall(hello())

    for k in range(n_messages):
        i = fuzzer.random.randrange(len(sockets))
        if fuzzer.random.random() < 0.01:
            replace(i)
        try:
            sockets[i].sendall(fuzzer.message())
        except OSError:  # refused before, or a half message has filled the socket
            replace(i)
        loop.server.poll(0.0)
        if k % 4 == 0:
            for j, sock in enumerate(sockets):
                if messages(sock)[1]:
                    replace(j)
    for sock in sockets:
        sock.close()
    loop.settle()


def check_lives(loop: InProcess, expected: tuple[list[tuple[MessageType, bytes]], bool]) -> None:
    """A good client is answered as before all this; nothing is left of the bad ones."""
    assert loop.monitor.faults == []
    assert len(loop.server._peers) == 0
    good = ready_client(loop)
    good.sendall(step(copper()))
    loop.settle()
    assert messages(good) == expected
    good.close()
    loop.settle()
    loop.sockets.clear()


def run(n_messages: int, seed: int) -> None:
    with in_process(limits=Limits(max_atoms=1000)) as loop:
        first = ready_client(loop)
        first.sendall(step(copper()))
        loop.settle()
        expected = messages(first)
        assert [kind for kind, _ in expected[0]] == [MessageType.FORCES]
        first.close()
        loop.settle()
        for part in range(max(1, n_messages // 2000)):
            fuzz(loop, min(n_messages, 2000), seed + part)
            check_lives(loop, expected)
            loop.monitor.lines.clear()


def test_two_thousand_fuzzed_messages():
    run(2000, seed=0)


def test_before_the_secret_nothing_of_it_gets_anywhere():
    with in_process(limits=Limits(max_atoms=1000), secret=b"salt") as loop:
        fuzz(loop, 500, seed=7)
        assert loop.monitor.faults == []
        assert len(loop.server._peers) == 0
        assert not any(" is " in line for line in loop.monitor.lines if "was told" not in line)


@pytest.mark.slow
def test_a_hundred_thousand_fuzzed_messages():
    run(100_000, seed=1000)
