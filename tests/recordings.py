"""Answers to record, and what a recording says of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from ase import Atoms
from ase.build import bulk
from numpy.typing import NDArray

from forcenet_md.inference.interface import Kind, Moment, Request
from forcenet_md.recording.frame import FORCE_UNIT
from forcenet_md.recording.recorder import Recorder
from forcenet_md.system import Forces, System

if TYPE_CHECKING:
    import MDAnalysis

PATIENCE = 30.0  # s; nothing is measured with it
TIMESTEP = 0.002  # ps


@dataclass
class Contents:
    """A recording as h5py reads it: [n_frames], [n_frames, n_atoms, 3]; forces in eV/Å."""

    step: NDArray[Any]
    time: NDArray[Any]
    cell: NDArray[Any]
    position: NDArray[Any]
    force: NDArray[Any]
    velocity: NDArray[Any] | None
    observables: dict[str, NDArray[Any]]

    @property
    def run(self) -> list[int]:
        return self.observables["run"].astype(int).tolist()


def contents(path: Path) -> Contents:
    with h5py.File(path, "r") as file:
        all_ = file["particles/all"]
        return Contents(
            all_["position/step"][()],
            all_["position/time"][()],
            all_["box/edges/value"][()],
            all_["position/value"][()],
            all_["force/value"][()] * FORCE_UNIT,
            all_["velocity/value"][()] if "velocity" in all_ else None,
            {name: group["value"][()] for name, group in file["observables"].items()},
        )


def universe(path: Path) -> MDAnalysis.Universe:
    import MDAnalysis

    with h5py.File(path, "r") as file:
        n_atoms = len(file["particles/all/species"])
    found = MDAnalysis.Universe.empty(n_atoms, trajectory=True, velocities=True, forces=True)
    found.load_new(str(path), format="H5MD")
    return found


def triclinic(repeat: int = 2) -> Atoms:
    """8 repeat³ … atoms of Cu and Au in a skewed cell."""
    atoms = bulk("Cu", cubic=True) * (repeat, repeat, repeat)
    atoms.numbers[::3] = 79
    atoms.set_cell(atoms.cell.array @ [[1, 0, 0], [0.2, 1, 0], [-0.1, 0.3, 1]], scale_atoms=True)
    return atoms


class Simulation:
    """Random answers for some atoms, and all that were given; they say where and when they are."""

    def __init__(self, atoms: Atoms, stream: int = 0, seed: int = 0) -> None:
        self.atoms = atoms
        self.stream = stream
        self.client = 0
        self.rng = np.random.default_rng(seed)
        self.session: object = object()
        self.asked: list[tuple[Request, Forces]] = []

    def answer(
        self,
        step: int | None,
        kind: Kind = Kind.RUN,
        positions: NDArray[np.float64] | None = None,
        atoms: Atoms | None = None,
        velocities: bool = True,
        **seen: Any,
    ) -> tuple[Request, Forces]:
        atoms = atoms or self.atoms
        shape = (len(atoms), 3)
        if positions is None:
            positions = atoms.positions + self.rng.normal(0, 0.02, shape)  # as in a step or two
        moment = Moment(
            stream=self.stream,
            client=self.client,
            step=step,
            kind=kind,
            timestep=0.0 if step is None else TIMESTEP,
            velocities=self.rng.normal(0, 4.0, shape) if velocities else None,
            masses=atoms.get_masses(),
            ids=np.arange(1, len(atoms) + 1),
        )
        system = System.make(positions, atoms.numbers, atoms.cell.array, atoms.pbc)
        forces = Forces(self.rng.normal(0, 1.0, shape), net_force=np.ones(3), **seen)
        self.asked.append((Request(self.session, system, moment=moment), forces))
        return self.asked[-1]

    def run(self, recorder: Recorder, first: int, last: int) -> None:
        """Steps first to last, the first as set-up: where it was at that step, if it was there."""
        at_step = {request.moment.step: request.system.positions for request, _ in self.asked}
        recorder.see(*self.answer(first, Kind.SETUP, at_step.get(first)))
        for step in range(first + 1, last + 1):
            recorder.see(*self.answer(step))

    def positions(self) -> list[NDArray[np.float64]]:
        return [request.system.positions for request, _ in self.asked]


def until(condition: Any) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < PATIENCE
        time.sleep(0.01)
