"""The fast form of the forward pass: values and gradients of the model, on any settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import crystal, frames_of, write_labelled

from forcenet_md.models.forcenet import ForceNet, ForceNetConfig
from forcenet_md.training import fused, norm
from forcenet_md.training.fused import can_fuse, fused_forces
from forcenet_md.training.graphs import to_graph
from forcenet_md.training.network import Network

PAPER = {"norm": "batch", "envelope": "cosine", "clamp": True, "mean_neighbours": None}


@pytest.mark.parametrize(
    "changes",
    [
        {"n_hidden_edge": 1},
        {"n_hidden_edge": 1, "ablation": "no_self"},
        {"edge_basis": "gaussian"},
        {"n_hidden_edge": 3, "activation": "relu"},
        PAPER,
    ],
)
def test_fused_messages_have_the_values_and_gradients_of_the_model(
    changes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "CHUNK", 300)
    torch.manual_seed(1)
    model = ForceNet(ForceNetConfig(hidden=24, cutoff=5.5, **changes)).double()
    assert can_fuse(model)
    graph = to_graph(
        frames_of(write_labelled(tmp_path / "a.extxyz", [crystal(4)]), tmp_path)[0], 5.5
    )
    inputs = (graph.species, *graph.edge_index, graph.vector.double())
    assert graph.num_edges > 600
    weights = torch.randn(graph.num_nodes, 3, dtype=torch.float64)
    found, gradients = [], []
    for forces in (model(*inputs)["forces"], fused_forces(model, *inputs)):
        model.zero_grad()
        (forces * weights).sum().backward()
        found.append(forces.detach())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert torch.allclose(found[0], found[1], rtol=0.0, atol=1e-12)
    assert len(gradients[0]) == len(gradients[1]) == len(list(model.parameters()))
    for plain, ours in zip(*gradients, strict=True):
        assert torch.allclose(plain, ours, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("settings", [{"n_hidden_edge": 1}, {"ablation": "no_condition"}])
def test_mixed_precision_is_near_the_single_one(settings: Any, tmp_path: Path) -> None:
    """The fused form and, where there is none, autocast; both train all weights."""
    torch.manual_seed(1)
    model = ForceNet(ForceNetConfig(hidden=24, cutoff=5.5, **settings))
    graph = to_graph(
        frames_of(write_labelled(tmp_path / "a.extxyz", [crystal(4)]), tmp_path)[0], 5.5
    )
    structure = torch.zeros(graph.num_nodes, dtype=torch.int64)
    network = Network(model, remove_net_force=False)
    inputs = (graph.species, graph.edge_index, graph.vector, structure, 1)
    exact = network(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(*inputs, torch.bfloat16)
    assert rough.dtype == torch.float32
    assert 0.0 < (exact - rough).abs().max() < 0.03 * exact.abs().max()
    rough.abs().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_joint_batch_norm_of_one_process_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients and running statistics; the sums over processes are left as they are."""
    monkeypatch.setattr(norm.dist, "all_reduce", lambda _tensor: None)
    torch.manual_seed(0)
    theirs, ours = (torch.nn.BatchNorm1d(5).double() for _ in range(2))
    ours.__class__ = norm.JointBatchNorm
    found = []
    for module in (theirs, ours):
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            x = 3.0 + torch.randn(17, 5, dtype=torch.float64, generator=generator)
            y = module(x.requires_grad_())
            y.pow(3).sum().backward()
        found.append([y, x.grad, *[p.grad for p in module.parameters()], *module.buffers()])
        module.eval()
        found[-1].append(module(x))
    for first, second in zip(*found, strict=True):
        assert torch.allclose(first.double(), second.double(), rtol=1e-12, atol=1e-12)
