"""Two processes with half of each batch train the network of one with the whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_runs import write_config

from forcenet_md.training.checkpoint import load_checkpoint


def run(folder: Path, frames: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    config = write_config(folder, frames)
    # Fabric starts the other process with the words this one was started with.
    words = [sys.executable, "-m", "forcenet_md", "train", str(config), *overrides]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


TWO = ("training.devices=2", "training.accelerator=cpu")
OPTIONS = {
    # batches of a single frame too, so that one process has none
    "edges": (
        "training.batch_edges=2600", "training.steps=8", "augmentation.noise=0.05",
        "loss.element_weights={Au: 3}", "data.workers=1", "data.validation_fraction=0.3",
    ),
    # Adam takes rounding for a direction, times the rate; a norm of half a batch would be 1e-4 off
    # Muon orthogonalises in bfloat16, where a rounding may be 0.4 % of a step
    "muon": ("training.optimizer=muon", "training.batch=4", "training.steps=8"),
    "norm": (
        "training.learning_rate=2e-4", "training.batch=5", "training.steps=8", "model.norm=batch",
        "model.n_hidden_edge=2",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIONS)
def test_two_processes_are_one(labelled: Path, tmp_path: Path, kind: str) -> None:
    for name, extra in (("one", ()), ("two", TWO)):
        done = run(tmp_path / name, labelled, *OPTIONS[kind], *extra)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("wrote ") == 1
        assert "Warning" not in done.stderr
    one, two = (
        load_checkpoint(tmp_path / name / "run" / "checkpoint.pt") for name in ("one", "two")
    )
    assert one["step"] == two["step"] == 8
    assert one["position"] == two["position"]
    limit = 1e-3 if kind == "muon" else 1e-5
    for part in ("model", "average"):
        for name, value in one[part].items():
            if "running" in name:  # a mean of activations, no weight
                assert torch.allclose(value, two[part][name], rtol=1e-3, atol=1e-3), name
            elif value.is_floating_point() and not value.isnan().any():
                assert (value - two[part][name]).abs().max() < limit, name
    if kind == "edges":
        assert two["best"] == pytest.approx(one["best"], rel=1e-5)
        start = torch.load(tmp_path / "one" / "run" / "best.pt", weights_only=True)
        assert start["step"] > 0


@pytest.mark.slow
def test_ctrl_c_stops_both_processes(labelled: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, labelled, steps=100_000, checkpoint_seconds=0.2)
    words = [sys.executable, "-m", "forcenet_md", "train", str(config), *TWO]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        for _ in range(600):
            if (tmp_path / "run" / "checkpoint.pt").is_file() or process.poll() is not None:
                break
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 130, said
    assert said.count("go on with --resume") == 1
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] > 0


@pytest.mark.slow
def test_missing_frames_end_both_processes(tmp_path: Path) -> None:
    """The error of the first process is that of all: none waits for it."""
    done = run(tmp_path / "x", tmp_path / "none.extxyz", *TWO)
    assert done.returncode == 1
    assert "none.extxyz" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_fault_stops_both_processes(labelled: Path, tmp_path: Path) -> None:
    """A rate that makes the loss infinite: each ends, and the sentence is there."""
    done = run(tmp_path / "x", labelled, *TWO, "training.learning_rate=1e30", "training.steps=50")
    assert done.returncode not in (0, 124)
    assert "the loss is not finite" in done.stderr
    assert "Traceback" not in done.stderr
