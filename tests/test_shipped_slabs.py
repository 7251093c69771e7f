"""The slabs model that ships with the package does what its card says, and says what it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms

from forcenet_md import ForceNetCalculator
from forcenet_md.artifact.export import read_card
from forcenet_md.data.frames import forces_of, read_frames
from forcenet_md.errors import ForceNetError
from forcenet_md.inference.load import model_path

# A slab built by hand, with the forces the shipped file gave when it was made.
CHECK = Path(__file__).parent / "data" / "shipped" / "slabs.extxyz"


def slab(height: float) -> Atoms:
    """Palladium with N2 upright on a hollow, its lower two layers held."""
    atoms = fcc111("Pd", (3, 3, 3), a=3.95, vacuum=9.0, periodic=True)
    add_adsorbate(atoms, Atoms("N2", positions=[[0, 0, 0], [0, 0, 1.12]]), height, "fcc")
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() > 1))
    return atoms


def test_its_card_is_complete_and_its_file_small() -> None:
    path = Path(model_path("slabs"))
    card = read_card(path)
    assert path.stat().st_size < 5_000_000
    assert len(card.elements) == 41
    assert not card.net_force_removed
    assert card.test_errors["held_out"] == "test"
    assert set(card.test_errors["by_part"]) == {"middle", "end"}
    assert "CC BY 4.0" in card.training_data.licence
    assert "median" in card.notes
    assert "in-domain" in card.notes
    assert "Not for" in card.notes


def test_its_forces_on_a_check_structure() -> None:
    atoms = read_frames(CHECK)[0]
    kept = forces_of(atoms)
    built = slab(1.2)
    assert np.allclose(atoms.positions, built.positions, atol=1e-6)
    built.calc = ForceNetCalculator("slabs")
    assert np.abs(built.get_forces(apply_constraint=False) - kept).max() < 1e-3


def test_what_is_pressed_into_the_slab_is_pushed_out() -> None:
    calculator = ForceNetCalculator("slabs")
    pushed = []
    for height in (0.6, 1.6):
        atoms = slab(height)
        atoms.calc = calculator
        pushed.append(atoms.get_forces()[-2:, 2].sum())
    assert pushed[0] > pushed[1]
    assert pushed[0] > 0.5


@pytest.mark.parametrize("symbol", ["Fe", "Mg"])
def test_an_element_of_no_relaxation_is_refused(symbol: str) -> None:
    atoms = slab(1.2)
    atoms.symbols[0] = symbol
    atoms.calc = ForceNetCalculator("slabs")
    with pytest.raises(ForceNetError, match=symbol):
        atoms.get_forces()
