"""Dynamics with a model, and what of it the teacher should be asked about.

Two kinds of frames come back. Those at even intervals measure the model where it goes: their error
is the error along the path. Those that a committee doubts most, and those that look strange (a
pair nearer than any in the teacher's dynamics), are where labels help most; they say nothing about
the average, so they are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from forcenet_md.data.visiting import Visit, follow

EVEN, DOUBTFUL, STRANGE = "even", "doubtful", "strange"
EVENLY = 0.6  # of the frames of a path
APART = 5  # intervals between two doubtful or strange frames: neighbours are nearly the same
NEAR = 0.97  # of the nearest pair in the teacher's dynamics: nearer is strange
BROKEN = 0.6  # nearer still: nothing that comes after it means anything


@dataclass(frozen=True)
class Path:
    """frames: in order, with arrays['model_forces'] and info['why']; whole: the model held out;
    spread: how far the committee was apart (eV/Å, of the worst atom) at every interval; near: the
    nearest pair there (see `nearest_pair`)"""

    frames: list[Atoms]
    whole: bool
    spread: list[float]
    near: list[float]


def visit(
    start: Atoms,
    calculator: Calculator,
    doubt: Callable[[Atoms], float],
    dynamics: Visit,
    seed: int,
    nearest: float,
    wanted: int,
) -> Path:
    """One path of the model.

    doubt: the committee's spread on a frame, eV/Å; nearest: the nearest pair of the teacher's
    dynamics; wanted: frames for the teacher, at most
    """
    path: list[Atoms] = []
    near: list[float] = []
    for frame in follow(start, calculator, dynamics, seed):
        path.append(frame)
        near.append(nearest_pair(frame))
        if near[-1] < BROKEN * nearest:
            break
    n_frames = round(dynamics.time_ps / dynamics.spacing_ps)
    whole = len(path) == n_frames and near[-1] >= BROKEN * nearest
    spread = [doubt(frame) for frame in path]
    why = choose(spread, near, nearest, wanted)
    for k, reason in why.items():
        path[k].info["why"] = reason
    return Path([path[k] for k in sorted(why)], whole, spread, near)


def choose(
    spread: Sequence[float], near: Sequence[float], nearest: float, wanted: int
) -> dict[int, str]:
    """Places on a path and why the teacher is asked about them, `wanted` at most.

    Where a pair is too near, then where the committee is far apart; the even ones are what they
    are whatever they look like, so that they make an average.
    """
    even = _evenly(len(spread), max(1, round(EVENLY * wanted)))
    strange = [k for k in _apart(np.argsort(near).tolist(), even) if near[k] < NEAR * nearest]
    strange = strange[: wanted - len(even)]
    doubtful = [k for k in _apart(np.argsort(spread)[::-1].tolist(), strange) if k not in even]
    doubtful = [k for k in doubtful if spread[k] > 0.0][: wanted - len(even) - len(strange)]
    return (
        dict.fromkeys(even, EVEN) | dict.fromkeys(strange, STRANGE)
        | dict.fromkeys(doubtful, DOUBTFUL)
    )  # fmt: skip


def nearest_pair(atoms: Atoms) -> float:
    """The shortest distance over the sum of both covalent radii; infinity where there is none."""
    radii = covalent_radii[atoms.numbers]
    first, second, length = neighbor_list("ijd", atoms, 2.0 * float(radii.max()))
    if not len(length):
        return float("inf")
    return float((length / (radii[first] + radii[second])).min())


def _evenly(n: int, count: int) -> list[int]:
    """Places spread over the path, the last among them: where a model fails is where it ends."""
    return sorted({int(k) for k in np.linspace(0, n, min(n, count) + 1)[1:].round() - 1})


def _apart(order: Sequence[int], taken: Sequence[int]) -> list[int]:
    """Places in this order that are none of the taken and `APART` from one another."""
    kept: list[int] = []
    for k in order:
        if k not in taken and all(abs(k - other) >= APART for other in kept):
            kept.append(k)
    return kept
