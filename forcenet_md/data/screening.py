"""Is a teacher smooth enough to be learned? Its forces along short straight lines.

One atom is moved along a line in 61 steps of 0.01 Å. `roughness` is the largest second difference
of its force over the largest first difference: for a function that changes over a length L it is
about 0.01 Å / L, 0.015 to 0.05 for potentials that networks have learned; where the force jumps,
both differences are the jump, and it is 0.4 to 1.

A steep but smooth place (two atoms nearly on one another) comes near 0.1, and a small jump may hide
beside it. So from 0.1 on the place of the largest second difference is looked at again with a tenth
of the step: what is smooth is ten times smoother there, a jump or a kink is not.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcenet_md.data.frames import forces_of
from forcenet_md.data.labelling import label_frames

POINTS = 61
STEP = 0.01  # Å
FINE = 10  # times finer, over two steps
DOUBTFUL = 0.1  # above it the fine step is asked too
ROUGH = 0.2
FLAT = 0.01  # eV/Å²: slopes below it are of an atom that feels nothing
DIRECTION = np.array([0.6, 0.64, 0.48])  # along no axis or mirror plane of a crystal; of length 1


@dataclass
class Line:
    """The path of one atom: `row` of frame `number`, and the forces along it.

    forces: [POINTS, 3] eV/Å of the moved atom, NaN where there is no label
    """

    number: int
    row: int
    element: str
    atoms: Atoms
    forces: NDArray[np.float64] = field(default_factory=lambda: np.full((POINTS, 3), np.nan))
    fine: NDArray[np.float64] = field(default_factory=lambda: np.full((2 * FINE + 1, 3), np.nan))

    def points(self) -> Iterator[Atoms]:
        """Structures along the line, from −0.3 to 0.3 Å."""
        for k in range(POINTS):
            yield self._moved((k - POINTS // 2) * STEP)

    def fine_points(self) -> Iterator[Atoms]:
        """Structures from one step before to one step after the worst place."""
        for k in range(2 * FINE + 1):
            yield self._moved(self.place + (k - FINE) * STEP / FINE)

    def _moved(self, distance: float) -> Atoms:
        moved = self.atoms.copy()
        moved.positions[self.row] += distance * DIRECTION
        return moved

    @property
    def roughness(self) -> float:
        """NaN where the atom feels no force or labels are missing."""
        return roughness(self.forces)

    @property
    def place(self) -> float:
        """Å along the line, of the largest second difference."""
        second = np.abs(np.diff(self.forces, 2, axis=0)).max(axis=1)
        return float((np.nanargmax(second) + 1 - POINTS // 2) * STEP)

    @property
    def change(self) -> float:
        """eV/Å: the largest change of a force component in one step of the finest kind there is."""
        known = self.fine if np.isfinite(self.fine).all() else self.forces
        return float(np.abs(np.diff(known, axis=0)).max())

    @property
    def step(self) -> float:
        """Å: the step of `change`."""
        return STEP / FINE if np.isfinite(self.fine).all() else STEP

    @property
    def doubtful(self) -> bool:
        return self.roughness > DOUBTFUL

    @property
    def rough(self) -> bool:
        """Beyond what smooth potentials have, or with a jump or kink at the doubtful place."""
        return self.roughness > ROUGH or (
            self.doubtful and roughness(self.fine, STEP / FINE) > ROUGH
        )

    @property
    def verdict(self) -> str:
        """smooth, rough, or what kept it from being judged."""
        if not np.isfinite(self.forces).all():
            return "not labelled"
        return "flat" if np.isnan(self.roughness) else "rough" if self.rough else "smooth"


def roughness(forces: NDArray[np.float64], step: float = STEP) -> float:
    """Largest second over largest first difference of forces [n, 3] along a line of steps (Å)."""
    first = np.abs(np.diff(forces, axis=0)).max()
    second = np.abs(np.diff(forces, 2, axis=0)).max()
    return float(second / first) if first > FLAT * step else float("nan")


def choose_lines(frames: Sequence[Atoms], per_element: int = 2) -> list[Line]:
    """For each element, one atom in each of some frames that have it, spread over the frames."""
    having: dict[str, list[int]] = {}
    for number, atoms in enumerate(frames):
        for element in sorted(set(atoms.get_chemical_symbols())):
            having.setdefault(element, []).append(number)
    lines = []
    for element, numbers in sorted(having.items()):
        for k in sorted({round(x) for x in np.linspace(0, len(numbers) - 1, per_element)}):
            atoms = frames[numbers[k]]
            row = atoms.get_chemical_symbols().index(element)
            lines.append(Line(numbers[k], row, element, atoms))
    return lines


def screen(
    lines: Sequence[Line],
    spec: str | Path,
    elements: Sequence[str] = (),
    workers: int = 1,
    timeout: float | None = None,
) -> Generator[None, None, None]:
    """Fill in the forces of lines; yields after each label, POINTS of them for each line first.

    Raises DataError as `label_frames`; a point that fails stays NaN.
    """
    for fine in (False, True):
        chosen = [line for line in lines if not fine or line.doubtful]
        tasks = (
            (k * POINTS + j, atoms)
            for k, line in enumerate(chosen)
            for j, atoms in enumerate(line.fine_points() if fine else line.points())
        )
        for outcome in label_frames(tasks, spec, elements, workers, timeout):
            k, j = divmod(outcome.number, POINTS)
            if outcome.atoms is not None:
                along = chosen[k].fine if fine else chosen[k].forces
                along[j] = forces_of(outcome.atoms)[chosen[k].row]
            yield
