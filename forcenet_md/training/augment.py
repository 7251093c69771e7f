"""Random rotations of training graphs: forces turn with the edge vectors."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch_geometric.data import Data


def random_rotation(kind: str, rng: np.random.Generator) -> torch.Tensor:
    """[3, 3] orthogonal matrix: 'so3' uniform, inverted half of the time; 'z' about z; 'none'."""
    if kind == "none":
        return torch.eye(3)
    if kind == "z":
        matrix = Rotation.from_euler("z", rng.uniform(0.0, 2.0 * np.pi)).as_matrix()
    else:
        matrix = Rotation.random(random_state=rng).as_matrix() * rng.choice([-1.0, 1.0])
    return torch.from_numpy(matrix.astype(np.float32))


def rotate(graph: Data, matrix: torch.Tensor) -> Data:
    """The graph of the structure turned by matrix: x → x·matrixᵀ; the input is unchanged."""
    out = graph.clone("vector", "forces")
    out.vector = graph.vector @ matrix.T
    out.forces = graph.forces @ matrix.T
    return out
