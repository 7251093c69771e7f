"""`mpirun -n R forcenet-md lammps`: the model on every rank, with LAMMPS's own decomposition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from in_process_runs import succeed
from lammps_runs import quick_run
from local_scripts import CASES, frames, making, script
from models import write_model

pytestmark = pytest.mark.usefixtures("plugin")
SLOW = pytest.mark.slow
QUIET = ["-log", "none", "-screen", "none"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.pt"
    write_model(path)
    return path


@pytest.fixture(scope="module")
def one_rank(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data and with the dumps of one rank, whose model is behind a loop."""
    folder = tmp_path_factory.mktemp("one")
    made = quick_run(making(), folder)
    assert made.returncode == 0, made.output
    succeed(script(folder), folder, 1, ["--dtype", "float64", *QUIET], str(model))
    return folder


@pytest.mark.parametrize("ranks", [2, *(pytest.param(n, marks=SLOW) for n in (3, 4))])
def test_forces_are_those_of_one_rank(
    ranks: int, model: Path, one_rank: Path, tmp_path: Path
) -> None:
    """Bulk, thin, tilted, open and empty boxes, balancing, deformation, lost and deleted atoms."""
    succeed(script(one_rank), tmp_path, ranks, ["--dtype", "float64", *QUIET], str(model))
    for name in CASES:
        one, many = frames(one_rank, name), frames(tmp_path, name)
        assert len(one) == len(many) >= 2, name
        for k, (a, b) in enumerate(zip(one, many, strict=True)):
            assert np.array_equal(a[:, 0], b[:, 0]), (name, k)
            largest = np.abs(a[:, 4:]).max()
            # of the same positions to 1e-10; later ones differ by what rounding has become
            worst = 1e-10 if k == 0 else 1e-7
            assert np.abs(a[:, 4:] - b[:, 4:]).max() < worst * largest, (name, k)
        assert np.abs(one[0][:, 4:]).max() > 0.0
