"""Atomic properties that ForceNet reads (Hu et al. 2021, appendix), from elements.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from forcenet_md.errors import UnknownElementError

N_TABLE = 101  # rows by atomic number; row 0 is unused
PROPERTIES = (
    "group",
    "period",
    "electronegativity_sanderson",
    "covalent_radius_cordero_pm",
    "valence_electrons",
    "ionisation_energy_eV",
    "electron_affinity_eV",
    "block",
    "atomic_volume_cm3_mol",
)


@cache
def _columns() -> dict[str, NDArray[np.float64]]:
    text = files("forcenet_md.models").joinpath("elements.csv").read_text("utf-8")
    table = {name: np.full(N_TABLE, np.nan) for name in (*PROPERTIES, "atomic_radius_slater_pm")}
    for row in csv.DictReader(text.splitlines()):
        for name, column in table.items():
            if row[name]:
                column[int(row["number"])] = float(row[name])
    return table


def property_table() -> NDArray[np.float32]:
    """[101, 9] the nine properties by atomic number, each scaled to [0, 1] over the elements
    that have all nine; NaN rows for the others."""
    raw = np.stack([_columns()[name] for name in PROPERTIES], axis=1)
    raw[np.isnan(raw).any(axis=1)] = np.nan
    low, high = np.nanmin(raw, axis=0), np.nanmax(raw, axis=0)
    return ((raw - low) / (high - low)).astype(np.float32)


def radius_table() -> NDArray[np.float32]:
    """[101] Slater's atomic radius in Å by atomic number; NaN where there is none."""
    return (_columns()["atomic_radius_slater_pm"] / 100).astype(np.float32)


def known_numbers() -> tuple[int, ...]:
    """Atomic numbers with all nine properties and a radius."""
    ok = ~np.isnan(property_table()).any(axis=1) & ~np.isnan(radius_table())
    return tuple(int(z) for z in np.flatnonzero(ok))


def check_elements(numbers: Iterable[int]) -> None:
    """Raise UnknownElementError naming elements without data: their NaN would spread."""
    unknown = sorted(set(numbers) - set(known_numbers()))
    if unknown:
        names = ", ".join(
            chemical_symbols[z] if 0 < z < len(chemical_symbols) else f"Z={z}" for z in unknown
        )
        raise UnknownElementError(
            f"there are no atomic properties for {names}: leave these elements out, or use"
            " node_features 'embedding' with an edge basis that needs no radii."
        )
