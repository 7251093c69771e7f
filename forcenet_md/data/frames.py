"""Labelled structures on disk: extended XYZ through ASE, and splits by a column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from forcenet_md.errors import DataError


def read_frames(path: str | Path, *, labelled: bool = False) -> list[Atoms]:
    """Every structure of a file ASE can read.

    labelled: each must carry finite forces. Raises DataError with the file's name.
    """
    try:
        frames = ase.io.read(path, index=":")
    except FileNotFoundError:
        raise DataError(f"there is no file {path}: give the path of a structure file.") from None
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as structures ({error}): give a file of a format ASE knows."
        ) from error
    frames = list(frames) if isinstance(frames, list) else [frames]
    if not frames:
        raise DataError(f"{path} holds no structure: give a file with at least one.")
    if labelled:
        for k, atoms in enumerate(frames):
            try:
                forces_of(atoms)
            except DataError as error:
                raise DataError(f"frame {k} of {path}: {error}") from None
    return frames


def write_frames(path: str | Path, frames: Iterable[Atoms]) -> None:
    """Write extended XYZ; energy and forces of a single-point calculator go along."""
    ase.io.write(path, list(frames), format="extxyz")


def forces_of(atoms: Atoms) -> NDArray[np.float64]:
    """Labels [n_atoms, 3] eV/Å. Raises DataError when there are none or they are not finite."""
    if atoms.calc is None or "forces" not in atoms.calc.results:
        raise DataError("it has no forces; label it first with 'forcenet-md label'.")
    forces = np.asarray(atoms.calc.results["forces"], dtype=float)
    if not np.isfinite(forces).all():
        raise DataError("its forces are not finite; leave it out or label it again.")
    return forces


def with_labels(atoms: Atoms, energy: float | None, forces: NDArray[np.float64]) -> Atoms:
    """A copy of atoms (info kept) that carries the labels."""
    out = atoms.copy()
    out.calc = SinglePointCalculator(out, energy=energy, forces=forces)
    return out


def largest_force(atoms: Atoms) -> float:
    """Length of the largest force of the labels, eV/Å."""
    return float(np.linalg.norm(forces_of(atoms), axis=1).max())


def composition(atoms: Atoms) -> str:
    """The chemical formula: equal for structures of the same composition."""
    return atoms.get_chemical_formula(mode="hill")


def split_by(
    frames: Sequence[Atoms], key: str | Callable[[Atoms], object], held_out: Iterable[object]
) -> tuple[list[Atoms], list[Atoms]]:
    """(rest, held out) by a column of `info` or a function such as `composition`.

    Frames of one trajectory are alike: split by what differs (composition, temperature,
    trajectory), never by shuffling. Raises DataError when a frame lacks the column.
    """
    wanted = set(held_out)
    rest: list[Atoms] = []
    out: list[Atoms] = []
    for k, atoms in enumerate(frames):
        if callable(key):
            value = key(atoms)
        elif key in atoms.info:
            value = atoms.info[key]
        else:
            raise DataError(f"frame {k} has no column '{key}' to split by.")
        (out if value in wanted else rest).append(atoms)
    return rest, out
