"""Means and paired differences over held-out systems and runs, with their standard errors.

A table has a figure for each (system, fold, seed). Systems differ, and so do two trainings that
differ by their seed alone. Both are counted: the variance of the mean is that of systems (each
averaged over its runs, divided by their number) plus that of runs within a fold (divided by their
number). As the first contains a part of the second, errors are rather too large than too small.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, inf, log, nan, sqrt
from statistics import fmean, variance
from typing import Any

from scipy.stats import t as student

Key = tuple[str, int, int]  # system, fold, seed
Table = Mapping[Key, float]
LEVEL = 0.05


@dataclass(frozen=True)
class Mean:
    """error: standard error, infinite where one system tells nothing of it; freedom: degrees of
    freedom (Welch and Satterthwaite)."""

    value: float
    error: float
    freedom: float


@dataclass(frozen=True)
class Change:
    """Of a variant against its reference: the mean of ln(a / b) as a share, and its error.

    limit: as many errors the mean must be away from 0; verdict: lower, higher or not resolved
    """

    value: float
    error: float
    limit: float
    verdict: str


def mean(table: Table) -> Mean:
    """Every system has the same weight. Raises ValueError for an empty table."""
    systems = [fmean(values) for values in _grouped(table, lambda k: k[0]).values()]
    between = variance(systems) / len(systems) if len(systems) > 1 else inf
    runs = {run: fmean(v) for run, v in _grouped(table, lambda k: (k[1], k[2])).items()}
    folds = _grouped(runs, lambda k: k[0]).values()
    spare = len(runs) - len(folds)
    squares = sum((x - fmean(fold)) ** 2 for fold in folds for x in fold)
    within = squares / spare / len(runs) if spare else 0.0
    freedom = inf
    if 0.0 < between + within < inf:
        bound = between**2 / (len(systems) - 1) + (within**2 / spare if spare else 0.0)
        freedom = (between + within) ** 2 / bound
    return Mean(fmean(systems), sqrt(between + within), freedom)


def change(a: Table, b: Table, n_comparisons: int = 1) -> Change:
    """Paired over the keys of both, as ln(a / b): systems with large forces weigh no more than
    others, and the paper's figures compare as shares.

    Resolved if the mean is further from 0 than Student's t allows at LEVEL, two-sided, divided by
    the number of comparisons that are made together (Bonferroni). Where a figure is 0 (a network
    that answers nothing is the same in all frames) there is no share: nothing is resolved.
    """
    keys = a.keys() & b.keys()
    if any(table[key] == 0.0 for key in keys for table in (a, b)):
        return Change(nan, inf, inf, "not resolved")
    found = mean({key: log(a[key] / b[key]) for key in keys})
    limit = float(student.isf(LEVEL / 2.0 / n_comparisons, found.freedom))
    resolved = abs(found.value) > limit * found.error
    verdict = ("lower" if found.value < 0.0 else "higher") if resolved else "not resolved"
    return Change(exp(found.value) - 1.0, exp(found.value) * found.error, limit, verdict)


def _grouped(table: Mapping[Any, float], name: Callable[[Any], Any]) -> dict[Any, list[float]]:
    out: dict[Any, list[float]] = defaultdict(list)
    for key, value in table.items():
        out[name(key)].append(value)
    return out
