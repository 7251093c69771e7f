"""What prepared inputs share: structures are checked and put into a box."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from forcenet_md.errors import DataError, RequestError, UnknownElementError
from forcenet_md.graph.capacity import many_neighbours
from forcenet_md.inference.interface import Capabilities
from forcenet_md.writing import plain_name

Ensemble = Literal["nvt", "relax"]
DAMP = 0.1  # ps, of the thermostat


def as_ensemble(name: str, capabilities: Capabilities) -> Ensemble:
    """Raises RequestError for what is not prepared, with the reason where physics is one."""
    kinds: tuple[Ensemble, ...] = get_args(Ensemble)
    for kind in kinds:
        if kind == name:
            return kind
    reason = ""
    if name == "npt" and not capabilities.stress:
        reason = " (direct forces have no pressure, so the cell keeps its shape)"
    elif name == "nve" and not capabilities.conservative:
        reason = " (direct forces do not conserve energy, so the atoms need a thermostat)"
    elif name in ("npt", "nve"):
        reason = f" (though {capabilities.name} can run it: change the input of nvt)"
    raise RequestError(f"--ensemble {name} is not prepared{reason}: give nvt or relax.")


def check_structure(atoms: Atoms, capabilities: Capabilities) -> NDArray[np.int64]:
    """The indices of the held atoms.

    Raises UnknownElementError for an element the model lacks, DataError for a structure that no
    engine can run.
    """
    check_occupancy(atoms)
    check_elements(sorted(set(atoms.get_chemical_symbols())), capabilities)
    held = held_atoms(atoms)
    if 0 < len(held) == len(atoms):
        raise DataError("the structure holds all of its atoms: free those that are to move.")
    return held


def remarks_on_size(atoms: Atoms, capabilities: Capabilities) -> list[str]:
    """What to say of a cell that is a unit cell rather than a piece of material, and of a cutoff
    that makes steps slow."""
    crowd = many_neighbours(len(atoms), atoms.cell.array, capabilities.cutoff)
    remarks = [f"note: {crowd}"] if crowd else []
    spans = atoms.cell.complete()
    heights = 1.0 / np.linalg.norm(np.linalg.inv(spans), axis=0)
    if not atoms.pbc.any():
        remarks.append(
            "note: no direction is periodic, so this is a free cluster or molecule; for a crystal"
            ' or a liquid the file must say so, as pbc="T T T" in extended XYZ'
        )
    thin = heights[atoms.pbc].min(initial=np.inf)
    if thin >= 2.0 * capabilities.cutoff:
        return remarks
    repeats = np.where(atoms.pbc, np.ceil(2.0 * capabilities.cutoff / heights), 1.0).astype(int)
    return [
        *remarks,
        f"note: the cell is only {thin:.3g} Å thick, so atoms see their own images (the cutoff is"
        f" {capabilities.cutoff:.3g} Å); for a material give a larger piece, in ASE"
        f" `atoms * ({', '.join(map(str, repeats))})`",
    ]


def check_new(paths: Iterable[Path], overwrite: bool) -> None:
    """Raises DataError for a file that is there already."""
    for path in paths:
        if path.exists() and not overwrite:
            raise DataError(f"{path} exists already: give another --out, or --overwrite.")


def check_occupancy(atoms: Atoms) -> None:
    """Raises DataError where a CIF gives a site to several elements or to none in part.

    ASE reads such a site as an atom of its first element.
    """
    for site in atoms.info.get("occupancy", {}).values():
        if len(site) > 1 or min(site.values(), default=1.0) < 0.999:
            shares = ", ".join(f"{symbol} {share:g}" for symbol, share in site.items())
            raise DataError(
                f"the structure has a site that is occupied in part ({shares}): give an ordered"
                " supercell in which every site is one atom."
            )


def check_elements(elements: list[str], capabilities: Capabilities) -> None:
    """Raises UnknownElementError with the names the model lacks."""
    missing = [e for e in elements if atomic_numbers[e] not in capabilities.numbers]
    if missing:
        known = " ".join(sorted(chemical_symbols[z] for z in capabilities.numbers))
        raise UnknownElementError(
            f"the model {capabilities.name} does not know {', '.join(missing)}: it knows {known};"
            " take a model of all your elements."
        )


def held_atoms(atoms: Atoms) -> NDArray[np.int64]:
    """[n_held] indices from 0 of atoms that the file says are held (selective dynamics of a POSCAR,
    FixAtoms), in rising order. Raises DataError for other constraints."""
    held = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise DataError(
                f"the structure has a constraint of the kind {type(constraint).__name__}: hold"
                " atoms in all directions or in none."
            )
        held[constraint.index] = True
    return np.flatnonzero(held)


def in_box(atoms: Atoms, margin: float) -> Atoms:
    """A copy in a right-handed cell that holds all atoms, its corner at the origin.

    Directions that are not periodic become normal to the others and as long as the atoms need, with
    so much room (Å) on both sides. Raises DataError.
    """
    if len(atoms) == 0:
        raise DataError("the structure has no atoms.")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise DataError("the positions or the cell of the structure are not finite: mend the file.")
    rows = np.eye(3)
    periodic = atoms.pbc
    if periodic.any():
        rows[periodic] = atoms.cell.array[periodic]
        _, spread, directions = np.linalg.svd(rows[periodic])
        if spread[-1] < 1e-3:
            raise DataError(
                "the cell has no volume in its periodic directions: give a cell, or make the"
                " structure non-periodic."
            )
        rows[~periodic] = directions[periodic.sum() :]
    if np.linalg.det(rows) < 0.0:
        # engines know right-handed cells only; three reversed vectors span the same lattice
        rows = -rows
    fractional = atoms.positions @ np.linalg.inv(rows)
    low, high = fractional.min(axis=0), fractional.max(axis=0)
    fractional[:, periodic] -= np.floor(fractional[:, periodic])
    fractional[:, ~periodic] -= low[~periodic] - margin
    length = np.where(periodic, 1.0, high - low + 2.0 * margin)
    return Atoms(
        numbers=atoms.numbers,
        positions=fractional @ rows,
        cell=rows * length[:, None],
        pbc=periodic,
    )


def timestep(atoms: Atoms) -> float:
    """Timestep in ps by the lightest atom: 0.5 fs with hydrogen, 1 fs up to neon, 2 fs above."""
    lightest = atomic_masses[atoms.numbers].min()
    return 0.0005 if lightest < 5.0 else 0.001 if lightest < 21.0 else 0.002


def file_name(structure: Path) -> str:
    """A name for the files, after that of the structure's without an ending that is a format."""
    ending = structure.suffix.lower() in {".cif", ".vasp", ".xyz", ".extxyz", ".traj"}
    return plain_name(structure.stem if ending else structure.name, "structure")
