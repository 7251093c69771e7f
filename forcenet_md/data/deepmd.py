"""DeePMD folders, read by dpdata: `type.raw` beside `set.*` with arrays, or beside `.raw` files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from numpy.typing import NDArray

from forcenet_md.errors import DataError


def is_deepmd(folder: Path) -> bool:
    """By what is in it."""
    return (folder / "type.raw").is_file()


def read_deepmd(folder: Path, elements: Sequence[str] = ()) -> Iterator[Atoms]:
    """The frames of a system (one system is in memory whole).

    elements: of the types in order, where the folder has no type_map.raw.
    Raises DataError: no forces, no elements, arrays that do not fit together.
    """
    import dpdata

    sets = sorted(folder.glob("set.*"))
    _check_parts(folder, sets)
    kind = "deepmd/raw"
    if sets:
        mixed = (sets[0] / "real_atom_types.npy").is_file()
        kind = "deepmd/npy/mixed" if mixed else "deepmd/npy"
    type_map = list(elements) or None
    try:
        if kind == "deepmd/npy/mixed":
            systems = list(dpdata.MultiSystems().load_systems_from_file(str(folder), fmt=kind))
        else:
            systems = [dpdata.LabeledSystem(str(folder), fmt=kind, type_map=type_map)]
    except Exception as error:
        raise DataError(
            f"dpdata cannot read it ({type(error).__name__}: {str(error)[:100]}): its arrays are"
            " damaged or do not fit together."
        ) from None
    for system in systems:
        yield from _frames(system.data)


def _check_parts(folder: Path, sets: Sequence[Path]) -> None:
    """dpdata makes a structure without labels of what has no forces."""
    if not (folder / "type.raw").is_file():
        raise DataError(
            "it is a folder, but no DeePMD one (there is no type.raw): give its files by name."
        )
    for part in sets or [folder]:
        ending = "npy" if sets else "raw"
        for name in ("coord", "force"):
            if not (part / f"{name}.{ending}").is_file():
                raise DataError(
                    f"there is no {part.name}/{name}.{ending}: a training set needs positions and"
                    " the forces on them."
                )


def _frames(data: dict[str, Any]) -> Iterator[Atoms]:
    names = data["atom_names"]
    unknown = [name for name in names if name not in atomic_numbers]
    if unknown:
        raise DataError(
            f"'{unknown[0]}' is no element: name the elements of the types in their order with"
            " --elements, as O,H."
        )
    numbers = np.array([atomic_numbers[name] for name in names])[data["atom_types"]]
    periodic = not data.get("nopbc", False)
    for k, positions in enumerate(data["coords"]):
        cell = data["cells"][k]
        atoms = Atoms(
            numbers=numbers, positions=positions, cell=cell if periodic else None, pbc=periodic
        )
        results: dict[str, object] = {"forces": data["forces"][k]}
        if "energies" in data:
            results["energy"] = float(data["energies"][k])
        if "virials" in data:
            results["stress"] = _stress(data["virials"][k], atoms.get_volume())
        atoms.calc = SinglePointCalculator(atoms, **results)
        yield atoms


def _stress(virial: NDArray[np.float64], volume: float) -> NDArray[np.float64]:
    """ASE's stress of DeePMD's virial (eV): pressure, and so the virial, has the other sign."""
    return -0.5 * (virial + virial.T) / volume
