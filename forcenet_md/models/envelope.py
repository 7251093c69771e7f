"""The factor α(r) that takes a message to zero at the cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ENVELOPES = ("cosine", "smooth_cosine", "polynomial", "switch")


class Envelope(nn.Module):
    """α(r) for distances r [n_edges] in Å.

    cosine: cos(πr/2c), the paper's; its slope at the cutoff is not zero, so forces kink there
    smooth_cosine: ½(1 + cos(πr/c)), slope zero at the cutoff
    polynomial: 1 − 28x⁶ + 48x⁷ − 21x⁸ with x = r/c (Klicpera et al. 2020, p = 6), slope and
        curvature zero at the cutoff
    switch: 1 up to 0.7 c, then ½(1 + cos(π(x − 0.7)/0.3)): smooth as smooth_cosine, and does not
        damp the outer shells
    """

    def __init__(self, kind: str, cutoff: float) -> None:
        super().__init__()
        if kind not in ENVELOPES:
            raise ValueError(f"envelope {kind!r} is unknown: use one of {', '.join(ENVELOPES)}")
        self.kind = kind
        self.cutoff = cutoff

    def forward(self, r: Tensor) -> Tensor:
        x = r / self.cutoff
        if self.kind == "cosine":
            return torch.cos(x * (0.5 * math.pi))
        if self.kind == "smooth_cosine":
            return 0.5 * (1.0 + torch.cos(x * math.pi))
        if self.kind == "switch":
            y = (x - 0.7).clamp(min=0.0) / 0.3
            return 0.5 * (1.0 + torch.cos(y * math.pi))
        x2 = x * x
        x6 = x2 * x2 * x2
        return 1.0 - 28.0 * x6 + 48.0 * x6 * x - 21.0 * x6 * x2
