"""The secret: proved by both sides, never sent, never replayed."""

from __future__ import annotations

import socket

import pytest
from serving import ask, copper, in_process, in_thread, messages
from wire import hello, only_error

from forcenet_md.errors import RequestError
from forcenet_md.server import auth
from forcenet_md.server.client import Client
from forcenet_md.server.protocol import (
    MessageType,
    decode_text,
    encode_text,
    frame,
)


def test_both_sides_prove_the_secret(tmp_path):
    with in_thread(tmp_path / "s", secret=b"salt") as (_, address):
        with Client(address, secret=b"salt") as client:
            client.hello(["Cu"])
            ask(client, copper())
        with pytest.raises(RequestError, match="the secret is wrong"):
            Client(address, secret=b"pepper")
        with pytest.raises(RequestError, match="asks for a secret"):
            Client(address)
    with (
        in_thread(tmp_path / "open") as (_, address),
        pytest.raises(RequestError, match="does not ask"),
    ):
        Client(address, secret=b"salt")


def test_the_client_refuses_a_server_that_does_not_know_the_secret():
    mine, theirs = socket.socketpair()
    challenge = auth.new_nonce()
    theirs.sendall(frame(MessageType.GREETING, encode_text(("challenge", challenge.hex()))))
    theirs.sendall(frame(MessageType.AUTHENTICATED, encode_text(("mac", "0" * 64))))
    with theirs:
        with pytest.raises(RequestError, match="does not know the secret"):
            Client(mine, secret=b"salt")
        sent = theirs.recv(1 << 16)
    assert b"salt" not in sent


def test_nothing_is_served_before_the_secret_and_no_answer_can_be_replayed():
    with in_process(secret=b"salt") as loop:
        sock = loop.connect()
        sock.sendall(hello())
        loop.settle()
        found, closed = messages(sock)
        assert [kind for kind, _ in found] == [MessageType.GREETING, MessageType.ERROR]
        assert closed

        first, second = loop.connect(), loop.connect()
        loop.settle()
        nonces = [decode_text(messages(s)[0][0][1])["challenge"][0] for s in (first, second)]
        assert nonces[0] != nonces[1]
        mine = auth.new_nonce()
        mac = auth.client_mac(b"salt", bytes.fromhex(nonces[0]), mine)
        message = frame(MessageType.AUTH, encode_text(("nonce", mine.hex()), ("mac", mac)))
        second.sendall(message)
        loop.settle()
        assert "secret is wrong" in only_error(second, closed=True)
        first.sendall(message)
        loop.settle()
        assert [kind for kind, _ in messages(first)[0]] == [MessageType.AUTHENTICATED]
