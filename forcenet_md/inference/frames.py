"""Symmetry at inference: forces averaged over frames, and one frame for every route.

ForceNet's forces turn with a structure only as well as they were trained to. Averaged over frames,

    F(x) = 1/N Σ Rᵀ F(R x),

they turn exactly under every R of a group that the frames are all of, and better under the others.
The frames are the rotations of the icosahedron and their inversions, in the order of its subgroups:
1, 2 (inversion), 4 (C2h), 8 (D2h), 24 (Th) and 120 (Ih) frames are groups. Inversion is first, for
it is in every one of them and costs one frame.

An average is as good as its frames; to be aligned costs nothing, and makes forces depend on nothing
but the structure itself: an engine that turns a cell (LAMMPS and i-PI have a along x, b in the xy
plane) gets exactly the turned forces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import ForceNetError, RequestError
from forcenet_md.inference.interface import Evaluator, Request, Session, Timings
from forcenet_md.system import Forces, System

if TYPE_CHECKING:
    from forcenet_md.inference.graph_evaluator import GraphEvaluator

Array = NDArray[np.float64]

MOST_FRAMES = 120


@dataclass(frozen=True, slots=True)
class Symmetry:
    """frames: that forces are averaged over; align: structures are turned to one frame first."""

    frames: int = 1
    align: bool = False

    @property
    def plain(self) -> bool:
        return self.frames == 1 and not self.align

    def __str__(self) -> str:
        """For the log, after the model's name."""
        mean = f", the mean over {self.frames} frames" if self.frames > 1 else ""
        return mean + (", aligned" if self.align else "")

    def applied(self, network: GraphEvaluator) -> Evaluator:
        """A network with these frames, and what is to be asked in its place.

        Raises RequestError for a number of frames that there is none of."""
        network.frames = frames(self.frames)
        return self.aligned(network)

    def aligned(self, evaluator: Evaluator) -> Evaluator:
        return AlignedEvaluator(evaluator) if self.align else evaluator


PLAIN = Symmetry()


@cache
def frames(n: int) -> Array:
    """[n, 3, 3], the identity first: proper rotations, each followed by its inversion.

    Raises RequestError.
    """
    if not 1 <= n <= MOST_FRAMES:
        raise RequestError(f"forces cannot be averaged over {n} frames: give 1 to {MOST_FRAMES}.")
    if n <= 2:  # without scipy, whose import takes longer
        return np.stack([np.eye(3), -np.eye(3)])[:n]
    from scipy.spatial.transform import Rotation

    # scipy has the four of D2 first, then the other eight of T, then the rest of I.
    rotations = Rotation.create_group("I").as_matrix()
    rotations[:4] = rotations[3::-1]  # the identity first, about z next
    rotations[np.abs(rotations) < 1e-15] = 0.0
    return np.stack([rotations, -rotations], axis=1).reshape(-1, 3, 3)[:n]


class AlignedEvaluator:
    """An `Evaluator` (inference/interface.py) that turns structures to one frame, and forces back.

    The frame is that of the periodic lattice vectors, see `canonical`; structures that are periodic
    in fewer than two directions have none and stay as they are.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.capabilities = evaluator.capabilities
        self.timings = Timings()

    def new_session(self) -> Session:
        return self._evaluator.new_session()

    def warm_up(self) -> None:
        self._evaluator.warm_up()

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        """One answer per request, in order; see `inference/interface.py`."""
        turns = [canonical(request.system) for request in requests]
        turned = [
            replace(request, system=_turned(request.system, turn))
            for request, turn in zip(requests, turns, strict=True)
        ]
        answers = self._evaluator.evaluate(turned)
        self.timings = self._evaluator.timings
        return [_back(*pair) for pair in zip(answers, turns, strict=True)]


def canonical(system: System) -> Array:
    """[3, 3], orthogonal: x → x·matrixᵀ turns the structure to where its first periodic lattice
    vector lies along that one's axis, and the next in the plane of both axes.

    With three it is LAMMPS's and i-PI's own form, a = (ax, 0, 0), b = (bx, by, 0),
    c = (cx, cy, cz), with ax, by, cz > 0: a left-handed cell is reflected too, as ASE does to hand
    it to LAMMPS. With two the third axis completes them to a right-handed frame. The identity with
    fewer: their axes would have to come from the atoms, and jump as these move.
    """
    return _canonical(system.cell.tobytes(), system.pbc.tobytes())


@lru_cache(maxsize=64)  # most runs keep their cell
def _canonical(cell: bytes, pbc: bytes) -> Array:
    rows = np.frombuffer(cell).reshape(3, 3)
    along = np.flatnonzero(np.frombuffer(pbc, dtype=np.bool_))
    if len(along) < 2:
        return np.eye(3)
    axes, lower = np.linalg.qr(rows[along].T)  # Gram and Schmidt, from the first on
    axes = axes * np.sign(np.diag(lower))
    matrix = np.zeros((3, 3))
    matrix[along] = axes.T
    if len(along) == 2:
        (missing,) = {0, 1, 2} - set(along.tolist())
        matrix[missing] = np.cross(matrix[missing - 2], matrix[missing - 1])
    return matrix


def _turned(system: System, matrix: Array) -> System:
    return System.make(
        system.positions @ matrix.T, system.numbers, system.cell @ matrix.T, system.pbc
    )


def _back(answer: Forces | ForceNetError, matrix: Array) -> Forces | ForceNetError:
    if isinstance(answer, Forces):
        answer.forces = answer.forces @ matrix
        if answer.stress is not None:
            answer.stress = matrix.T @ answer.stress @ matrix
        if answer.net_force is not None:
            answer.net_force = answer.net_force @ matrix
    return answer
