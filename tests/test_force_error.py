"""Figures of errors: one definition for training, visits and evaluations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from models import write_model

from forcenet_md import ForceNetCalculator
from forcenet_md.data.frames import read_frames
from forcenet_md.data.store import Frames
from forcenet_md.data.visiting import MODEL_FORCES, path_errors
from forcenet_md.evaluation.cases import open_cases
from forcenet_md.evaluation.result import Model
from forcenet_md.evaluation.run import evaluate
from forcenet_md.evaluation.totals import Settings
from forcenet_md.force_error import force_error, pool, times_worse
from forcenet_md.inference.load import load_evaluator
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig
from forcenet_md.training.graphs import GraphDataset
from forcenet_md.training.metrics import frame_errors
from forcenet_md.training.network import Network
from forcenet_md.training.survey import open_frames


def test_frames_are_pooled_by_their_components() -> None:
    one = force_error(np.array([[1.0, -1.0, 0.0]]), np.array([[1.5, -1.0, 0.5]]))
    two = force_error(np.ones((3, 3)), np.zeros((3, 3)))
    both = pool([one, two])
    assert (one.mae, one.mean_force) == pytest.approx((1 / 3, 2 / 3))
    assert both.as_dict() == pytest.approx(
        {"force_mae": 10 / 12, "mean_abs_force": 11 / 12, "relative": 10 / 11, "n_frames": 2}
    )
    assert math.isnan(pool([]).relative)
    assert pool([]).mae == 0.0


@pytest.mark.parametrize(
    ("off", "size", "times"),
    [(0.3, 2.0, 1.5), (0.3, 4.0, 1.5), (0.3, 1.0, 3.0), (0.1, 0.5, 2.0), (0.1, 2.0, 0.5)],
)
def test_neither_wild_nor_calm_paths_flatter(off: float, size: float, times: float) -> None:
    """The test: 0.2 of 2 eV/Å."""
    test = force_error(np.full((1, 3), 2.0), np.full((1, 3), 2.2))
    path = force_error(np.full((1, 3), size), np.full((1, 3), size + off))
    assert times_worse(path.as_dict(), test.as_dict()) == pytest.approx(times)


def test_training_a_path_and_an_evaluation_give_the_same_figures(
    labelled: Path, tmp_path: Path
) -> None:
    model = tmp_path / "m.pt"
    write_model(model, seed=3, net_force_removed=True)
    calculator = ForceNetCalculator(model, dtype="float64")
    path = read_frames(labelled, labelled=True)
    for atoms in path:
        atoms.arrays[MODEL_FORCES] = calculator.get_forces(atoms)
    visited = path_errors(path)

    torch.manual_seed(3)
    network = Network(ForceNet(ForceNetConfig(hidden=16, n_frequencies=10)), True)
    frames: Frames = open_frames([labelled], tmp_path)
    graphs = GraphDataset(frames, 6.0, None)
    trained = pool(frame_errors(network, graphs, range(len(frames)), torch.device("cpu")))
    assert trained.as_dict() == pytest.approx({k: visited[k] for k in trained.as_dict()}, rel=1e-5)

    named = Model(name="m", spec="m", sha256=None, dtype="float64")
    with open_cases([labelled]) as cases:
        evaluator = load_evaluator(str(model), dtype="float64")
        settings = Settings(remove_net_force=True, rotations=0)
        found = evaluate(evaluator, cases, named, settings).result.all
    evaluated = (found.mae, found.mean_abs_force, found.relative, found.n_frames)
    assert evaluated == pytest.approx(
        [visited[k] for k in ("force_mae", "mean_abs_force", "relative", "n_frames")], rel=1e-10
    )
