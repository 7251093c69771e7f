"""ForceNet against the reference implementation's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from vectors import FOLDER, NAMES, edges, model, system

from forcenet_md.models.forcenet import ForceNet, ForceNetConfig


def tensors(name: str, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    source, target, vector = edges(name)
    return (
        torch.from_numpy(system(name).numbers),
        torch.from_numpy(source),
        torch.from_numpy(target),
        torch.from_numpy(vector).to(dtype),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "key", "tolerance"), [(torch.float32, "out", 2e-5), (torch.float64, "out64", 1e-12)]
)
def test_forces_and_auxiliary_head(name, dtype, key, tolerance):
    data = np.load(FOLDER / "sph_swish.npz")
    net = model(FOLDER / "sph_swish.npz").to(dtype)
    with torch.no_grad():
        out = net(*tensors(name, dtype))
        aux = out["auxiliary"].sum() + net.energy_head.bias[0]
    forces = data[f"{key}/{name}/forces"]
    assert np.abs(out["forces"].numpy() - forces).max() <= tolerance * np.abs(forces).max()
    energy = data[f"{key}/{name}/energy"].item()
    assert abs(aux.item() - energy) <= 10 * tolerance * max(1.0, abs(energy))


def test_parameter_counts_of_the_paper():
    count = lambda c: sum(p.numel() for p in ForceNet(c).parameters())  # noqa: E731
    assert count(ForceNetConfig.paper()) == 11_363_624
    assert count(ForceNetConfig.paper(hidden=768, n_layers=7)) == 34_810_408
