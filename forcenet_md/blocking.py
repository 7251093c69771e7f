"""The standard error of a correlated series' mean, from the means of blocks of it: one criterion
for what a log tells during a run and what an analysis tells after it. And how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np
from numpy.typing import NDArray

FEWEST = 5  # blocks, of which an error can be told
ENOUGH = 32  # blocks, of which it is known to an eighth


def error_of_mean(errors: NDArray[np.float64], counts: Sequence[int]) -> NDArray[np.float64]:
    """Standard errors [n_values]; NaN where the series is too short to tell.

    errors: [n_levels, n_values], as if blocks of 1, 2, 4, … samples were independent; counts:
    [n_levels] of blocks. The error is that of the longest blocks of which there are ENOUGH, so
    that it falls as it should where samples take back what those before them did; longer blocks,
    up to FEWEST, are taken until their length B has B³ > 2 n (s_B / s_1)⁴. Flyvbjerg and Petersen,
    J. Chem. Phys. 91, 461 (1989); Lee et al., Phys. Rev. E 83, 066706 (2011).
    """
    found = np.full(errors.shape[1], np.nan)
    shortest = max((k for k, count in enumerate(counts) if count >= ENOUGH), default=0)
    for k in range(shortest, len(counts)):
        if counts[k] < FEWEST:
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = 2.0 * counts[0] * (errors[k] / errors[0]) ** 4
        told = np.isnan(found) & ((errors[k] == 0.0) | (8.0**k > needed))
        found[told] = errors[k][told]
    return found


def with_error(value: float, error: float) -> str:
    """As '301 ± 2', '301.2 ± ?' where the error is not known, and the value alone where there is
    none."""
    if not isfinite(error):
        return f"{value + 0.0:.4g} ± ?"  # no −0
    if error <= 0.0:
        return f"{value + 0.0:.4g}"
    digits = max(0, -int(np.floor(np.log10(error))))
    return f"{round(value, digits) + 0.0:.{digits}f} ± {error:.{digits}f}"  # no −0
