"""The learning rate as a function of the share of the budget that is used."""

from __future__ import annotations

import math

WARMUP_START = 0.01


def learning_rate(
    kind: str, fraction: float, high: float, low: float = 0.0, warmup: float = 0.0
) -> float:
    """At `fraction` (0…1) of the budget.

    kind: cosine (from high to low, over what follows the warm-up), constant, or paper: constant
        for the first half, then halved at its end and after every further tenth (of 500,000 steps:
        at 250,000, 300,000 … 450,000; Hu et al. 2021)
    warmup: share in which it grows linearly from a hundredth of its value
    """
    if fraction < warmup:
        return high * (WARMUP_START + (1.0 - WARMUP_START) * fraction / warmup)
    if kind == "constant":
        return high
    if kind == "paper":
        halvings = math.floor((fraction - 0.5) * 10.0 + 1e-9) + 1 if fraction >= 0.5 else 0
        return high * 0.5 ** min(halvings, 5)
    x = (fraction - warmup) / (1.0 - warmup)
    return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * x))
