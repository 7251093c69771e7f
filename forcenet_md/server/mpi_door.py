"""How a LAMMPS on other MPI ranks finds this server, in a launch of its own or in the same one.

A launch of its own (`Port`): three files. NAME has the port, NAME.lock is locked as long as the
server lives, NAME.knock as long as the LAMMPS that is served does. An accept burns a core until
somebody connects: it waits for a knock. lammps_plugin/src/mpi_door.cpp has the other half.

The same launch (`Launch`): a message from the first rank that is not ours is the knock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from forcenet_md.errors import AddressError
from forcenet_md.mpi import LaunchError, World, is_launched
from forcenet_md.server.address import MpiAddress, acquire, lock_path, release

if TYPE_CHECKING:
    from mpi4py.MPI import Intercomm, Intracomm

PAUSE = 0.05  # s between two looks whether somebody knocks
KNOCK = 1701  # tag
LONG = 15.0  # s without the other programs of a launch until that is said
TOO_LONG = 300.0  # s until it ends
COLOURS = (
    "mpirun -n L lmp -mpicolor 0 -in FILE : -n R forcenet-md serve … --mpicolor 1, with another"
    " colour for each program"
)


class Door(Protocol):
    """Where LAMMPS comes in."""

    def open(self) -> None:
        """From now on it may. Collective."""

    def accept(self, idle: Callable[[], bool]) -> Intercomm | None:
        """The ranks of the next LAMMPS, asleep until it comes; None where there will be none, or
        when idle, called now and then on rank 0, says that it is enough. Collective."""

    def lives(self) -> bool:
        """Whether the LAMMPS that came last may still be there."""

    def close(self) -> None:
        """Nobody may come any more."""


class Port:
    """The door of a server in a launch of its own."""

    def __init__(self, address: MpiAddress, world: World) -> None:
        """Claim the address. Raises AddressError, on rank 0, and LaunchError on all ranks."""
        if not is_launched():  # MPICH takes programs without a launch for one and the same
            raise LaunchError(
                f"{address} needs mpirun on both sides: start the server as 'mpirun -n 1"
                " forcenet-md serve …', and LAMMPS as 'mpirun -n 1 lmp …'."
            )
        self._address = address
        self._knock = address.path.with_name(address.path.name + ".knock")
        self._world = world
        self._port = ""
        self._guest: str | None = None  # what its knock says
        self._lock = acquire(address) if world.rank == 0 else None
        if world.rank == 0:  # what a killed server has left would send LAMMPS to it
            self._remove(address.path)

    def open(self) -> None:
        if self._world.rank != 0:
            if not is_locked(lock_path(self._address.path)):
                raise AddressError(
                    f"the ranks of the server do not all see {self._address.path}: give NAME of"
                    " mpi:NAME as a path in a folder that all machines see."
                )
            return
        from mpi4py import MPI

        self._port = MPI.Open_port()
        path = self._address.path
        part = path.with_name(path.name + ".part")
        try:
            part.unlink(missing_ok=True)
            file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(file, "w") as stream:
                stream.write(self._port)
            part.replace(path)  # whole
        except OSError as error:
            raise AddressError(
                f"{path} cannot be written ({error.strerror}): give another mpi:NAME."
            ) from None

    def accept(self, idle: Callable[[], bool]) -> Intercomm | None:
        guest = None
        if self._world.rank == 0:
            while not idle() and not (guest := who_locked(self._knock)):
                time.sleep(PAUSE)
        self._guest = self._world.bcast(guest)
        return self._world.comm.Accept(self._port) if self._guest else None

    def lives(self) -> bool:
        return who_locked(self._knock) == self._guest

    def close(self) -> None:
        if self._lock is None:
            return
        for path in (self._address.path, self._knock):
            self._remove(path)
        release(self._lock, lock_path(self._address.path))
        self._lock = None

    @staticmethod
    def _remove(path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()


class Launch:
    """The door of a server whose LAMMPS is another program of the same launch.

    everyone: all ranks of it; LAMMPS's `-mpicolor` has split them, as the server has
    """

    def __init__(self, everyone: Intracomm, world: World) -> None:
        self._everyone = everyone
        self._world = world
        ours = world.allgather(np.array([everyone.rank]))[:, 0]
        self._leader = int(np.setdiff1d(np.arange(everyone.size), ours)[0])

    def open(self) -> None:
        """A knock waits until it is heard."""

    def accept(self, idle: Callable[[], bool]) -> Intercomm | None:
        knock = np.zeros(1, np.int32)
        if self._world.rank == 0:
            while not self._everyone.Iprobe(self._leader, KNOCK):
                if idle():
                    break
                time.sleep(PAUSE)
            else:
                self._everyone.Recv(knock, self._leader, KNOCK)
                if knock[0]:
                    self._everyone.Send(knock, self._leader, KNOCK)
        if not self._world.bcast(bool(knock[0])):
            return None
        return self._world.comm.Create_intercomm(0, self._everyone, self._leader, KNOCK)

    def lives(self) -> bool:
        return True  # mpirun ends all of a launch with any of them

    def close(self) -> None:
        """Nothing is held."""


def own_ranks(everyone: Intracomm, color: int | None) -> Intracomm:
    """The server's ranks of a launch; says it where a program of the launch does not come.

    Raises LaunchError, on all of the server's ranks, where it knows that none will.
    """
    from mpi4py import MPI

    def say() -> None:
        if everyone.rank in (0, everyone.size - 1):
            print(
                "forcenet-md: the other programs of this launch do not come: was LAMMPS started"
                f" without -mpicolor? A launch of several programs is {COLOURS}; this one ends in"
                f" {TOO_LONG / 60:.0f} minutes, or with Ctrl-C.",
                file=sys.stderr,
                flush=True,
            )

    # MPI itself waits in this thread; mpirun ends all of a launch with any of them
    timers = [threading.Timer(LONG, say), threading.Timer(LONG + TOO_LONG, os._exit, (1,))]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        if color is None:
            if everyone.Get_attr(MPI.APPNUM):  # not the first program
                raise LaunchError(f"a launch of several programs is {COLOURS}.")
            World(everyone).allgather(np.zeros(1))
            return everyone
        comm = cast("Intracomm", everyone.Split(color, everyone.rank))  # as LAMMPS does
    finally:
        for timer in timers:
            timer.cancel()
    if comm.size == everyone.size:
        raise LaunchError(
            "--mpicolor is for a server in one launch with LAMMPS, and there is no LAMMPS of"
            f" another colour in this one: {COLOURS}; for a launch of its own leave it out."
        )
    return comm


def is_locked(path: Path) -> bool:
    """Whether a program holds the lock of that file."""
    return who_locked(path) is not None


def who_locked(path: Path) -> str | None:
    """What a file says that a program holds the lock of; None where none does."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return os.read(file, 100).decode(errors="replace")
    finally:
        os.close(file)
