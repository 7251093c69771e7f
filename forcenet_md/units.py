"""LAMMPS unit styles in eV, Å, amu and ps: the only place where units are converted.

A quantity in the engine's unit times the factor of `unit_style(name)` is in our unit.
Sources: the tables of https://docs.lammps.org/units.html; constants from `ase.units` (CODATA).
"""

from __future__ import annotations

from dataclasses import dataclass

from ase import units as u

from forcenet_md.errors import UnitsError

# eV/Å over amu in Å/ps², and so amu Å²/ps² in eV: ASE's own time is Å √(amu/eV).
ACCELERATION = (1000.0 * u.fs) ** 2


@dataclass(frozen=True, slots=True)
class UnitStyle:
    """The size of an engine's units: energy in eV, length in Å, mass in amu, time in ps."""

    name: str
    energy: float
    length: float
    mass: float
    time: float

    @property
    def force(self) -> float:
        """eV/Å: in every LAMMPS style force is energy per length."""
        return self.energy / self.length

    @property
    def velocity(self) -> float:
        """Å/ps: in every LAMMPS style positions advance by velocity × time."""
        return self.length / self.time


_METRE = u.m
_SECOND = 1e12  # ps
_KILOGRAM = u.kg  # ase.units counts mass in amu

STYLES = {
    style.name: style
    for style in (
        UnitStyle("metal", energy=1.0, length=1.0, mass=1.0, time=1.0),
        UnitStyle("real", energy=u.kcal / u.mol, length=1.0, mass=1.0, time=1e-3),
        UnitStyle("si", energy=u.J, length=_METRE, mass=_KILOGRAM, time=_SECOND),
        # erg, cm, gram, second
        UnitStyle(
            "cgs", energy=1e-7 * u.J, length=1e-2 * _METRE, mass=1e-3 * _KILOGRAM, time=_SECOND
        ),
        UnitStyle("electron", energy=u.Hartree, length=u.Bohr, mass=1.0, time=1e-3),
        # picogram µm²/µs², µm, picogram, µs
        UnitStyle(
            "micro",
            energy=1e-15 * u.J,
            length=1e-6 * _METRE,
            mass=1e-15 * _KILOGRAM,
            time=1e-6 * _SECOND,
        ),
        # attogram nm²/ns², nm, attogram, ns
        UnitStyle(
            "nano",
            energy=1e-21 * u.J,
            length=1e-9 * _METRE,
            mass=1e-21 * _KILOGRAM,
            time=1e-9 * _SECOND,
        ),
    )
}


def unit_style(name: str) -> UnitStyle:
    """The table's row for a LAMMPS `units` name. Raises UnitsError for `lj` and unknown names."""
    if name == "lj":
        raise UnitsError(
            "units lj has no physical scale, so forces in eV/Å cannot be converted:"
            " use units metal or real."
        )
    if name not in STYLES:
        raise UnitsError(f"unknown unit style {name!r}: use one of {', '.join(sorted(STYLES))}.")
    return STYLES[name]


@dataclass(frozen=True, slots=True)
class IpiUnits:
    """i-PI's atomic units: what one Å, eV and eV/Å are in them.

    The numbers are those of `ipi/utils/units.py`, which differ from CODATA by up to 1e-7: with
    them a structure in Å reaches the model with the digits the user wrote, and answers equal
    those of i-PI's own drivers. Its eV/Å is rounded by itself, not the quotient of the other two.
    """

    angstrom: float = 1.8897261
    electronvolt: float = 0.036749326
    force: float = 0.019446904


IPI = IpiUnits()
