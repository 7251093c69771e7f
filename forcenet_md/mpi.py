"""The ranks of one launch: what they say to one another, asleep while they wait.

A rank in a blocking MPI call burns a core, which may be the one that the others need; every wait
here tests and sleeps, the longer the longer it has waited. Large arrays travel as they are, what
is small or rare is pickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import ForceNetError

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm, Request

SPIN = 50e-6  # s of testing before the first sleep
GROWTH = 0.02  # of the time waited, which bounds how late a rank wakes
LONGEST = 5e-3  # s asleep; a rank that waits for ever takes under a hundredth of a core
SLACK = 2000  # ns; Linux otherwise lengthens a short sleep by 50 µs
PR_SET_TIMERSLACK = 29

Array = NDArray[Any]


class LaunchError(ForceNetError):
    """There is no MPI, or the ranks of a launch do not fit the machine."""


class Ranks(Protocol):
    """The ranks that share one structure. All calls are collective.

    allgather: one small array of each, of one shape, in the order of ranks
    sum: of all ranks' arrays, on all of them
    swap: one object to each of some ranks; what came, by sender
    bcast: rank 0's object; share: rank 0's numbers, in every rank's array of that shape
    scatter: of rank 0's rows [sum(counts), width] float64 the next counts[rank] on each rank
    gather: the rows [counts[rank], width] float64 of all, behind one another, on rank 0
    lose_step: not collective: this rank has a fault amid collective calls, which ends all others
    """

    rank: int
    size: int

    def allgather(self, mine: Array) -> Array: ...
    def sum(self, mine: Array) -> Array: ...
    def swap(self, out: Mapping[int, Any]) -> dict[int, Any]: ...
    def bcast(self, what: Any = None) -> Any: ...
    def share(self, numbers: Array) -> None: ...
    def scatter(self, rows: Array | None, counts: Sequence[int], width: int) -> Array: ...
    def gather(self, rows: Array, counts: Sequence[int]) -> Array | None: ...
    def lose_step(self) -> None: ...


class One:
    """A rank that is alone."""

    rank = 0
    size = 1

    def allgather(self, mine: Array) -> Array:
        return mine[None]

    def sum(self, mine: Array) -> Array:
        return mine

    def swap(self, out: Mapping[int, Any]) -> dict[int, Any]:
        return dict(out)

    def bcast(self, what: Any = None) -> Any:
        return what

    def share(self, numbers: Array) -> None:
        """They are here."""

    def scatter(self, rows: Array | None, counts: Sequence[int], width: int) -> Array:
        assert rows is not None
        return rows

    def gather(self, rows: Array, counts: Sequence[int]) -> Array | None:
        return rows

    def lose_step(self) -> None:
        """There are no others."""


class World:
    """Ranks of an MPI communicator."""

    def __init__(self, comm: Intracomm) -> None:
        self.comm = comm
        self.rank = comm.rank
        self.size = comm.size
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, SLACK)

    def allgather(self, mine: Array) -> Array:
        mine = np.ascontiguousarray(mine)
        all_ = np.empty((self.size, *mine.shape), mine.dtype)
        wait([self.comm.Iallgather(mine, all_)])
        return all_

    def sum(self, mine: Array) -> Array:
        all_ = np.empty_like(mine)
        wait([self.comm.Iallreduce(mine, all_)])
        return all_

    def swap(self, out: Mapping[int, Any]) -> dict[int, Any]:
        packed = {to: np.frombuffer(pickle.dumps(what, 5), np.uint8) for to, what in out.items()}
        lengths, coming = np.zeros(self.size, np.int64), np.empty(self.size, np.int64)
        for to, data in packed.items():
            lengths[to] = len(data)
        wait([self.comm.Ialltoall(lengths, coming)])
        into = {int(r): np.empty(coming[r], np.uint8) for r in np.flatnonzero(coming)}
        requests = [self.comm.Irecv(data, source) for source, data in into.items()]
        requests += [self.comm.Isend(data, to) for to, data in packed.items()]
        wait(requests)
        return {source: pickle.loads(data.data) for source, data in into.items()}

    def bcast(self, what: Any = None) -> Any:
        length = np.zeros(1, np.int64)
        data = np.empty(0, np.uint8)
        if self.rank == 0:
            data = np.frombuffer(pickle.dumps(what, 5), np.uint8)
            length[0] = len(data)
        self.share(length)
        if self.rank != 0:
            data = np.empty(length[0], np.uint8)
        self.share(data)
        return what if self.rank == 0 else pickle.loads(data.data)

    def share(self, numbers: Array) -> None:
        wait([self.comm.Ibcast(numbers)])

    def scatter(self, rows: Array | None, counts: Sequence[int], width: int) -> Array:
        mine = np.empty((counts[self.rank], width))
        there = None if rows is None else [rows, [c * width for c in counts]]
        wait([self.comm.Iscatterv(there, mine)])
        return mine

    def gather(self, rows: Array, counts: Sequence[int]) -> Array | None:
        width = rows.shape[1]
        all_ = np.empty((sum(counts), width)) if self.rank == 0 else None
        there = None if all_ is None else [all_, [c * width for c in counts]]
        wait([self.comm.Igatherv(np.ascontiguousarray(rows), there)])
        return all_

    def lose_step(self) -> None:
        traceback.print_exc()
        abort(self.comm)


def wait(requests: Sequence[Request], look: Callable[[], None] = lambda: None) -> None:
    """Sleep until all of them are done; look: called before each sleep, and may raise."""
    from mpi4py import MPI

    start = time.perf_counter()
    while not MPI.Request.Testall(requests):
        waited = time.perf_counter() - start
        if waited > SPIN:
            look()
            time.sleep(min(max(GROWTH * waited, 20e-6), LONGEST))


def share_fault(ranks: Ranks, fault: ForceNetError | None) -> ForceNetError | None:
    """The fault of the first rank that has one, on all of them. Collective."""
    if not ranks.allgather(np.array([fault is not None])).any():
        return None
    told = ranks.swap(dict.fromkeys(range(ranks.size), fault) if fault is not None else {})
    first = min(told)
    if first > 0:
        return type(told[first])(f"on rank {first}: {told[first]}")
    return told[first]


@contextlib.contextmanager
def one_for_all(
    ranks: Ranks, sentence: Callable[[Exception], ForceNetError] | None = None
) -> Iterator[None]:
    """What each rank does alone: a fault of one is raised on all. Collective.

    sentence: of a RuntimeError or MemoryError, which otherwise are no user's fault
    """
    fault: ForceNetError | None = None
    try:
        yield
    except ForceNetError as error:
        fault = error
    except (RuntimeError, MemoryError) as error:
        if sentence is None:
            raise
        fault = sentence(error)
    fault = share_fault(ranks, fault)
    if fault is not None:
        raise fault


def launched() -> int:
    """How many ranks mpirun has started of this program; 1 without it."""
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return 1


def is_launched() -> bool:
    """Whether mpirun, srun or the like has started this program, be it on one rank."""
    names = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
    return any(name in os.environ for name in names)


def join_world() -> Intracomm:
    """All ranks of this launch. Raises LaunchError where there is no MPI."""
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"
        mpi4py.rc.errors = "fatal"  # for LAMMPS does not look at what MPI returns
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise LaunchError(
            f"the library of MPI cannot be loaded ({error}): pip install mpich."
        ) from None
    return MPI.COMM_WORLD


def abort(comm: Intracomm) -> NoReturn:
    """End all ranks at once, with what they have said."""
    flush()
    time.sleep(0.2)  # mpirun may drop what it has not yet read when the abort reaches it
    comm.Abort(1)
    os._exit(1)  # MPI asks for the end of all, and may come back before it is there


def flush() -> None:
    """Write out what Python and LAMMPS still hold."""
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.flush()
    ctypes.CDLL(None).fflush(None)


def bound_device(device: str, comm: Intracomm, share: bool = False) -> str:
    """The device of this rank: 'cuda' is that of its place among the ranks of its machine.

    share: ranks may have a device together. Raises LaunchError, on all ranks, where there are more
    ranks than devices.
    """
    if not device.startswith("cuda") or comm.size == 1:
        return device
    import torch

    node = comm.Split_type(type_shared())
    place, ranks = node.rank, node.size
    node.Free()
    return place_device(device, place, ranks, torch.cuda.device_count(), share)


def type_shared() -> int:
    from mpi4py import MPI

    return MPI.COMM_TYPE_SHARED


def place_device(device: str, place: int, ranks: int, devices: int, share: bool) -> str:
    """The device of the rank at that place of a machine with so many ranks and devices.

    Raises LaunchError.
    """
    if devices == 0:
        raise LaunchError("this machine has no GPU that torch can use: take --device cpu.")
    if device != "cuda":  # one of them, by number, for all
        if not share:
            raise LaunchError(
                f"{ranks} ranks of a machine would share {device}: give --device cuda, which takes"
                " one for each, or --share-devices if they shall."
            )
        return device
    if ranks > devices and not share:
        raise LaunchError(
            f"{ranks} ranks run on a machine with {devices} GPUs: start as many ranks as there are"
            " GPUs, or give --share-devices if they shall share them."
        )
    return f"cuda:{place % devices}"
