"""LAMMPS's atoms for a model on every rank: the plugin hands its arrays in, and nothing is copied
to another rank but node rows.

The plugin finds the address of our `Evaluator` (lammps_structs.py) in the environment. It may be
called for several fixes external; each has its handle.
"""

from __future__ import annotations

import ctypes
import os
import time
import traceback
from collections.abc import Callable
from ctypes import c_char
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forcenet_md.engines.lammps_reference import NOT_FINITE, Reference
from forcenet_md.engines.lammps_structs import (
    CLOSE,
    FORCES,
    HELLO,
    OPEN,
    SHELL,
    Evaluator,
    LocalStep,
)
from forcenet_md.errors import ForceNetError, StructureError
from forcenet_md.graph.frame import Array, Frame
from forcenet_md.graph.ghosts import Surroundings
from forcenet_md.graph.neighbours import SLACK
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Kind, Moment, Request
from forcenet_md.inference.local import LocalModel
from forcenet_md.inference.ranks import Sharing
from forcenet_md.mpi import World, abort, one_for_all
from forcenet_md.server.lammps import Settings, read_hello, welcome
from forcenet_md.server.monitor import Largest, Monitor
from forcenet_md.system import System
from forcenet_md.watching.ranks import RanksWatch
from forcenet_md.watching.watching import Watching

if TYPE_CHECKING:
    from forcenet_md.recording.recorder import Recorder

VARIABLE = "FORCENET_MD_LOCAL"  # PROCESS:ADDRESS of an Evaluator


class LocalModels:
    """The model on this rank, for all fixes external of the LAMMPS of this process.

    max_atoms: most atoms of all ranks; count: how many fixes there have been
    watches: who looks at each simulation, by its stream
    """

    def __init__(
        self,
        network: ModelEvaluator,
        world: World,
        sharing: Sharing,
        max_atoms: int,
        monitor: Monitor,
        watching: Watching,
        warn: Callable[[str], None],
        recorder: Recorder | None,
    ) -> None:
        """warn: takes a warning; recorder: on rank 0, if `watching` asks for one"""
        self.count = 0
        self.watches: dict[int, RanksWatch] = {}
        self._watching = watching
        self._recorder = recorder
        self._warn = warn
        self._network = network
        self._world = world
        self._sharing = sharing
        self._max_atoms = max_atoms
        self._monitor = monitor if world.rank == 0 else Monitor()
        self._fixes: dict[int, LammpsLocal] = {}
        self._evaluator = Evaluator(
            OPEN(self._open),
            HELLO(self._hello),
            SHELL(self._shell),
            FORCES(self._forces),
            CLOSE(self._close),
        )

    def __enter__(self) -> LocalModels:
        os.environ[VARIABLE] = f"{os.getpid()}:{ctypes.addressof(self._evaluator)}"
        return self

    def __exit__(self, *_: object) -> None:
        os.environ.pop(VARIABLE, None)
        for handle in list(self._fixes):
            self._close(handle)

    def _open(self, handle: Any, reply: Any, room: int) -> int:
        def work() -> bytes:
            self.count += 1
            handle[0] = self.count
            model = LocalModel(self._network, self._world, self._sharing)
            log = self._monitor.log
            taken = {fix.stream for fix in self._fixes.values()}
            stream = next(k for k in count() if k not in taken)
            watch = self._watching.over_ranks(model, self._recorder, log, self._warn)
            self.watches[stream] = watch
            fix = LammpsLocal(model, self._max_atoms, self._monitor, watch, stream)
            self._fixes[self.count] = fix
            self._monitor.clients = len(self._fixes)
            return b""

        return self._answer(work, reply, room)

    def _hello(self, handle: int, text: Any, length: int, reply: Any, room: int) -> int:
        fix = self._fixes[handle]
        return self._answer(lambda: fix.hello(ctypes.string_at(text, length)), reply, room)

    def _shell(self, handle: int, skin: float, cutoff: Any, reply: Any, room: int) -> int:
        def work() -> bytes:
            cutoff[0] = self._fixes[handle].shell(skin)
            return b""

        return self._answer(work, reply, room)

    def _forces(self, handle: int, step: Any, reply: Any, room: int) -> int:
        def work() -> bytes:
            return self._fixes[handle].forces(step[0]).encode()

        return self._answer(work, reply, room)

    def _close(self, handle: int) -> None:
        self._fixes.pop(handle).close()
        self._monitor.clients = len(self._fixes)

    def _answer(self, work: Callable[[], bytes], reply: Any, room: int) -> int:
        """ctypes would print an exception and let LAMMPS go on: it is a sentence, or the end."""
        try:
            code, said = 0, work()
        except ForceNetError as fault:
            code, said = 1, str(fault).encode()
        except BaseException:
            traceback.print_exc()
            abort(self._world.comm)
        ctypes.memmove(reply, said[: room - 1] + b"\0", min(len(said), room - 1) + 1)
        return code


