"""Made-up force fields as evaluators, whose answer to every question is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from forcenet_md.errors import ForceNetError
from forcenet_md.inference.interface import Capabilities, Request, Session, Timings
from forcenet_md.system import Forces

Force = Callable[[np.ndarray], np.ndarray]


class Field:
    """force: of positions [n_atoms, 3] Å, eV/Å; energy: of the same, eV, if there is one."""

    def __init__(
        self,
        force: Force,
        energy: Callable[[np.ndarray], float] | None = None,
        cutoff: float = 5.0,
    ) -> None:
        self.force = force
        self.energy = energy
        self.timings = Timings()
        self.capabilities = Capabilities(
            name="made-up",
            numbers=frozenset(range(1, 119)),
            cutoff=cutoff,
            energy=energy is not None,
            stress=False,
            conservative=True,
        )

    def direct(self) -> Field:
        """As if its forces were no gradient."""
        self.capabilities = replace(self.capabilities, conservative=False)
        return self

    def new_session(self) -> Session:
        return object()

    def warm_up(self) -> None: ...

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        return [self._answer(request.system.positions) for request in requests]

    def _answer(self, x: np.ndarray) -> Forces | ForceNetError:
        energy = None if self.energy is None else float(self.energy(x))
        return Forces(self.force(x), energy=energy)
