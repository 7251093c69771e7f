"""Addresses `unix:PATH` and `tcp:HOST:PORT`: parsing, claiming them for a server, connecting."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from forcenet_md.errors import AddressError

KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}  # s, s, probes
MAX_UNIX_PATH = 107  # bytes in sockaddr_un, without the closing zero


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class MpiAddress:
    """Of ranks that speak MPI; path: of the file in which their port is published."""

    text: str
    path: Path

    def __str__(self) -> str:
        return self.text


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """`unix:PATH` or `tcp:HOST:PORT` (an IPv6 host in brackets). Raises AddressError."""
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest and "\0" not in rest:
        path = Path(os.path.abspath(os.path.expanduser(rest)))
        if len(os.fsencode(path)) > MAX_UNIX_PATH:
            raise AddressError(
                f"the path of {text} is longer than {MAX_UNIX_PATH} bytes,"
                " which sockets do not allow: use a shorter one, for example under /tmp."
            )
        return UnixAddress(path)
    if scheme == "tcp":
        host, _, port = rest.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if host and port.isascii() and port.isdecimal() and int(port) < 65536:
            return TcpAddress(host, int(port))
    raise AddressError(f"{text!r} is not an address: use unix:PATH or tcp:HOST:PORT.")


def default_address() -> UnixAddress:
    """default.sock in the user's private folder. Raises AddressError as `private_folder` does."""
    return UnixAddress(private_folder() / "default.sock")


def private_folder() -> Path:
    """A directory that only this user can enter, made if need be.

    Raises AddressError if the directory belongs to someone else, is a link, or is open to others.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.path.isdir(runtime):
        folder = Path(runtime) / "forcenet-md"
    else:
        folder = Path(f"/tmp/forcenet-md-{os.getuid()}")
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise AddressError(
            f"{folder} cannot be made ({error.strerror}): give --listen unix:PATH."
        ) from None
    private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700
    if not private or status.st_uid != os.getuid():
        raise AddressError(
            f"{folder} is not a directory of mode 0700 that belongs to you: remove it,"
            " or give --listen unix:PATH."
        )
    return folder


def is_loopback(address: Address) -> bool:
    """Whether only this machine can reach the address. Raises AddressError if it has no meaning."""
    if isinstance(address, UnixAddress):
        return True
    return all(
        ipaddress.ip_address(sockaddr[0].partition("%")[0]).is_loopback
        for _, sockaddr in resolve(address)
    )


class Listener:
    """A claimed address. Nobody is heard before `listen`; `close` removes what was made."""

    def __init__(self, address: Address) -> None:
        """Bind. Raises AddressError if the address is served already or cannot be bound."""
        self._lock: int | None = None
        self._inode: tuple[int, int] | None = None
        if isinstance(address, UnixAddress):
            self.address: Address = address
            self.socket = self._bind_unix(address)
        else:
            self.socket = self._bind_tcp(address)
            self.address = TcpAddress(address.host, self.socket.getsockname()[1])
        self.socket.setblocking(False)

    def listen(self) -> None:
        try:
            self.socket.listen(128)
        except OSError as error:
            raise _cannot_bind(self.address, error) from None

    def close(self) -> None:
        """Close, and remove the socket file if it is still the one made here."""
        self.socket.close()
        if self._lock is not None and isinstance(self.address, UnixAddress):
            path = self.address.path
            with contextlib.suppress(OSError):
                status = path.lstat()
                if (status.st_dev, status.st_ino) == self._inode:
                    path.unlink()
            release(self._lock, lock_path(path))
            self._lock = None

    def _bind_unix(self, address: UnixAddress) -> socket.socket:
        path = address.path
        lock = acquire(address)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(address)
            sock.bind(str(path))
            os.chmod(path, 0o600)  # before listen, so nobody can have connected
            status = path.lstat()
        except OSError as error:
            sock.close()
            release(lock, lock_path(path))
            raise _cannot_bind(address, error) from None
        except AddressError:
            sock.close()
            release(lock, lock_path(path))
            raise
        self._lock = lock
        self._inode = (status.st_dev, status.st_ino)
        return sock

    @staticmethod
    def _bind_tcp(address: TcpAddress) -> socket.socket:
        family, sockaddr = resolve(address)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(sockaddr)
        except OSError as error:
            sock.close()
            raise _cannot_bind(address, error) from None
        return sock


def connect(address: Address, timeout: float | None) -> socket.socket:
    """A connected blocking socket with that timeout in seconds. Raises AddressError."""
    try:
        if isinstance(address, UnixAddress):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                sock.connect(str(address.path))
            except BaseException:
                sock.close()
                raise
        else:
            sock = socket.create_connection((address.host, address.port), timeout)
            watch(sock)
    except OSError as error:
        raise AddressError(
            f"no server answers at {address} ({error.strerror or error}): start one with"
            f" forcenet-md serve --listen {address}."
        ) from None
    return sock


def watch(sock: socket.socket) -> None:
    """Of a tcp socket: send at once, and give the other machine up after two minutes of silence,
    where the system would take hours to see that it is gone."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def resolve(address: TcpAddress) -> list[tuple[socket.AddressFamily, tuple]]:
    """What a host's name and port mean. Raises AddressError."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AddressError(
            f"the host of {address} is unknown ({reason}): give the name or number of this"
            " machine, or 127.0.0.1."
        ) from None
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def _cannot_bind(address: Address | MpiAddress, error: OSError) -> AddressError:
    if error.errno == errno.EADDRINUSE:
        return _already_served(address)
    if error.errno == errno.ENOENT:
        return AddressError(
            f"{address} cannot be listened on (its folder does not exist): give another address"
            " with --listen, or make the folder."
        )
    return AddressError(
        f"{address} cannot be listened on ({error.strerror or error}): give another address with"
        " --listen."
    )


def _already_served(address: Address | MpiAddress) -> AddressError:
    return AddressError(
        f"{address} is already served: stop that server, or choose another address with --listen."
    )


def lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def acquire(address: UnixAddress | MpiAddress) -> int:
    """Lock the file beside the socket: of two servers that start at once, one gets it."""
    path = lock_path(address.path)
    while True:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _cannot_bind(address, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise _already_served(address) from None
        # The holder before us removes the file as it leaves: a lock on a removed file is none.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(lock), os.stat(path, follow_symlinks=False)):
                return lock
        os.close(lock)


def release(lock: int, path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(lock)


def _remove_stale(address: UnixAddress) -> None:
    """Unlink a socket file that nobody listens on. Raises AddressError if it is anything else."""
    try:
        status = address.path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise AddressError(
            f"{address.path} exists and is not a socket: remove it or choose another path."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full queue says "again": someone listens
        try:
            probe.connect(str(address.path))
        except ConnectionRefusedError:
            address.path.unlink()
            return
        except BlockingIOError:
            pass
    raise _already_served(address)