class LammpsLocal:
    """One fix external on this rank: LAMMPS's arrays become surroundings, forces LAMMPS's."""

    def __init__(
        self,
        model: LocalModel,
        max_atoms: int,
        monitor: Monitor,
        watch: RanksWatch,
        stream: int,
    ) -> None:
        self._model = model
        self._max_atoms = max_atoms
        self._monitor = monitor
        self._watch = watch
        self.stream = stream
        self._settings: Settings | None = None
        self._reference = Reference()
        self._steps = 0
        self._largest = Largest()

    def hello(self, payload: bytes) -> bytes:
        """WELCOME's payload. Raises, on all ranks, what `read_hello` raises on any."""
        capabilities = self._model.network.capabilities
        with one_for_all(self._model.ranks):
            self._settings = read_hello(payload, capabilities, self._max_atoms)
        assert self._settings is not None
        self._watch.begin(self._settings.numbers)
        self._monitor.log(f"{self._settings.describe()} on {self._model.ranks.size} ranks")
        return welcome(replace(capabilities, velocities_welcome=True))

    def shell(self, skin: float) -> float:
        """How far LAMMPS's ghosts must reach, in its units, with neighbour lists of that skin."""
        assert self._settings is not None
        length = self._settings.units.length
        reach = self._model.network.card.cutoff + skin * length + SLACK
        return self._model.sharing.shell(self._model.network, reach) / length

    def forces(self, step: LocalStep) -> str:
        """Fills the step's forces; the first time it returns how evenly ranks work. Collective;
        raises the fault of any rank on all of them."""
        start = time.perf_counter()
        settings = self._settings
        assert settings is not None
        length, force = settings.units.length, settings.units.force
        n, owned = step.all, step.owned
        points = array(step.x, (n, 3), np.float64) * length
        cell = np.array(step.head.cell).reshape(3, 3) * length
        origin = np.array(step.head.origin) * length
        skin = step.skin * length
        if step.fresh:
            self._divide(step, settings, points, cell, skin)
            self._reference = Reference(points[:owned].copy(), cell, origin)
        request = self._request(step, settings, points[:owned], cell)
        try:
            self._reference.check(points[:owned], cell, origin, skin)
        except StructureError as fault:
            self._model.fail(fault, self._watch.sums(request))
        divided = time.perf_counter()
        found, seen = self._watch.answer(
            request, lambda sums: self._model.forces(points, settings.keep_net_force, sums)
        )
        array(step.force, (owned, 3), np.float64)[:] = found / force
        network = time.perf_counter() - divided
        self._monitor.batch(1, seen.n_atoms, divided - start, network)
        self._steps += 1
        self._largest.taken_out(seen.net_force, seen.torque_force)
        if self._steps > 1:
            return ""
        said = self._model.edges()
        self._monitor.log(f"step {step.head.timestep}: {said}")
        return said

    def close(self) -> None:
        self._watch.close()
        self._model.close()
        if self._steps:
            for what in self._largest.describe(self._model.network.capabilities):
                self._monitor.log(f"LAMMPS {what}")
            self._monitor.log(f"{self._steps} steps")

    def _request(
        self, step: LocalStep, settings: Settings, positions: Array, cell: Array
    ) -> Request:
        """Of this rank's atoms, at positions [n_owned, 3] Å. LAMMPS's memory is not kept."""
        owned, units = step.owned, settings.units
        kind = array(step.type, (owned,), np.int32) - 1
        velocities = array(step.v, (owned, 3), np.float64) * units.velocity
        moment = Moment(
            stream=self.stream,
            step=step.head.timestep,
            kind=Kind(step.head.kind),
            timestep=step.head.dt * units.time,
            velocities=velocities,
            masses=None if settings.masses is None else settings.masses[kind],
            ids=ids_of(step)[:owned],
        )
        system = System(positions, settings.numbers[kind], cell, periodic(step))
        return Request(self, system, settings.keep_net_force, moment=moment)

    def _divide(
        self, step: LocalStep, settings: Settings, points: Array, cell: Array, skin: float
    ) -> None:
        n = step.all
        with one_for_all(self._model.ranks):
            if not np.isfinite(points).all():
                raise StructureError(NOT_FINITE)
        ids = ids_of(step)
        numbers = settings.numbers[array(step.type, (n,), np.int32) - 1]
        rank, row = array(step.owner, (n, 2), np.float64).astype(np.int64).T
        frame = Frame.of(System(points, numbers, cell, periodic(step)))
        shift = shifts(points, rank, row, frame)
        around = Surroundings(step.owned, points, numbers, ids, rank, row, shift)
        reach = self._model.network.card.cutoff + skin + SLACK
        self._model.divide(around, reach, isolated=not periodic(step).any())


def ids_of(step: LocalStep) -> NDArray[np.int64]:
    """[n_all]"""
    dtype = np.int64 if step.id_bytes == 8 else np.int32
    return array(step.id, (step.all,), dtype).astype(np.int64)


def periodic(step: LocalStep) -> NDArray[np.bool_]:
    """[3]"""
    return np.array([bool(step.head.periodic >> k & 1) for k in range(3)])


def array(address: int | None, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """What lies there, without a copy; a rank without atoms may have no array."""
    if not address or 0 in shape:
        return np.empty(shape, dtype)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((c_char * size).from_address(address), dtype).reshape(shape)


def shifts(
    points: Array, rank: NDArray[np.int64], row: NDArray[np.int64], frame: Frame
) -> NDArray[np.int64]:
    """The lattice shifts [n_points, 3] of images from the first of each atom."""
    key = rank * (int(row.max(initial=0)) + 1) + row
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    found = np.rint((points - points[first][which]) @ frame.inverse).astype(np.int64)
    found[:, ~frame.periodic] = 0
    return found
