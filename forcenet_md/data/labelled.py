"""One labelled frame as arrays, from and to ASE; what is wrong with one is said in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, FixScaled
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from forcenet_md.data.frames import forces_of
from forcenet_md.errors import DataError, StructureError
from forcenet_md.system import System

N_ELEMENTS = 118
FIXED = "fixed"  # column of atoms: 1 where one was held in the calculation
TAGS = "tags"  # column of atoms: in OC20 0 deep in the slab, 1 at its surface, 2 adsorbate
UNKNOWN_TAG = -1


@dataclass(frozen=True, slots=True)
class Labelled:
    """Atoms with the forces on them.

    numbers: [n] int64; positions: [n, 3] float64 Å; cell: [3, 3] Å, rows; pbc: [3] bool
    forces: [n, 3] float64 eV/Å, raw: also those on atoms that were held
    energy: eV or None; stress: [3, 3] eV/Å³ with ASE's sign, or None
    fixed: [n] bool, False where nothing said so; tags: [n] int8, -1 unknown
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    forces: NDArray[np.float64]
    energy: float | None
    stress: NDArray[np.float64] | None
    fixed: NDArray[np.bool_]
    tags: NDArray[np.int8]

    @property
    def largest_force(self) -> float:
        """Length of the largest force, eV/Å."""
        return float(np.sqrt(np.square(self.forces).sum(axis=1).max(initial=0.0)))


def from_atoms(atoms: Atoms) -> Labelled:
    """The labels of the calculator, with masks from constraints, `fixed` and `tags`.

    Raises DataError: no atoms or no forces, numbers that are not finite or do not fit together,
    no element, a periodic cell without volume.
    """
    if len(atoms) == 0:
        raise DataError("it has no atoms; leave it out.")
    foreign = np.flatnonzero((atoms.numbers < 1) | (atoms.numbers > N_ELEMENTS))
    if len(foreign):
        raise DataError(
            f"atom {foreign[0] + 1} is no element (number {atoms.numbers[foreign[0]]}): name its"
            " element, or leave the frame out."
        )
    try:
        system = System.from_ase(atoms)
    except StructureError as error:
        raise DataError(str(error)) from None
    forces = np.ascontiguousarray(forces_of(atoms), dtype=np.float64)
    energy = atoms.calc.results.get("energy")
    if energy is not None and not np.isfinite(energy):
        raise DataError("its energy is not finite; leave it out.")
    return Labelled(
        system.numbers,
        system.positions,
        system.cell,
        system.pbc,
        forces,
        None if energy is None else float(energy),
        _stress(atoms),
        fixed_atoms(atoms),
        _tags(atoms),
    )


def to_atoms(frame: Labelled, info: Mapping[str, object]) -> Atoms:
    """ASE's form: labels in a SinglePointCalculator; arrays `fixed` and `tags` where known."""
    atoms = Atoms(numbers=frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
    atoms.info.update(info)
    if frame.fixed.any():
        atoms.set_array(FIXED, frame.fixed.astype(np.int64))
    if (frame.tags != UNKNOWN_TAG).any():
        atoms.set_tags(frame.tags.astype(np.int64))
    results: dict[str, object] = {"forces": frame.forces}
    if frame.energy is not None:
        results["energy"] = frame.energy
    if frame.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(frame.stress)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def fixed_atoms(atoms: Atoms) -> NDArray[np.bool_]:
    """[n] True where all three directions are held by a constraint, or an array `fixed` says so."""
    out = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        whole = isinstance(constraint, FixCartesian | FixScaled) and np.all(constraint.mask)
        if whole or isinstance(constraint, FixAtoms):
            out[constraint.index] = True
    if FIXED in atoms.arrays:
        given = np.asarray(atoms.arrays[FIXED])
        if given.shape != (len(atoms),) or given.dtype.kind not in "biuf":
            raise DataError(
                f"its column '{FIXED}' is not one number an atom: give 1 for an atom that was held"
                " and 0 for others."
            )
        out |= given.astype(bool)
    return out


def _tags(atoms: Atoms) -> NDArray[np.int8]:
    """Tags that are no small whole numbers mean something else, and are unknown here."""
    unknown = np.full(len(atoms), UNKNOWN_TAG, dtype=np.int8)
    if not atoms.has(TAGS):
        return unknown
    tags = np.asarray(atoms.arrays[TAGS])
    if tags.shape != unknown.shape or tags.dtype.kind not in "iu" or np.abs(tags).max() > 127:
        return unknown
    return tags.astype(np.int8)


def _stress(atoms: Atoms) -> NDArray[np.float64] | None:
    stress = atoms.calc.results.get("stress")
    if stress is None:
        return None
    stress = np.asarray(stress, dtype=np.float64)
    full = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress
    if full.shape != (3, 3):
        raise DataError(f"its stress has the shape {stress.shape}, not (6,) or (3, 3); mend it.")
    if not np.isfinite(full).all():
        raise DataError("its stress is not finite; leave it out.")
    return np.ascontiguousarray(full)
