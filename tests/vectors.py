"""The reference's numbers in tests/data/vectors: inputs, weights and outputs of its ForceNet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from forcenet_md.artifact.opencatalyst import config_from_attributes, load_state
from forcenet_md.models.forcenet import ForceNet
from forcenet_md.system import System

FOLDER = Path(__file__).parent / "data" / "vectors"
STRUCTURES = np.load(FOLDER / "structures.npz")
NAMES = sorted({k.split("/")[0] for k in STRUCTURES.files})


def system(name: str) -> System:
    get = lambda key: STRUCTURES[f"{name}/{key}"]  # noqa: E731
    return System.make(get("positions"), get("numbers"), get("cell"), get("pbc"))


def edges(name: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """source, target, vector of the reference's stored edges."""
    s = system(name)
    source, target = STRUCTURES[f"{name}/edge_index"]
    shift = STRUCTURES[f"{name}/cell_offsets"] @ s.cell
    return source, target, s.positions[source] - s.positions[target] + shift


def model(path: Path) -> ForceNet:
    data = np.load(path)
    net = ForceNet(config_from_attributes(json.loads(str(data["config_json"]))))
    state = {
        k.removeprefix("state/"): torch.from_numpy(data[k])
        for k in data.files
        if k.startswith("state/")
    }
    load_state(net, state)
    return net.eval()
