"""Addresses: parsing, the private default, who may take one, what is removed and what is not."""

from __future__ import annotations

import os
import socket
import stat
import threading

import pytest

from forcenet_md.errors import AddressError
from forcenet_md.server.address import (
    Listener,
    TcpAddress,
    UnixAddress,
    connect,
    default_address,
    is_loopback,
    parse_address,
)


@pytest.mark.parametrize(
    "text", ["unix:/tmp/a.sock", "tcp:127.0.0.1:31415", "tcp:[::1]:80", "tcp:node07:0"]
)
def test_an_address_is_written_as_it_is_read(text):
    assert str(parse_address(text)) == text


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_address("unix:a.sock") == UnixAddress(tmp_path / "a.sock")


@pytest.mark.parametrize(
    "text",
    [
        *("", "/tmp/a", "unix:", "unix:a\0b", "unix:/" + "x" * 107, "udp:h:1"),
        *("tcp:", "tcp:host", "tcp::80", "tcp:h:65536", "tcp:h:-1", "tcp:h:٣"),
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(AddressError):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("unix:/tmp/a", True),
        ("tcp:127.0.0.1:1", True),
        ("tcp:127.8.9.1:1", True),
        ("tcp:[::1]:1", True),
        ("tcp:localhost:1", True),
        ("tcp:0.0.0.0:1", False),
        ("tcp:[::]:1", False),
        ("tcp:192.168.1.5:1", False),
    ],
)
def test_loopback(text, loopback):
    assert is_loopback(parse_address(text)) is loopback


# The default directory -------------------------------------------------------------------------


def test_the_default_is_in_a_private_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for _ in range(2):
        address = default_address()
        assert address.path == tmp_path / "forcenet-md" / "default.sock"
        assert stat.S_IMODE(address.path.parent.stat().st_mode) == 0o700


def test_without_a_runtime_directory_the_default_is_under_tmp(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    assert str(default_address().path) == f"/tmp/forcenet-md-{os.getuid()}/default.sock"


@pytest.mark.parametrize("fault", ["open to others", "a link", "a file", "another's"])
def test_a_default_directory_that_is_not_private_is_refused(tmp_path, monkeypatch, fault):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "forcenet-md"
    if fault == "open to others":
        folder.mkdir()
        folder.chmod(0o755)
    elif fault == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif fault == "a file":
        folder.touch(mode=0o700)
    else:
        folder.mkdir(mode=0o700)
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(AddressError, match="0700"):
        default_address()


# Claiming --------------------------------------------------------------------------------------


def listening(address: UnixAddress | TcpAddress) -> Listener:
    listener = Listener(address)
    listener.listen()
    return listener


def test_the_socket_is_the_owners_alone_and_leaves_nothing(tmp_path):
    address = UnixAddress(tmp_path / "s")
    listener = listening(address)
    assert stat.S_IMODE(address.path.stat().st_mode) == 0o600
    connect(address, 5.0).close()
    listener.close()
    listener.close()
    assert list(tmp_path.iterdir()) == []


def test_a_claimed_address_is_refused_even_before_it_listens(tmp_path):
    address = UnixAddress(tmp_path / "s")
    first = Listener(address)  # for example still loading its model
    with pytest.raises(AddressError, match="is already served"):
        Listener(address)
    with pytest.raises(AddressError, match="no server answers"):
        connect(address, 5.0)
    first.listen()
    connect(address, 5.0).close()
    first.close()
    listening(address).close()


def test_of_many_at_once_one_gets_it(tmp_path):
    """Twenty rounds, each with a stale file that all eight would like to replace."""
    address = UnixAddress(tmp_path / "s")
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(address.path))
        start = threading.Barrier(8)
        won: list[Listener] = []
        lost: list[AddressError] = []

        def claim(start=start, won=won, lost=lost) -> None:
            start.wait()
            try:
                won.append(listening(address))
            except AddressError as error:
                lost.append(error)

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 7)
        connect(address, 5.0).close()
        won[0].close()
        assert list(tmp_path.iterdir()) == []


def test_a_stale_file_is_replaced(tmp_path):
    address = UnixAddress(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(address.path))
    with pytest.raises(AddressError, match="no server answers"):
        connect(address, 5.0)
    listener = listening(address)
    with connect(address, 5.0) as sock:
        assert sock.getpeername() == str(address.path)
    listener.close()
    assert not address.path.exists()


def test_a_foreign_live_server_is_not_replaced(tmp_path):
    """One that knows nothing of our lock file, even if its queue is full."""
    address = UnixAddress(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as caller:
        other.bind(str(address.path))
        other.listen(0)
        caller.connect(str(address.path))
        for _ in range(2):
            with pytest.raises(AddressError, match="is already served"):
                Listener(address)
    assert address.path.exists()
    assert not address.path.with_name("s.lock").exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_nothing_but_a_socket_is_ever_removed(tmp_path, kind):
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        target = tmp_path / "target"
        if kind == "link":
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(target))
        path.symlink_to(target)
    with pytest.raises(AddressError, match="is not a socket"):
        Listener(UnixAddress(path))
    assert os.path.lexists(path)
    assert kind != "file" or path.read_text() == "precious"
    assert not (tmp_path / "s.lock").exists()


def test_closing_does_not_remove_anothers_socket(tmp_path):
    path = tmp_path / "s"
    listener = listening(UnixAddress(path))
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        listener.close()
        assert path.exists()


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(AddressError, match="its folder does not exist"):
        Listener(UnixAddress(tmp_path / "missing" / "s"))


def test_tcp_takes_a_free_port_and_refuses_a_live_one():
    listener = listening(TcpAddress("127.0.0.1", 0))
    address = listener.address
    assert isinstance(address, TcpAddress)
    assert address.port > 0
    connect(address, 5.0).close()
    with pytest.raises(AddressError, match="is already served"):
        Listener(address)
    listener.close()
    with pytest.raises(AddressError, match="no server answers"):
        connect(address, 5.0)
    listening(address).close()  # at once, in spite of the closed connection


def test_an_unknown_host_is_told():
    with pytest.raises(AddressError, match=r"nowhere\.invalid"):
        Listener(TcpAddress("nowhere.invalid", 1))
