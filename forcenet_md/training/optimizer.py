"""The optimiser of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from forcenet_md.training.config import TrainingConfig

SMALLEST = 16  # rows and columns of a matrix that Muon is for


def make_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """Over the parameters that are trained."""
    rate, decay = config.learning_rate, config.weight_decay
    trained = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "adam":
        return torch.optim.Adam(trained, lr=rate)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=rate, weight_decay=decay)
    # The embedding's weight among them: AdamW's steps at this rate are too long for it (at 3e-3 the
    # alloy is learned more slowly, and after some thousand steps the error jumps up).
    linear = (module.weight for module in model.modules() if isinstance(module, nn.Linear))
    matrices = [w for w in linear if w.requires_grad and min(w.shape) >= SMALLEST]
    return MuonAndAdam(matrices, trained, rate, decay)


class MuonAndAdam(Optimizer):
    """Muon for the matrices of Linear layers, AdamW for all other parameters.

    Muon (K. Jordan and others, 2024; J. Liu and others, arXiv 2502.16982) replaces the momentum of
    a matrix by the nearest orthogonal one, so that all its directions learn equally fast; as there,
    updates have the size of Adam's, and one learning rate serves both.

    matrices: [rows, columns] each; trained: all parameters, with the matrices
    """

    def __init__(
        self, matrices: Sequence[Tensor], trained: Sequence[Tensor], rate: float, decay: float
    ) -> None:
        inside = {id(p) for p in matrices}
        others = [p for p in trained if id(p) not in inside]
        self.parts: list[Optimizer] = [torch.optim.AdamW(others, lr=rate, weight_decay=decay)]
        if matrices:  # a network may be too narrow to have any
            muon = torch.optim.Muon(
                matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            )
            self.parts.append(muon)
        super().__init__(trained, {})
        # The groups of the parts, so that a rate that is set here is theirs.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
