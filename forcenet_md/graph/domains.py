"""Which rank owns which atom: recursive bisection, of slabs, voids and droplets too.

Berger and Bokhari, IEEE Trans. Comput. C-36, 570 (1987): the longest side is cut so that both parts
have atoms in proportion to their ranks, and so on. Empty space is nobody's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forcenet_md.graph.frame import Array


def bisect(along: Array, n_parts: int) -> NDArray[np.int32]:
    """The part [n] that each point is in: parts are bricks of equal numbers of points, give or take
    one.

    along: [n, 3] Å, coordinates in three directions, which are those of the cuts
    """
    owner = np.zeros(len(along), dtype=np.int32)
    todo = [(np.arange(len(along)), 0, n_parts)]
    while todo:
        points, first, parts = todo.pop()
        if parts == 1 or len(points) == 0:
            owner[points] = first
            continue
        here = along[points]
        longest = int(np.argmax(np.ptp(here, axis=0)))
        lower = parts // 2
        n_lower = len(points) * lower // parts
        order = np.argpartition(here[:, longest], n_lower)
        todo.append((points[order[:n_lower]], first, lower))
        todo.append((points[order[n_lower:]], first + lower, parts - lower))
    return owner


def imbalance(work: Array) -> float:
    """The most work of a rank over the mean [ranks]; 1 is even."""
    mean = float(np.mean(work))
    return float(np.max(work)) / mean if mean > 0.0 else 1.0
