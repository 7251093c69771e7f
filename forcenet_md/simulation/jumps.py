"""Whether forces jump where a neighbour comes or goes: at the cutoff, and by a neighbour cap.

An atom is moved along the line to a neighbour until their distance passes the cutoff, and, where a
model sees the k nearest alone, until the first that it does not see is as near as the last that it
does. The forces are compared across a step of 1e-4 Å there, and across the steps before and after:
what the middle step has beyond the mean of those is the jump. Each passing of a jump d moves the
energy of a trajectory by about d times the amplitude of the motion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from pydantic import BaseModel

from forcenet_md.graph.neighbours import build_edges
from forcenet_md.simulation.probed import Array, Asker, Stopped, Structure, moved

STEP = 1e-4  # Å
WINDOW = 0.5  # Å, that an atom is moved at most
PER_FRAME = 12  # places of each kind in a frame
TOLD = 0.01  # of the change of a smooth step: less is its curvature

Reach = tuple[float, int | None]  # cutoff in Å, neighbour cap


class Jumps(BaseModel):
    """largest: of the jump in the force on any atom, eV/Å; where: of it, in words
    change: by which forces change anyway across such a step, the largest there, eV/Å
    n_places: looked at
    """

    largest: float
    change: float
    where: str
    n_places: int

    @property
    def seen(self) -> bool:
        return self.largest > TOLD * self.change


@dataclass(frozen=True, slots=True)
class Place:
    """atom: that is moved; along: [3] unit vector; by: Å along it to where a neighbour is lost"""

    what: str
    atom: int
    along: Array
    by: float


def find_jumps(asker: Asker, structures: Sequence[Structure], reaches: Sequence[Reach]) -> Jumps:
    """The largest over all structures; 0 places where no pair is near enough to one.

    reaches: of the model, or of each member of a committee. Raises EvaluationError; stopped, it
    ends with what it has.
    """
    found = Jumps(largest=0.0, change=0.0, where="", n_places=0)
    for structure, place in places(structures, reaches):
        try:
            jump, change = look(asker, structure, place)
        except Stopped:
            break
        found.n_places += 1
        if jump >= found.largest:
            found.largest, found.change = jump, change
            found.where = f"{place.what} ({structure.name})"
    return found


def look(asker: Asker, structure: Structure, place: Place) -> tuple[float, float]:
    """The jump at a place, and the change of a smooth step there; eV/Å, of the worst atom."""
    x = structure.system.positions
    ways = [
        moved(x, place.atom, (place.by + offset * STEP) * place.along)
        for offset in (-1.5, -0.5, 0.5, 1.5)
    ]
    before, across, after = np.diff(asker.forces(structure, ways), axis=0)
    smooth = 0.5 * (before + after)
    return _largest(across - smooth), _largest(smooth)


def places(
    structures: Sequence[Structure], reaches: Sequence[Reach]
) -> Iterator[tuple[Structure, Place]]:
    """Where neighbours are lost: at each cutoff, and by each cap."""
    for structure in structures:
        for cutoff, cap in dict.fromkeys(reaches):
            if cutoff > 0.0:  # else it is unknown
                yield from ((structure, place) for place in at_cutoff(structure, cutoff))
            if cap is not None:
                yield from ((structure, place) for place in at_cap(structure, cutoff, cap))


def at_cutoff(structure: Structure, cutoff: float) -> list[Place]:
    """Of every pair of elements the pair of atoms that is nearest to the cutoff, a free one of
    them to be moved."""
    edges = build_edges(structure.system, cutoff + WINDOW)
    numbers = structure.system.numbers
    distance = np.linalg.norm(edges.vector, axis=1)
    usable = structure.free[edges.source] & (edges.source != edges.target)
    usable &= np.abs(distance - cutoff) < WINDOW
    order = np.flatnonzero(usable)
    order = order[np.argsort(np.abs(distance[order] - cutoff), kind="stable")]
    chosen: dict[tuple[int, ...], Place] = {}
    for e in order.tolist():
        source, target = int(edges.source[e]), int(edges.target[e])
        pair = tuple(sorted((int(numbers[source]), int(numbers[target]))))
        if pair in chosen:
            continue
        symbols = "–".join(chemical_symbols[z] for z in pair)
        along = edges.vector[e] / distance[e]
        chosen[pair] = Place(f"{symbols} at {cutoff:g} Å", source, along, cutoff - distance[e])
        if len(chosen) == PER_FRAME:
            break
    return list(chosen.values())


def at_cap(structure: Structure, cutoff: float, cap: int) -> list[Place]:
    """Where a target's first neighbour beyond the cap is nearest to the last within."""
    edges = build_edges(structure.system, cutoff)
    distance = np.linalg.norm(edges.vector, axis=1)
    counts = np.bincount(edges.target, minlength=structure.system.n_atoms)
    first = np.cumsum(counts) - counts
    found: list[Place] = []
    for target in np.flatnonzero(counts > cap).tolist():
        own = first[target] + np.arange(counts[target])
        own = own[np.argsort(distance[own], kind="stable")]
        last, beyond = own[cap - 1], own[cap]
        source = int(edges.source[beyond])
        if source in (edges.source[last], target) or not structure.free[source]:
            continue
        symbol = chemical_symbols[structure.system.numbers[target]]
        along = edges.vector[beyond] / distance[beyond]
        by = float(distance[last] - distance[beyond])
        found.append(Place(f"among the {cap} nearest of {symbol}", source, along, by))
    return sorted(found, key=lambda place: -place.by)[:PER_FRAME]


def _largest(forces: Array) -> float:
    return float(np.linalg.norm(forces, axis=1).max())
