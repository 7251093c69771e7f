"""What is probed: structures whose atoms are free or held, and an evaluator that is asked much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcenet_md.engines.prepared import check_structure
from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.inference.interface import Capabilities, Evaluator, Request
from forcenet_md.system import System

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Structure:
    """name: for sentences; masses: [n_atoms] amu; free: [n_atoms] bool, that are not held"""

    name: str
    system: System
    masses: Array
    free: NDArray[np.bool_]

    @classmethod
    def of(cls, atoms: Atoms, name: str, capabilities: Capabilities) -> Structure:
        """Raises DataError or UnknownElementError for what the model cannot run."""
        held = check_structure(atoms, capabilities)
        free = np.ones(len(atoms), dtype=bool)
        free[held] = False
        return cls(name, System.from_ase(atoms), atoms.get_masses(), free)

    @property
    def keep_net_force(self) -> bool:
        """As on every route: where atoms are held."""
        return not self.free.all()

    def at(self, positions: Array) -> System:
        """The same atoms elsewhere, [n_atoms, 3] Å. Raises StructureError where not finite."""
        system = self.system
        return System.make(positions, system.numbers, system.cell, system.pbc)


class Stopped(Exception):
    """The user has had enough; what is known is told."""


class Asker:
    """Forces of many structures, in batches, with sessions that keep their neighbour lists.

    stopped: asked before every batch; advance: told how many structures are done
    """

    def __init__(
        self,
        evaluator: Evaluator,
        batch_atoms: int = 1000,
        stopped: Callable[[], bool] = lambda: False,
        advance: Callable[[int], None] = lambda n: None,
    ) -> None:
        self.evaluator = evaluator
        self.stopped = stopped
        self.advance = advance
        self._batch_atoms = batch_atoms
        self._sessions = [evaluator.new_session()]

    def forces(self, structure: Structure, positions: Sequence[Array]) -> Array:
        """[n, n_atoms, 3] eV/Å at each of the positions, [n_atoms, 3] Å.

        Raises EvaluationError where the model has none, and Stopped.
        """
        size = max(1, self._batch_atoms // structure.system.n_atoms)
        while len(self._sessions) < min(size, len(positions)):
            self._sessions.append(self.evaluator.new_session())
        found: list[Array] = []
        for first in range(0, len(positions), size):
            if self.stopped():
                raise Stopped
            batch = [
                Request(session, structure.at(x), structure.keep_net_force, want_stress=False)
                for session, x in zip(self._sessions, positions[first : first + size], strict=False)
            ]
            for answer in self.evaluator.evaluate(batch):
                if isinstance(answer, ForceNetError):
                    raise EvaluationError(f"{structure.name}: {answer}") from None
                found.append(answer.forces)
            self.advance(len(batch))
        return np.stack(found)


def moved(positions: Array, atom: int, by: Array) -> Array:
    """A copy of positions [n_atoms, 3] with one atom moved by [3] Å."""
    copy = positions.copy()
    copy[atom] += by
    return copy
