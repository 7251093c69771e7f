"""What is known of how near two elements come: what training saw, where it saw them touch."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from models import write_model

from forcenet_md.artifact.archive import read, write
from forcenet_md.artifact.card import TrainingRange
from forcenet_md.errors import EvaluationError
from forcenet_md.inference.contacts import OF_RADII, Contacts
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.inference.watched import WatchedEvaluator
from forcenet_md.system import Forces, System
from forcenet_md.watching.guard_limits import Limits
from forcenet_md.watching.guards import Guards


def contacts(path: Path, **shortest: float) -> Contacts:
    card = write_model(path, numbers=(1, 6, 8, 29))
    told = TrainingRange(shortest=shortest, largest_force=4.0)
    return Contacts(card.model_copy(update={"training_range": told}))


def test_a_pair_that_never_touched_in_training_counts_as_unseen(tmp_path: Path) -> None:
    """Two hydrogen atoms of the water molecules of a DFT run are 1.34 Å apart, not bonded, and the
    guard is wanted there; of two adsorbates that stayed apart nothing is known."""
    of_water = {"H-H": 1.34, "H-O": 0.89, "O-O": 2.35}
    found = contacts(tmp_path / "m.pt", **of_water, **{"C-O": 3.9, "Cu-H": 3.4, "C-Cu": 3.6})
    for pair, known in (("HH", 1.34), ("HO", 0.89), ("OO", 2.35)):
        a, b = Atoms(pair).numbers
        assert (found.table[a, b], found.trained[a, b]) == (known, True)
        assert (found.table[b, a], found.trained[b, a]) == (known, True)
    for pair in ("CO", "CuH"):
        a, b = Atoms(pair).numbers
        assert found.table[a, b] == OF_RADII * (covalent_radii[a] + covalent_radii[b])
        assert found.table[b, a] == found.table[a, b]
        assert not found.trained[a, b]
    assert found.table[6, 29] == 3.6  # van der Waals radii of carbon and copper: 3.1 to 4.2 Å
    assert found.longest == 3.6


@pytest.mark.parametrize(("shortest", "stopped"), [(4.3, True), (4.4, False)])
def test_a_run_that_brings_such_a_pair_together_is_not_stopped(
    shortest: float, stopped: bool, tmp_path: Path
) -> None:
    """Silver that comes to 2.76 Å from copper, whose covalent radii and 1.6 Å make 4.37."""
    path = tmp_path / "m.pt"
    write_model(path, net_force_removed=True)  # else the guard `net` warns of random forces
    model = read(path)
    told = {"Ag-Cu": shortest, "Cu-Cu": 2.6}
    range_ = TrainingRange(shortest=told, largest_force=1e6)
    write(path, model.members, model.card.model_copy(update={"training_range": range_}))
    evaluator, said = ModelEvaluator(path), list[str]()
    guards = Guards(Limits.of_model(evaluator.capabilities), None, said.append)
    watched = WatchedEvaluator(evaluator, [guards])
    atoms = bulk("Cu", a=3.9, cubic=True) * 2
    atoms.numbers[0] = 47
    (answer,) = watched.evaluate([Request(watched.new_session(), System.from_ase(atoms))])
    assert isinstance(answer, EvaluationError if stopped else Forces)
    if stopped:
        assert "are 2.76 Å apart, 0.64 of the shortest of training" in str(answer)
    assert said == []
