"""The alloy model that ships with the package does what its card says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forcenet_md import ForceNetCalculator
from forcenet_md.artifact.export import read_card
from forcenet_md.data import alloy
from forcenet_md.data.frames import forces_of
from forcenet_md.data.teachers import LammpsTeacher, open_teacher
from forcenet_md.data.visiting import Visit, follow, path_errors
from forcenet_md.inference.load import model_path


def test_its_card_is_complete_and_its_file_small() -> None:
    path = Path(model_path("alloy"))
    card = read_card(path)
    assert path.stat().st_size < 5_000_000
    assert card.elements == ["Cu", "Pd", "Ag", "Pt", "Au"]
    assert card.test_errors["relative"] <= 0.01
    assert set(card.test_errors["by_temperature"]) == {"600", "1200", "2000"}
    assert "interpolation" in card.notes
    range_ = card.training_range
    assert range_ is not None
    assert len(range_.shortest) == 15
    assert 10.0 < range_.largest_force <= 60.0  # `max_force` of the recipe


@pytest.mark.slow
def test_its_forces_on_new_compositions_and_temperatures() -> None:
    """Fresh teacher dynamics, of a seed that made neither the training nor the test structures."""
    calculator = ForceNetCalculator("alloy")
    differences, sizes = [], []
    with open_teacher("zhou2004", alloy.ELEMENTS) as teacher:
        assert isinstance(teacher, LammpsTeacher)
        fresh = list(alloy.held_out_structures(teacher.box, [], seed=77, compositions=2, frames=1))
        for atoms in fresh:
            truth = forces_of(teacher.label(atoms))
            atoms.calc = calculator
            differences.append(np.abs(atoms.get_forces() - truth).mean())
            sizes.append(np.abs(truth).mean())
    assert np.sum(differences) / np.sum(sizes) < 0.012


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [300.0, 1300.0, 2500.0])
def test_its_dynamics_stays_where_it_is_accurate(
    temperature: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Error along 4 ps of its own path at most 1.5 times its test error, as the teacher sees it;
    and guards, which are on, do not warn."""
    with open_teacher("zhou2004", alloy.ELEMENTS) as teacher:
        assert isinstance(teacher, LammpsTeacher)
        (start, *_) = (
            atoms
            for atoms in alloy.held_out_structures(teacher.box, [], 78, compositions=1, frames=1)
            if (atoms.info["temperature"] == 2000.0) == (temperature > alloy.MELT_ABOVE)
        )
        path = list(follow(start, ForceNetCalculator("alloy"), Visit(temperature), seed=3))
        assert len(path) == 20
        assert not [said for said in caplog.messages if said.startswith("guard")]
        error = path_errors([teacher.label(atoms) for atoms in path])
    assert error["smallest_distance"] > 1.6
    assert error["relative"] < 1.5 * read_card(model_path("alloy")).test_errors["relative"]
