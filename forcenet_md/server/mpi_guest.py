"""One LAMMPS on other MPI ranks: the atoms that come to a rank of the server are those it computes,
together with the other ranks."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import ForceNetError, RequestError
from forcenet_md.graph.frame import Array, Frame
from forcenet_md.graph.ghosts import surroundings
from forcenet_md.graph.neighbours import SLACK, Reference
from forcenet_md.inference.interface import Moment, Request
from forcenet_md.inference.local import LocalModel
from forcenet_md.inference.ranks import SKIN
from forcenet_md.mpi import share_fault
from forcenet_md.server.lammps import Settings, check_types, read_hello, welcome
from forcenet_md.server.monitor import Largest, Monitor
from forcenet_md.server.mpi_wire import Gone, Head, Order, Wire
from forcenet_md.server.protocol import encode_error
from forcenet_md.system import System
from forcenet_md.watching.ranks import RanksWatch

STOPPED = "the server was stopped: start it again, and LAMMPS from its last restart file."


class Guest:
    """A LAMMPS, from its coming to its end. All calls are collective."""

    def __init__(
        self,
        model: LocalModel,
        wire: Wire,
        max_atoms: int,
        monitor: Monitor,
        watch: RanksWatch,
        client: int = 0,
    ) -> None:
        """client: see `interface.Moment`"""
        self.steps = 0
        self.largest = Largest()
        self._model = model
        self._ranks = model.ranks
        self._wire = wire
        self._max_atoms = max_atoms
        self._monitor = monitor
        self._watch = watch
        self._client = client
        self._settings: Settings | None = None
        # This rank's atoms in the order of their division, and whence they come in that order.
        self._ids = np.empty(0, np.int64)
        self._types = np.empty(0, np.int64)
        self._arrival = np.empty(0, np.int64)
        self._reference: Reference | None = None  # None: a new division is due

    def serve(self) -> Order:
        """Why it is over: BYE, GONE or STOP."""
        order = Order.HELLO
        while order in (Order.HELLO, Order.STEP):
            head = self._wire.next()
            order = head.order
            if order is Order.HELLO:
                self._hello(self._wire.hello(head.length))
            elif order is Order.STEP and not self._step(head):
                order = Order.GONE
        self._watch.close()
        self._model.close()
        return order

    def _hello(self, payload: bytes) -> None:
        capabilities = self._model.network.capabilities
        before, self._reference = self._settings, None
        try:
            self._settings = read_hello(payload, capabilities, self._max_atoms)
        except ForceNetError as fault:
            self._refuse("LAMMPS", fault)
            return
        self._watch.begin(self._settings.numbers)
        who = self._settings.describe()
        if before is None or who != before.describe():
            ranks = f"LAMMPS's ranks: {self._wire.n_there}, ours: {self._ranks.size}"
            self._monitor.log(f"{who}; {ranks}")
        self._wire.tell(welcome(replace(capabilities, velocities_welcome=True)), refused=False)

    def _step(self, head: Head) -> bool:
        """False where LAMMPS is gone."""
        settings = self._settings
        assert settings is not None
        start = time.perf_counter()
        fault: ForceNetError | None = None
        near: Array | None = None
        gone = False
        try:
            arrived = self._collect(head)
            collected = time.perf_counter()
            request = self._request(head, settings, arrived)
            system = request.system
            if self._reference is not None:
                near = self._reference.near(system)
        except Gone:
            gone = True
        except ForceNetError as error:
            fault = error
        flags = self._ranks.sum(np.array([near is None, fault is not None, gone], np.float64))
        if flags[2]:
            return False
        try:
            if flags[1] and (told := share_fault(self._ranks, fault)) is not None:
                raise told
            if flags[0]:
                near = self._divide(system)
            assert near is not None
            assert self._reference is not None
            middle = time.perf_counter()
            here, lattice = near, self._reference.frame.rows
            forces, seen = self._watch.answer(
                request,
                lambda sums: self._model.forces_of(here, lattice, request.keep_net_force, sums),
            )
        except ForceNetError as error:
            self._refuse(f"step {head.step}", error)
            return True
        answered = time.perf_counter()
        back = np.empty_like(forces)
        back[self._arrival] = forces / settings.units.force
        self._wire.answer(back)
        end = time.perf_counter()
        self._monitor.batch(1, seen.n_atoms, middle - collected, answered - middle)
        self._monitor.add("transport", collected - start + end - answered)
        self.largest.taken_out(seen.net_force, seen.torque_force)
        if self.steps == 0:
            self._monitor.log(f"step {head.step}: {self._model.edges()}")
        self.steps += 1
        return True

    def _collect(self, head: Head) -> Array:
        """Positions, and perhaps velocities, [1 or 2, n_owned, 3] in LAMMPS's unit and in the order
        of the division.

        Raises Gone, and RequestError where the server shall end.
        """
        if head.fresh:
            self._place(*self._wire.labels())
        arrived = self._wire.positions(head.velocities)
        if head.refuse:
            raise RequestError(STOPPED)
        return arrived[:, self._arrival]

    def _place(self, ids: NDArray[np.int64], types: NDArray[np.int64]) -> None:
        """The division holds if they are the same atoms, in whatever order they come."""
        before, here = np.argsort(self._ids), np.argsort(ids)
        if self._reference is not None and np.array_equal(self._ids[before], ids[here]):
            self._arrival = np.empty_like(here)
            self._arrival[before] = here
        else:
            self._reference = None
            self._ids = ids.copy()
            self._arrival = np.arange(len(ids))
        self._types = types[self._arrival]

    def _request(self, head: Head, settings: Settings, arrived: Array) -> Request:
        """Of this rank's atoms. Raises StructureError, and RequestError for an unknown type."""
        check_types(self._types, len(settings.numbers))
        kind, units = self._types - 1, settings.units
        system = System.make(
            arrived[0] * units.length,
            settings.numbers[kind],
            head.cell * units.length,
            head.periodic,
        )
        moment = Moment(
            step=head.step,
            kind=head.kind,
            timestep=head.timestep * units.time,
            velocities=arrived[1] * units.velocity if head.velocities else None,
            masses=None if settings.masses is None else settings.masses[kind],
            ids=self._ids,
            client=self._client,
        )
        return Request(self, system, settings.keep_net_force, moment=moment)

    def _divide(self, system: System) -> Array:
        """Of all ranks' atoms, which lie together where LAMMPS has them. Collective."""
        network = self._model.network
        reach = network.card.cutoff + SKIN + SLACK
        shell = self._model.sharing.shell(network, reach)
        frame = Frame.of(system)
        self._reference = None
        self._model.divide(
            surroundings(self._ids, system.numbers, system.positions, frame, shell, self._ranks),
            reach,
            isolated=not system.pbc.any(),
        )
        self._reference = Reference(frame, system.numbers, system.positions, SKIN)
        return system.positions

    def _refuse(self, what: str, fault: ForceNetError) -> None:
        self._reference = None
        self._monitor.log(f"{what} was refused: {fault}")
        self._wire.tell(encode_error(str(fault)), refused=True)
