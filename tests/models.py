"""Small random models for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from forcenet_md.artifact.card import Card
from forcenet_md.artifact.export import export_model
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig

ALLOY = (29, 46, 47, 78, 79)


def write_model(
    path: Path,
    seed: int = 0,
    net_force_removed: bool = False,
    numbers: Sequence[int] = ALLOY,
    **settings: object,
) -> Card:
    """A small random ForceNet for Cu Pd Ag Pt Au, written to path."""
    torch.manual_seed(seed)
    config = ForceNetConfig(**({"hidden": 16, "n_frequencies": 10} | settings))
    return export_model(
        ForceNet(config).eval(),
        path,
        name=path.stem,
        numbers=numbers,
        augmentation="none",
        training_data={"description": "random", "licence": "none", "citation": "none"},
        test_errors={},
        net_force_removed=net_force_removed,
    )
