"""What is trained on and what is held out: by system, or by time along each trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forcenet_md.data.store import Frames, as_words
from forcenet_md.errors import DataError
from forcenet_md.evaluation.cases import evenly

Rows = NDArray[np.int64]
N_BLOCKS = 5  # of a trajectory, where its time is split


@dataclass(frozen=True)
class Fold:
    """train: rows to train on, ascending; test: rows of each held-out system, by its name."""

    train: Rows
    test: dict[str, Rows]


def trajectories(frames: Frames, system: str, time: str) -> dict[str, Rows]:
    """Rows of each system in the order of time. system, time: columns. Raises DataError."""
    names = as_words(frames.column(system))
    moment = frames.column(time)
    if "" in names or moment.dtype.kind not in "fiu":
        raise DataError(
            f"the columns '{system}' and '{time}' must give every frame its system and its time, a"
            " number: name other columns."
        )
    order = np.argsort(moment, kind="stable")
    return {name: order[names[order] == name] for name in sorted(set(names.tolist()))}


def by_system(frames: Frames, systems: dict[str, Rows], fold: int, n_folds: int) -> Fold:
    """Whole systems are held out; every element of theirs is in the training part.

    Systems are dealt in the order of their names, each to the smallest fold that takes none of an
    element's last training systems. One with an element of its own is always trained on.
    Raises DataError where a fold stays empty.
    """
    elements = {s: set(frames[int(rows[0])].numbers.tolist()) for s, rows in systems.items()}
    held: list[list[str]] = [[] for _ in range(n_folds)]
    for name in systems:
        for part in sorted(held, key=len):
            left = [elements[s] for s in systems if s != name and s not in part]
            if set().union(*(elements[s] for s in (name, *part))) <= set().union(*left):
                part.append(name)
                break
    if not all(held):
        raise DataError(
            f"{n_folds} folds cannot be made: too few systems have only elements that others have"
            " too."
        )
    kept = [rows for name, rows in systems.items() if name not in held[fold]]
    return Fold(np.sort(np.concatenate(kept)), {name: systems[name] for name in held[fold]})


def by_time(systems: dict[str, Rows], fold: int) -> Fold:
    """Of the N_BLOCKS stretches of every trajectory an inner one is held out, another for the next
    system and the next fold; the frames next to it are left out of both parts. Trajectories of
    fewer than two frames a stretch are only trained on.

    Raises DataError where all are so short.
    """
    train, test = [], {}
    for k, (name, rows) in enumerate(systems.items()):
        if len(rows) < 2 * N_BLOCKS:
            train.append(rows)
            continue
        edges = np.arange(N_BLOCKS + 1) * len(rows) // N_BLOCKS
        first, last = edges[1 + (k + fold) % (N_BLOCKS - 2) :][:2]
        test[name] = rows[first:last]
        train += [rows[: first - 1], rows[last + 1 :]]
    if not test:
        raise DataError(f"no system has {2 * N_BLOCKS} frames, which a split by time needs.")
    return Fold(np.sort(np.concatenate(train)), test)


def thinned(fold: Fold, systems: dict[str, Rows], n_train: int, n_test: int) -> Fold:
    """At most so many frames of each system in each part, evenly spread over its time."""
    train = [rows[np.isin(rows, fold.train)] for rows in systems.values()]
    test = {name: rows[evenly(len(rows), n_test)] for name, rows in fold.test.items()}
    kept = [rows[evenly(len(rows), n_train)] for rows in train]
    return Fold(np.sort(np.concatenate(kept)), test)
