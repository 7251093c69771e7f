"""Ctrl-C and SIGTERM while a verb loads what it needs end it with a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import write_config

from forcenet_md.cli.label import label
from forcenet_md.cli.train import train

STOPS = pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])


@STOPS
@pytest.mark.parametrize("place", ["reading.find_sources", "label_run.LabelRun.label"])
def test_before_the_first_label(
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    place: str,
    how: type[BaseException],
) -> None:
    def stop(*_: object) -> None:
        raise how

    monkeypatch.setattr(f"forcenet_md.data.{place}", stop)
    with pytest.raises(how):
        label(labelled, "emt", tmp_path / "out.extxyz", screen=False)
    assert capfd.readouterr().err == "stopped before the first label\n"
    assert not list(tmp_path.iterdir())


@STOPS
def test_before_the_first_step(
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    how: type[BaseException],
) -> None:
    def stop(*_: object) -> None:
        raise how

    config = str(write_config(tmp_path, labelled, steps=2))
    with monkeypatch.context() as patch:
        patch.setattr("forcenet_md.training.loop.survey", stop)
        with pytest.raises(how):
            train(config)
    assert capfd.readouterr().err == "stopped before the first step\n"
    train(config)
