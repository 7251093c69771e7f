"""The element table against the reference's, and refusals by name."""

from __future__ import annotations

import numpy as np
import pytest
from vectors import FOLDER

from forcenet_md.errors import UnknownElementError
from forcenet_md.models.elements import (
    check_elements,
    known_numbers,
    property_table,
    radius_table,
)

REFERENCE = np.load(FOLDER / "sph_swish.npz")


def test_scaled_properties_are_the_references():
    expected = REFERENCE["state/atom_map"]
    ours = property_table()
    assert np.array_equal(np.isnan(ours), np.isnan(expected))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_radii_are_the_references():
    np.testing.assert_allclose(radius_table(), REFERENCE["state/atom_radii"], rtol=1e-6)


def test_elements_without_data_are_refused_by_name():
    check_elements(known_numbers())
    with pytest.raises(UnknownElementError, match="Kr, Bk"):
        check_elements([29, 97, 36])
    assert 36 not in known_numbers()
    assert {1, 6, 8, 29, 46, 47, 78, 79} <= set(known_numbers())
