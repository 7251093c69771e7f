"""Which parameters Muon takes, and what its step is."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from forcenet_md.models.forcenet import ForceNet, ForceNetConfig
from forcenet_md.training.config import TrainingConfig
from forcenet_md.training.optimizer import SMALLEST, MuonAndAdam, make_optimizer


def muon(model: nn.Module, **settings: float) -> MuonAndAdam:
    config = TrainingConfig(steps=1, batch=1, optimizer="muon", **settings)
    optimizer = make_optimizer(model, config)
    assert isinstance(optimizer, MuonAndAdam)
    return optimizer


def test_every_parameter_has_one_optimiser_and_matrices_have_muon() -> None:
    model = ForceNet(ForceNetConfig(hidden=16, n_layers=2, cutoff=4.0, mean_neighbours=10.0))
    optimizer = muon(model)
    names = {id(p): name for name, p in model.named_parameters()}
    others, matrices = ([names[id(p)] for p in g["params"]] for g in optimizer.param_groups)
    assert sorted([*matrices, *others]) == sorted(names.values())
    assert {"interactions.0.edge_mlp.0.weight", "embedding.1.weight"} < set(matrices)
    assert "decoder.2.weight" in others  # three rows, one for each component of a force
    for name, parameter in model.named_parameters():
        if name in matrices:
            assert min(parameter.shape) >= SMALLEST


def test_a_network_too_narrow_for_muon_is_trained_all_the_same() -> None:
    model = ForceNet(ForceNetConfig(hidden=8, n_layers=1, cutoff=4.0, mean_neighbours=10.0))
    (group,) = muon(model).param_groups
    assert len(group["params"]) == len(list(model.parameters()))


def test_a_step_turns_the_gradient_into_the_nearest_orthogonal_matrix() -> None:
    """Against a singular value decomposition. Newton-Schulz iterations leave singular values
    between 0.7 and 1.2."""
    torch.manual_seed(1)
    layer = nn.Linear(48, 32)
    before = layer.weight.detach().clone()
    optimizer = muon(layer, learning_rate=0.01)
    g = torch.randn(32, 48) @ torch.diag(torch.logspace(0, -1, 48))
    layer.weight.grad, layer.bias.grad = g.clone(), torch.ones(32)
    optimizer.step()
    step = (before - layer.weight.detach()).double().numpy() / (0.01 * 0.2 * np.sqrt(48))
    u, _, v = np.linalg.svd(g.double().numpy(), full_matrices=False)
    inside = u.T @ step @ v.T
    values = np.diag(inside)
    assert ((values > 0.6) & (values < 1.3)).all()
    assert np.abs(inside - np.diag(values)).max() < 0.1


def test_a_rate_that_is_set_reaches_both() -> None:
    layer = nn.Linear(16, 16)
    optimizer = muon(layer, learning_rate=0.5)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in layer.parameters()]
    layer(torch.ones(16)).sum().backward()
    optimizer.step()
    for p, q in zip(layer.parameters(), before, strict=True):
        assert torch.equal(p, q)
