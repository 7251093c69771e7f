"""Whether a simulation goes on from what a file has, or is another one of the same atoms."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from forcenet_md.graph.frame import Frame
from forcenet_md.inference.interface import Request
from forcenet_md.recording.layout import EDGES
from forcenet_md.system import System

CELL = 0.02  # of its longest vector: so far a barostat moves it from one frame to the next
SAME = 2e-4  # Å: rounded positions of the same place differ by less
PLACE = 0.01  # Å: of the same place that was read from a file of few digits
STRIDE = 0.2  # Å a step, of any atom; minimisers take half of it at most


def moved_since(path: Path, request: Request) -> float | None:
    """How far (Å, root mean square) the atoms of a request, which begins a run, have come since the
    last frame at its step or before; None if the run does not go on from the file.

    It does not where the engine tells no step, for then nobody knows how many lie between; where it
    begins before the file, or anew with the file's first step; in another cell; or where an atom is
    farther away than the steps between can have brought it: at the step of a frame it is at that
    place.
    """
    step, system = request.moment.step, request.system
    if step is None:
        return None
    with h5py.File(path, "r") as file:
        steps = file[f"{EDGES}/step"][()]
        before = np.flatnonzero(steps <= step)
        if not len(before) or step <= steps.min() < steps.max():
            return None
        if not same_cell(system, file[f"{EDGES}/value"][before[-1]]):
            return None
        shift = shifts(system, file["particles/all/position/value"][before[-1]])
        moved = np.linalg.norm(shift, axis=1)
        if moved.max(initial=0.0) > PLACE + STRIDE * (step - steps[before[-1]]):
            return None
        return float(np.sqrt((moved**2).mean()))


def same_cell(system: System, cell: NDArray[np.float64]) -> bool:
    """Whether the cell [3, 3] Å may have become its own in a few steps. LAMMPS shrinks a box to its
    atoms where it is not periodic."""
    return system.has_cell(cell, CELL)


def same_place(system: System, positions: NDArray[np.floating]) -> bool:
    """Whether its atoms are at these positions [n_atoms, 3] Å or images of them: LAMMPS wraps them
    when a run begins."""
    return bool((np.abs(shifts(system, positions)) < SAME).all())


def shifts(system: System, positions: NDArray[np.floating]) -> NDArray[np.float64]:
    """[n_atoms, 3] Å from these positions, or their nearest images, to the system's."""
    before = np.asarray(positions, dtype=np.float64)
    return Frame.of(system).nearest_images(system.positions, before) - before
