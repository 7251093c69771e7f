"""The search: all pairs within a radius, packed and in the order of Edges. vesin does the work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forcenet_md.graph.frame import Array, Frame, Placement


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs within cutoff and skin, in the order of Edges, 8 bytes each and 28 per image.

    An image is one atom seen through one lattice shift.

    image, target: [n_pairs] int32, rows of the images and of the atoms
    atom: [n_images] int32; shift: [n_images, 3] float64, Å, S·cell
    """

    image: NDArray[np.int32]
    target: NDArray[np.int32]
    atom: NDArray[np.int32]
    shift: Array


def search(placement: Placement, frame: Frame, reach: float) -> Candidates:
    """All pairs within reach Å. About 40 bytes for each while it runs, 8 afterwards."""
    import vesin  # imports torch, which takes seconds: not before there is something to search

    n = len(placement.tight)
    # Open directions end in a gap, so vesin may take every direction as periodic; where it is
    # told that one is not, it tries all cells along it (minutes for a long chain in a thin cell).
    searcher = vesin.NeighborList(cutoff=reach, full_list=False, sorted=False, n_threads=1)
    pairs, shifts = searcher.compute(
        placement.tight, placement.box, np.ones(3, dtype=bool), "PS", copy=False
    )
    if len(pairs) == 0:
        none = np.empty(0, dtype=np.int32)
        return Candidates(none, none, none, np.empty((0, 3)))
    most = [max(int(shifts[:, k].max()), -int(shifts[:, k].min())) for k in range(3)]
    span = [2 * m + 1 for m in most]
    n_codes = n * span[0] * span[1] * span[2]
    # One number orders a pair by target, source, shift; sorting numbers is the fastest sort.
    key = np.empty((2, len(pairs)), dtype=np.int32 if n * n_codes < 2**31 else np.int64)
    for row, (target, source, sign) in zip(key, ((0, 1, 1), (1, 0, -1)), strict=True):
        row[:] = pairs[:, target]
        row *= n
        row += pairs[:, source].astype(row.dtype)
        for k in range(3):
            row *= span[k]
            row += sign * shifts[:, k] + most[k]
    del pairs, shifts, searcher  # views of vesin's memory, and the memory
    keys = key.reshape(-1)
    keys.sort()
    targets = (keys // n_codes).astype(np.int32)
    keys %= n_codes
    return _packed(keys, targets, np.array(span), frame, n_codes)


def _packed(
    code: NDArray[np.integer],
    target: NDArray[np.int32],
    span: NDArray[np.int64],
    frame: Frame,
    n_codes: int,
) -> Candidates:
    """Images numbered in the order of their codes (source, shift)."""
    seen = np.zeros(n_codes, dtype=bool)
    seen[code] = True
    codes = np.flatnonzero(seen)
    row = np.zeros(n_codes, dtype=np.int32)
    row[codes] = np.arange(len(codes), dtype=np.int32)
    atom, shift = np.divmod(codes, span.prod())
    shifts = np.stack(np.unravel_index(shift, span), axis=1) - span // 2
    return Candidates(row.take(code), target, atom.astype(np.int32), shifts @ frame.rows)
