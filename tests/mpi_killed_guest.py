"""A LAMMPS, to the eye of a server at mpi:NAME, that is killed when half of a step has been sent.

Usage: mpirun -n 1 python mpi_killed_guest.py NAME
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

from forcenet_md.server.mpi_wire import HEAD, Order, Tag

N_ATOMS = 20_000
TEXT = f"""engine killed
units metal
elements Cu
masses none
mass_check off
periodic 1 1 1
group all
held yes
atoms {N_ATOMS}
""".encode()


def head(order: Order) -> np.ndarray:
    numbers = np.zeros(HEAD)
    numbers[:5] = order, 0, True, 7, len(TEXT)
    numbers[5:14] = 100.0 * np.eye(3).ravel()
    return numbers


port = Path(sys.argv[1])
knock = os.open(f"{port}.knock", os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(knock, fcntl.LOCK_EX)
os.write(knock, b"1 1\n")
server = MPI.COMM_SELF.Connect(port.read_text())
server.Send(head(Order.HELLO), 0, Tag.HEAD)
server.Send(np.frombuffer(TEXT, np.uint8), 0, Tag.TEXT)
answer = np.empty(2)
server.Recv(answer, 0, Tag.ANSWER)
server.Recv(np.empty(int(answer[1]), np.uint8), 0, Tag.TEXT)
assert answer[0] == 0.0

# All that is large is on its way when the server hears that it shall be received.
requests = [
    server.Isend(np.ones((N_ATOMS, 2), np.int64), 0, Tag.LABELS),
    server.Isend(np.zeros((N_ATOMS, 3)), 0, Tag.POSITIONS),
]
server.Send(head(Order.STEP), 0, Tag.HEAD)
server.Send(np.array([N_ATOMS]), 0, Tag.COUNT)
os.kill(os.getpid(), signal.SIGKILL)
