"""What is wrong with a relaxation that will not end: it runs away, or goes round in a cycle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# No relaxation of a structure that means something does this:
FAR = 20.0  # Å from where an atom began
HUGE = 1000.0  # eV/Å, unless the structure began with a tenth of that force: atoms may overlap

# A cycle: so many steps without a lower largest force, on a path so many times as long as the
# farthest it has led away from where that force was.
PATIENCE = 60
ROUNDS = 6.0  # two turns on a circle


class Judge:
    """Watches one relaxation.

    Forces that are not a gradient can do work on the way round a closed path, so that an optimiser
    goes round for ever. On the way to a minimum the path leads away, or the force sinks: with
    potentials, also badly conditioned ones, it is no cycle, however slow.

    start: [n_atoms, 3] Å
    """

    def __init__(self, start: NDArray[np.float64]) -> None:
        self._start = start.copy()
        self._first = np.inf
        self._lowest = np.inf
        self._there = self._last = self._start  # where the force was lowest; the last positions
        self._since = 0
        self._path = self._farthest = 0.0

    def verdict(self, positions: NDArray[np.float64], lengths: NDArray[np.float64]) -> str:
        """'cycle', 'runaway: …', or '' of a relaxation that may go on.

        positions: [n_atoms, 3] Å, unwrapped; lengths: [n_atoms] of the forces there, eV/Å
        """
        fmax = float(lengths.max())
        if self._first == np.inf:
            self._first = fmax
        if fmax > max(HUGE, 10.0 * self._first):
            return f"runaway: the force on atom {lengths.argmax() + 1} is {fmax:.3g} eV/Å"
        moved = np.linalg.norm(positions - self._start, axis=1)
        if moved.max() > FAR:
            return f"runaway: atom {moved.argmax() + 1} is {moved.max():.3g} Å from where it began"
        return "cycle" if self._goes_round(positions, fmax) else ""

    def _goes_round(self, positions: NDArray[np.float64], fmax: float) -> bool:
        if fmax < self._lowest:
            self._lowest, self._there = fmax, positions.copy()
            self._since, self._path, self._farthest = 0, 0.0, 0.0
        else:
            self._since += 1
            self._path += float(np.linalg.norm(positions - self._last))
            away = float(np.linalg.norm(positions - self._there))
            self._farthest = max(self._farthest, away)
        self._last = positions.copy()
        return self._since >= PATIENCE and self._path >= ROUNDS * self._farthest

    def state(self) -> dict[str, NDArray[np.float64]]:
        """What `restore` takes; the start is not in it.

        judged: [5], the first and the lowest of the largest forces, eV/Å, the rounds since the
        lowest, the path and the farthest since then, Å; there, last: [n_atoms, 3] Å
        """
        numbers = (self._first, self._lowest, self._since, self._path, self._farthest)
        return {"judged": np.array(numbers), "there": self._there, "last": self._last}

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        """Go on from a `state`. Raises KeyError or ValueError where it is not one."""
        self._first, self._lowest, since, self._path, self._farthest = state["judged"].tolist()
        self._since = int(since)
        self._there, self._last = state["there"], state["last"]
