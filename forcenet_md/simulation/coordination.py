"""How many neighbours are in the first shell of a g(r)."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from forcenet_md.simulation.statistics import Array

BLUR = 0.05  # Å: g(r) is smoothed so much before its extrema are looked for
PROMINENCE = 0.1  # of a peak, as a part of the largest value
SURE = 4.0  # standard errors of counting, by which a peak is more than noise


def first_minimum(r: Array, g: Array, counts: Array) -> float | None:
    """Å; the lowest point of a smoothed g(r) between its first peak and the next, or the end.

    A peak is a maximum that rises by a tenth of the largest g(r) above what is around it, and by
    more than the noise of its counts. Where g(r) is the same over a stretch, as between the shells
    of a crystal, its middle is taken. None where there is no peak, or g(r) falls to its end.

    r: [n_bins] Å; g: [n_bins]; counts: [n_bins] pairs that were seen, of all frames
    """
    width = BLUR / (r[1] - r[0])
    smooth = gaussian_filter1d(g, width, mode="nearest")
    seen = gaussian_filter1d(counts, width, mode="nearest") * np.sqrt(4.0 * np.pi) * width
    noise = SURE * smooth / np.sqrt(np.maximum(seen, 1e-9))
    largest = float(np.max(smooth - noise))
    if largest <= 0.0:
        return None
    rise = np.maximum(PROMINENCE * largest, noise)
    peaks, _ = find_peaks(smooth, prominence=rise)
    if not len(peaks):
        return None
    between = smooth[peaks[0] : peaks[1] + 1 if len(peaks) > 1 else None]
    lowest = np.flatnonzero(between <= between.min() + 1e-3 * smooth.max())
    if len(peaks) == 1 and between[-1] < between.min() + noise[peaks[0] + lowest[0]]:
        return None
    return float(r[peaks[0] + round(float(lowest.mean()))])


def neighbours_within(limits: Array, counts: Array, radius: float) -> float:
    """The running coordination number at a radius.

    limits: [n_bins + 1] Å; counts: [n_bins] mean neighbours of an atom in each bin; radius: Å
    """
    running = np.append(0.0, np.cumsum(counts))
    return float(np.interp(radius, limits, running))
