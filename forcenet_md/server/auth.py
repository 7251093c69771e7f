"""The secret of a connection: challenge and HMAC-SHA256 in both directions.

The secret never travels. Both sides prove that they know it, each over both nonces and with its
own label, so that an answer cannot be reflected. Later frames are neither signed nor encrypted.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from forcenet_md.errors import AddressError, ProtocolError

ENVIRONMENT = "FORCENET_MD_SECRET"
NONCE_BYTES = 32


def new_nonce() -> bytes:
    return secrets.token_bytes(NONCE_BYTES)


def client_mac(secret: bytes, server_nonce: bytes, client_nonce: bytes) -> str:
    """What the client sends: hexadecimal."""
    return _mac(secret, b"forcenet client", server_nonce, client_nonce)


def server_mac(secret: bytes, server_nonce: bytes, client_nonce: bytes) -> str:
    """What the server answers: hexadecimal."""
    return _mac(secret, b"forcenet server", server_nonce, client_nonce)


def same(a: str, b: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(a.encode(), b.encode())


def parse_nonce(text: str) -> bytes | None:
    """32 bytes from 64 hexadecimal digits, or None if it is anything else."""
    if len(text) != 2 * NONCE_BYTES or not text.isascii() or not text.isalnum():
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def load_secret(file: Path | None) -> bytes | None:
    """The secret of the file, else of the environment variable FORCENET_MD_SECRET, else None.

    Raises AddressError if the file cannot be read or the secret is empty.
    """
    if file is not None:
        try:
            secret = file.read_bytes().strip()
        except OSError as error:
            raise AddressError(
                f"the secret file {file} cannot be read ({error.strerror}): give a readable file"
                " with a long random text."
            ) from None
        where = f"the secret file {file}"
    elif ENVIRONMENT in os.environ:
        secret = os.environb[ENVIRONMENT.encode()].strip()
        where = f"the environment variable {ENVIRONMENT}"
    else:
        return None
    if not secret:
        raise AddressError(f"{where} is empty: put a long random text there.")
    return secret


def _mac(secret: bytes, label: bytes, server_nonce: bytes, client_nonce: bytes) -> str:
    return hmac.new(secret, label + server_nonce + client_nonce, "sha256").hexdigest()


class Challenge:
    """The server's part of the proof that both sides of one connection know the secret."""

    def __init__(self, secret: bytes | None) -> None:
        self._secret = secret
        self._nonce = new_nonce()

    @property
    def text(self) -> str:
        """For the greeting."""
        return "none" if self._secret is None else self._nonce.hex()

    def answer(self, lines: Mapping[str, Sequence[str]]) -> str:
        """The mac that answers a client's AUTH. Raises ProtocolError for another secret."""
        nonce = parse_nonce(lines.get("nonce", [""])[0])
        mac = lines.get("mac", [""])[0]
        secret = self._secret
        if secret is None or nonce is None or not same(mac, client_mac(secret, self._nonce, nonce)):
            raise ProtocolError("the secret is wrong: give the engine the secret of this server.")
        return server_mac(secret, self._nonce, nonce)
