"""The running average of the weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """average ← decay·average + (1 − decay)·model, parameters and buffers.

    step: counts from 0; a short memory at first, so that the average does not carry the start.
    """
    share = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    theirs = [*model.parameters(), *model.buffers()]
    ours = [*average.parameters(), *average.buffers()]
    for mine, new in zip(ours, theirs, strict=True):
        if mine.is_floating_point():
            mine.lerp_(new, share)
        else:
            mine.copy_(new)
