"""Structures and labels of single files, and what is wrong with one of them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz
from numpy.typing import NDArray

from forcenet_md.data.reading import read_source
from forcenet_md.data.source import ANY_SIZE
from forcenet_md.errors import DataError, StructureError
from forcenet_md.graph.neighbours import build_edges, has_no_edges
from forcenet_md.system import System
from forcenet_md.writing import replacing

TOO_NEAR = 0.1  # Å: nothing physical is; two entries of a file are one atom


def read_frames(path: str | Path, *, labelled: bool = False) -> list[Atoms]:
    """Every structure of a file, in any format of `reading.read_source`.

    labelled: each must carry finite forces. Raises DataError with the file's name.
    """
    if not Path(path).exists():
        raise DataError(f"there is no file {path}: give the path of a structure file.")
    frames = list(read_source(Path(path), ANY_SIZE))
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
    """Write extended XYZ; energy and forces of a single-point calculator go along.

    Whole or not at all: an older file stays until the new one is complete. Raises DataError.
    """
    try:
        with replacing(Path(path)) as file:
            for atoms in frames:
                file.write(as_text(atoms))
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}): make room or give another path."
        ) from None


def as_text(atoms: Atoms) -> bytes:
    """One frame as extended XYZ."""
    text = io.StringIO()
    write_extxyz(text, [atoms])
    return text.getvalue().encode()


def check_output(path: Path) -> None:
    """Make the folder of a file that is to be written later, and see that it can be written to.

    Raises DataError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is no ordinary file: give the path of a file to write.")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except (FileExistsError, NotADirectoryError):
        raise DataError(
            f"{path} cannot be written, because {_file_among(path.parents)} is a file: give another"
            " folder."
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}): give a path in a folder that can be"
            " written to."
        ) from None


def _file_among(folders: Iterable[Path]) -> Path:
    return next(folder for folder in folders if folder.exists() and not folder.is_dir())


def shortest_distance(atoms: Atoms, within: float = 6.0) -> float:
    """Of two atoms, Å, also of an atom and an image of its own; infinity where no pair is within.

    Raises StructureError when two atoms lie on one point.
    """
    lengths = np.linalg.norm(build_edges(System.from_ase(atoms), within).vector, axis=1)
    return float(lengths.min(initial=np.inf))


def check_structure(atoms: Atoms) -> None:
    """Raises DataError when no teacher has a meaningful answer: no atoms, numbers that are not
    finite, two atoms nearer than TOO_NEAR."""
    if len(atoms) == 0:
        raise DataError("it has no atoms; leave it out.")
    bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
    if len(bad):
        raise DataError(f"the position of atom {bad[0] + 1} is not finite; leave it out.")
    try:
        system = System.from_ase(atoms)
        if has_no_edges(system, TOO_NEAR):
            return
        pairs = build_edges(system, TOO_NEAR)
    except StructureError as error:
        raise DataError(str(error)) from None
    if len(pairs.source):
        a, b = sorted((int(pairs.source[0]) + 1, int(pairs.target[0]) + 1))
        raise DataError(
            f"atoms {a} and {b} are nearer than {TOO_NEAR} Å; leave it out or mend the structure."
        )


def check_labels(atoms: Atoms) -> None:
    """Raises DataError when its energy or a force is not finite."""
    forces_of(atoms)
    energy = atoms.calc.results.get("energy")
    if energy is not None and not np.isfinite(energy):
        raise DataError("its energy is not finite; leave it out.")


def forces_of(atoms: Atoms) -> NDArray[np.float64]:
    """Labels [n_atoms, 3] eV/Å. Raises DataError when there are none or they are not finite."""
    if atoms.calc is None or "forces" not in atoms.calc.results:
        raise DataError(_without_forces(atoms))
    forces = np.asarray(atoms.calc.results["forces"], dtype=float)
    if forces.shape != (len(atoms), 3):
        raise DataError(
            f"it has {len(atoms)} atoms and forces of shape {forces.shape}: each atom needs three"
            " numbers."
        )
    if not np.isfinite(forces).all():
        raise DataError("its forces are not finite; leave it out or label it again.")
    return forces


def _without_forces(atoms: Atoms) -> str:
    """Files of other programs have forces in a column of another name, where ASE leaves them."""
    columns = (name for name in atoms.arrays if name.lower().endswith(("force", "forces")))
    if named := next(columns, None):
        return f"it has no column 'forces', but '{named}': rename that in the file to 'forces'."
    return "it has no forces; label it first with 'forcenet-md label' (LAMMPS: dump fx fy fz too)."


def with_labels(atoms: Atoms, energy: float | None, forces: NDArray[np.float64]) -> Atoms:
    """A copy of atoms (info kept) that carries the labels."""
    out = atoms.copy()
    out.calc = SinglePointCalculator(out, energy=energy, forces=forces)
    return out


def largest_label(atoms: Atoms) -> float:
    """Length of the largest force of the labels, eV/Å."""
    return float(np.linalg.norm(forces_of(atoms), axis=1).max())


def composition(atoms: Atoms) -> str:
    """The chemical formula: equal for structures of the same composition."""
    return atoms.get_chemical_formula(mode="hill")
