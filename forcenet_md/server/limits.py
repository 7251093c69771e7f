"""What one client may ask for, so that no client can take the memory or the time of all."""

from __future__ import annotations

from dataclasses import dataclass

from forcenet_md.server.protocol import HELLO_LIMIT, TEXT_LIMIT, MessageType, step_size


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of atoms and clients; times in seconds.

    handshake: until the HELLO; message: from the first byte of a message to its last;
    write: without the client reading any of its answer; goodbye: for a refusal to be read, and for
    what is half sent when the server stops.
    """

    max_atoms: int = 200_000
    max_clients: int = 64
    handshake: float = 10.0
    message: float = 30.0
    write: float = 30.0
    goodbye: float = 2.0

    def length(self, message: MessageType) -> int:
        """Bytes of the longest payload of that type."""
        return {
            MessageType.AUTH: TEXT_LIMIT,
            MessageType.HELLO: HELLO_LIMIT,
            MessageType.STEP: step_size(self.max_atoms, velocities=True),
        }.get(message, 0)
