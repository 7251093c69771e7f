"""Batch norm over the batch of all processes, on any device."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SumOverProcesses(torch.autograd.Function):
    """Σ over processes; each one's gradient reaches all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        out = grads[0].clone()
        dist.all_reduce(out)
        return out


class JointBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d [n, D] whose mean and variance are those of the rows of all processes.

    torch's SyncBatchNorm does this on GPUs alone; without it, one process with a batch and two
    with half of it each would train different networks.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        n = _sum(x.new_full((1,), float(len(x))))
        mean = _sum(x.sum(0)) / n
        centred = x - mean
        variance = _sum(centred.square().sum(0)) / n
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1.0), self.momentum)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


def _sum(x: Tensor) -> Tensor:
    return cast(Tensor, SumOverProcesses.apply(x))


def join_batch_norms(module: nn.Module) -> None:
    """Make every BatchNorm1d a JointBatchNorm, where there are several processes."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    for child in module.modules():
        if type(child) is nn.BatchNorm1d:
            child.__class__ = JointBatchNorm
