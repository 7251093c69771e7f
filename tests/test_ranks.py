"""Many ranks compute the forces of one: real MPI processes, more of them than cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lammps_runs import BIN

from forcenet_md.graph.domains import bisect, imbalance
from forcenet_md.mpi import LaunchError, launched, place_device

PROGRAM = Path(__file__).with_name("ranks_program.py")
EVERY = {"float64": 1e-10, "float32": 1e-5, "capped": 1e-10, "floor": 1e-10, "deep": 1e-10}
EVERY |= {"pieced": 1e-10, "bfloat16": 1e-2}
FAULTS = ("fault", "coincident", "loading", "sessions")


def mpirun(ranks: int, folder: Path, *cases: str) -> dict[str, dict[str, Any]]:
    command = [str(BIN / "mpirun"), "-n", str(ranks), sys.executable, str(PROGRAM), str(folder)]
    done = subprocess.run(
        [*command, *cases],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["case"]: line for line in lines}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What two ranks found, in one launch: most of its time is their start."""
    return mpirun(2, tmp_path_factory.mktemp("two"), "float64", "float32", "capped", *FAULTS)


def assert_forces_of_one(found: dict[str, dict[str, Any]], cases: Iterable[str]) -> None:
    for case in cases:
        assert found[case]["systems"] == 13
        assert found[case]["worst"] < EVERY[case], case
    assert found["float32"]["worst"] > 1e-10  # else it was not computed so


def test_two_ranks_give_the_forces_of_one(of_two: dict[str, dict[str, Any]]) -> None:
    """Random, tilted, thin and open cells, slabs, droplets with empty ranks, atoms on the cuts."""
    assert_forces_of_one(of_two, ["float64", "float32", "capped"])


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_give_the_forces_of_one(ranks: int, tmp_path: Path) -> None:
    """Of the same systems, in every way there is to compute them."""
    found = mpirun(ranks, tmp_path, *EVERY)
    assert_forces_of_one(found, EVERY)
    assert found["bfloat16"]["worst"] > 1e-6  # else the rows did not travel so


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_thousand_steps_in_which_atoms_wander(ranks: int, tmp_path: Path) -> None:
    found = mpirun(ranks, tmp_path, "dynamics")["dynamics"]
    assert found["worst"] < 1e-10
    assert found["divisions"] > 50


def test_what_goes_wrong_on_one_of_two_ranks_is_known_to_all(
    of_two: dict[str, dict[str, Any]],
) -> None:
    assert_known_to_all(of_two, 2)


@pytest.mark.slow
def test_what_goes_wrong_on_one_of_three_ranks_is_known_to_all(tmp_path: Path) -> None:
    assert_known_to_all(mpirun(3, tmp_path, *FAULTS), 3)


def assert_known_to_all(found: dict[str, dict[str, Any]], ranks: int) -> None:
    *told, not_finite = found["fault"]["told"]
    assert "gives a force that is not finite on atom" in not_finite
    assert told[1::2] == ["Forces"] * 3
    for sentence in told[0::2]:
        assert "not enough memory for" in sentence
        assert f"on rank {ranks - 1}: use fewer atoms" in sentence
    assert "atoms 8 and 60 lie on one point" in found["coincident"]["told"]
    assert found["loading"]["told"] == f"on rank {ranks - 1}: there is no file here."
    assert (found["sessions"]["before"], found["sessions"]["after"]) == (2, 1)


def test_bricks_have_equal_numbers_of_atoms() -> None:
    rng = np.random.default_rng(0)
    slab = rng.random((1001, 3)) * [40.0, 30.0, 6.0]
    for parts in (1, 2, 3, 7, 16):
        counts = np.bincount(bisect(slab, parts), minlength=parts)
        assert counts.sum() == 1001
        assert counts.max() - counts.min() <= 4  # rounded down at each of four cuts
        assert imbalance(counts) < 1.07
    owner = bisect(slab, 16)
    boxes = [np.ptp(slab[owner == k], axis=0) for k in range(16)]
    assert max(box[:2].max() for box in boxes) < 12.0  # bricks, not slices: 40 × 30 / 16 = 75 Å²
    assert np.bincount(bisect(slab[:3], 8), minlength=8).max() == 1
    assert len(bisect(slab[:0], 4)) == 0
    assert imbalance(np.array([3.0, 1.0])) == 1.5


def test_a_gpu_for_each_rank() -> None:
    assert [place_device("cuda", k, 2, 2, False) for k in range(2)] == ["cuda:0", "cuda:1"]
    assert place_device("cuda", 2, 3, 2, True) == "cuda:0"
    assert place_device("cuda:1", 2, 3, 2, True) == "cuda:1"
    with pytest.raises(LaunchError, match=r"3 ranks run on a machine with 2 GPUs.*--share-devices"):
        place_device("cuda", 0, 3, 2, False)
    with pytest.raises(LaunchError, match="2 ranks of a machine would share cuda:0"):
        place_device("cuda:0", 0, 2, 2, False)
    with pytest.raises(LaunchError, match="no GPU that torch can use"):
        place_device("cuda", 0, 2, 0, False)


def test_how_many_ranks_were_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert launched() == 1
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
    assert launched() == 3
