"""The lithium thiophosphate model that ships with the package does what its card says."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from forcenet_md import ForceNetCalculator
from forcenet_md.artifact.export import read_card
from forcenet_md.data.frames import forces_of, read_frames
from forcenet_md.data.visiting import Visit, follow
from forcenet_md.inference.load import model_path

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "03-lips"
# 128 atoms at 400, 600 and 900 K, ends of fresh paths of the model, with CHGNet's forces.
CHECK = Path(__file__).parent / "data" / "shipped" / "lips.extxyz"


def test_its_card_is_complete_and_its_file_small() -> None:
    path = Path(model_path("lips"))
    card = read_card(path)
    assert path.stat().st_size < 5_000_000
    assert card.elements == ["Li", "P", "S"]
    assert card.pair_floor
    assert card.test_errors["relative"] <= 0.085
    assert len(card.test_errors["by_temperature"]) == 5
    assert card.test_errors["path"]["ratio"] <= 1.3
    assert card.test_errors["path"]["path_ps"] >= 100
    assert "chgnet" in card.training_data.description
    assert "no DFT calculation" in card.notes
    assert "Not for" in card.notes


def test_its_forces_on_frames_of_its_own_paths() -> None:
    """Not trained on; the teacher's forces."""
    differences, sizes = [], []
    for atoms in read_frames(CHECK):
        truth = forces_of(atoms)
        atoms.calc = ForceNetCalculator("lips")
        differences.append(np.abs(atoms.get_forces() - truth).mean())
        sizes.append(np.abs(truth).mean())
    assert np.sum(differences) / np.sum(sizes) < 0.11


@pytest.fixture
def visiting(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's script visit.py."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    found = importlib.import_module("visit")
    monkeypatch.delitem(sys.modules, "visit")  # too common a name to stay there
    return found


def test_a_tetrahedron_that_is_broken_is_counted(visiting: ModuleType) -> None:
    for atoms in read_frames(CHECK):
        assert visiting.not_in_tetrahedra(atoms) == 0
        distances = atoms.get_all_distances(mic=True)
        first = np.flatnonzero(atoms.symbols == "P")[0]
        near = [k for k in np.flatnonzero(atoms.symbols == "S") if distances[first, k] < 2.6]
        assert len(near) == 4
        del atoms[near[0]]
        assert visiting.not_in_tetrahedra(atoms) == 1


@pytest.mark.slow
def test_its_tetrahedra_hold_in_dynamics(visiting: ModuleType) -> None:
    """Each P keeps four S within 2.6 Å for 2 ps at 600 K."""
    start = read_frames(CHECK)[1]
    plan = Visit(600.0, time_ps=2.0, spacing_ps=0.1, timestep_fs=2.0)
    path = list(follow(start, ForceNetCalculator("lips"), plan, seed=5))
    assert len(path) == 20
    assert [visiting.not_in_tetrahedra(atoms) for atoms in path] == [0] * 20
