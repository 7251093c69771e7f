"""Structures and made-up force fields for tests of relaxations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk

from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.inference.interface import Capabilities, Request, Session, Timings
from forcenet_md.system import Forces

Law = Callable[[np.ndarray], np.ndarray]  # positions to forces, [n_atoms, 3]


def crystals(n: int, numbers: Sequence[int] = (29, 47, 79), rattle: float = 0.15) -> list[Atoms]:
    """Rattled crystals of 8 to 16 atoms."""
    rng = np.random.default_rng(1)
    found = []
    for k in range(n):
        atoms = bulk("Cu", a=3.9, cubic=True) * ((2, 1, 1), (3, 1, 1), (2, 2, 1))[k % 3]
        atoms.numbers = rng.choice(numbers, len(atoms))
        atoms.rattle(rattle, rng=rng)
        atoms.info["name"] = f"crystal {k}"
        found.append(atoms)
    return found


class Field:
    """An evaluator of a law without neighbours; its atoms are hydrogen."""

    def __init__(self, law: Law, cutoff: float = 6.0) -> None:
        self.law = law
        self.capabilities = Capabilities("field", frozenset({1}), cutoff, False, False, False)
        self.timings = Timings()

    def new_session(self) -> Session:
        return object()

    def warm_up(self) -> None: ...

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        return [self._answer(request.system.positions) for request in requests]

    def _answer(self, positions: np.ndarray) -> Forces | ForceNetError:
        forces = self.law(positions)
        if np.isfinite(forces).all():
            return Forces(forces)
        return EvaluationError("the field gives a force that is not finite.")


def ring(swirl: float) -> Law:
    """A minimum along the unit circle about z, (r² - 1)²/4 + z²/2, and beside its force one that
    goes round, of which no potential has any."""

    def forces(x: np.ndarray) -> np.ndarray:
        out = (1.0 - np.square(x[:, :2]).sum(axis=1, keepdims=True)) * x
        out[:, 2] = -x[:, 2]
        out[:, 0] -= swirl * x[:, 1]
        out[:, 1] += swirl * x[:, 0]
        return out

    return forces
