"""Streams of bytes in place of i-PI: cut anywhere, damaged, or something else altogether."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ipi_driven import Cheap, polled
from ipi_peer import EXIT, GETFORCE, STATUS, FakeIpi, init, posdata, posdata_batch, word
from serving import copper

from forcenet_md.errors import ForceNetError

ATOMS = copper()
GREET = [STATUS, init(" key : value , "), STATUS]
STEP = [posdata(ATOMS) + GETFORCE, STATUS]
OLDER = [STATUS, posdata(ATOMS) + STATUS, GETFORCE, STATUS]
SINGLE = [*GREET, *STEP, *OLDER, *STEP]
BATCH = [STATUS, init("  batch_size:3"), STATUS, posdata_batch([ATOMS] * 3) + GETFORCE, STATUS]
LONGEST = len(b"".join(SINGLE))


def heard(script: list[bytes], cuts: list[int], close: bool = False) -> tuple[bytes, str]:
    """What a driver answers when the parts of a script come one after the other, each cut at
    some of these bytes of the whole, and its failure."""
    got, start = b"", 0
    with FakeIpi() as ipi, polled(ipi.address, ATOMS, Cheap()) as mine:
        wire = ipi.accept()
        wire.sock.setblocking(False)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in script:
                places = [0, *sorted(c - start for c in cuts if 0 < c - start < len(part)), None]
                for a, b in pairwise(places):
                    wire.sock.sendall(part[a:b])
                    mine.settle()
                start += len(part)
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while part := wire.sock.recv(1 << 16):
                got += part
        if close:
            wire.close()
            mine.settle()
        failure = mine.driver.failure
        assert failure is None or isinstance(failure, ForceNetError)
        return got, str(failure or "")


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([SINGLE, BATCH]), st.lists(st.integers(0, LONGEST), max_size=12))
def test_where_a_stream_is_cut_makes_no_difference(script, cuts):
    got, failure = heard(script, cuts)
    assert failure == ""
    assert got == heard(script, [])[0]
    assert got.startswith(word("needinit") + word("ready"))
    assert got.count(b"FORCEREADY") == (3 if script is SINGLE else 1)
    assert got.endswith(word("ready"))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([SINGLE, BATCH]),
    st.lists(st.tuples(st.integers(0, LONGEST), st.integers(1, 255)), min_size=1, max_size=3),
    st.integers(12, LONGEST),
    st.lists(st.integers(0, LONGEST), max_size=3),
)
def test_damaged_streams_end_in_a_sentence_or_wait(script, flips, length, cuts):
    damaged = bytearray(b"".join(script))
    for place, bits in flips:
        damaged[place % len(damaged)] ^= bits
    ends = np.cumsum([0, *(len(part) for part in script)])
    parts = [bytes(damaged[a : min(b, length)]) for a, b in pairwise(ends)]
    got, failure = heard(parts, cuts, close=True)
    assert failure == "" or failure.endswith(".")
    if b"FORCEREADY" in got:  # whatever was answered is finite
        first = got.index(b"FORCEREADY") + 12
        batch = 1 if script is SINGLE else 3
        assert np.isfinite(np.frombuffer(got[first : first + 8 * batch])).all()


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=12, max_size=300))
def test_what_is_not_i_pi_is_told_apart_at_once(noise):
    assume(noise[:12] not in (STATUS, EXIT, word("init")))
    got, failure = heard([noise], [])
    assert got == b""
    assert "give the address of i-PI" in failure
