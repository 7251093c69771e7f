"""What a run is judged by: pair distributions g(r) and the temperature of each element."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols
from ase.io import iread, read
from numpy.typing import NDArray

from forcenet_md.errors import DataError
from forcenet_md.graph.neighbours import build_edges
from forcenet_md.system import System

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairDistribution:
    """g(r) of every pair of elements, 1 where nothing is correlated.

    r: [n_bins] Å, middles of the bins; g: [n_bins] by pair, as "Ag-Au" in alphabetical order
    """

    r: Array
    g: Mapping[str, Array]

    def deviation(self, reference: PairDistribution) -> dict[str, float]:
        """∫|g − g_reference| dr / ∫ g_reference dr of each pair that is in the reference.

        Raises DataError if the two are not of the same pairs and bins.
        """
        if self.g.keys() != reference.g.keys() or not np.array_equal(self.r, reference.r):
            raise DataError("two g(r) of different elements or bins cannot be compared.")
        return {
            pair: float(np.abs(self.g[pair] - g).sum() / g.sum())
            for pair, g in reference.g.items()
            if g.any()
        }


class PairCounts:
    """Neighbours by distance, of frames of the same atoms, for each pair of elements.

    kinds: [n_kinds] atomic numbers; counts: [n_kinds, n_kinds, n_bins] of sources around targets
    """

    def __init__(self, numbers: NDArray[np.int64], r_max: float = 6.0, n_bins: int = 60) -> None:
        """numbers: [n_atoms]; r_max: Å"""
        self.numbers = numbers
        self.kinds, self._kind = np.unique(numbers, return_inverse=True)
        self.r_max, self.n_bins = r_max, n_bins
        self.atoms_of = np.bincount(self._kind).astype(float)

    def of(self, system: System) -> Array:
        """[n_kinds, n_kinds, n_bins] in one frame.

        Raises DataError for a frame that is not periodic or of other atoms.
        """
        if not system.pbc.all():
            raise DataError("g(r) needs frames that are periodic in all directions.")
        if not np.array_equal(system.numbers, self.numbers):
            raise DataError("g(r) needs frames of the same atoms in the same order.")
        n_kinds = len(self.kinds)
        edges = build_edges(system, self.r_max)
        bins = np.linalg.norm(edges.vector, axis=1) * (self.n_bins / self.r_max)
        which = (self._kind[edges.target] * n_kinds + self._kind[edges.source]) * self.n_bins
        which += np.minimum(bins.astype(np.int64), self.n_bins - 1)
        counts = np.bincount(which, minlength=n_kinds * n_kinds * self.n_bins)
        return counts.reshape(n_kinds, n_kinds, self.n_bins).astype(float)

    @property
    def limits(self) -> Array:
        """[n_bins + 1] Å"""
        return np.linspace(0.0, self.r_max, self.n_bins + 1)

    def distribution(self, counts: Array) -> PairDistribution:
        """counts: mean over frames of a frame's counts times its volume, Å³"""
        limits = self.limits
        shell = 4.0 / 3.0 * np.pi * np.diff(limits**3)
        g = {}
        for a, b in combinations_with_replacement(range(len(self.kinds)), 2):
            pairs = self.atoms_of[a] * (self.atoms_of[b] - (a == b))
            if pairs > 0:
                names = sorted((chemical_symbols[self.kinds[a]], chemical_symbols[self.kinds[b]]))
                g["-".join(names)] = counts[a, b] / (pairs * shell)
        return PairDistribution(0.5 * (limits[1:] + limits[:-1]), dict(sorted(g.items())))


def pair_distribution(
    frames: Sequence[Atoms], r_max: float = 6.0, n_bins: int = 60
) -> PairDistribution:
    """g(r) of periodic frames of the same atoms, averaged over frames; r_max in Å.

    Raises DataError where there is no frame, or no volume.
    """
    if not frames:
        raise DataError("g(r) needs frames that are periodic in all directions.")
    pairs = PairCounts(frames[0].numbers, r_max, n_bins)
    total = sum(pairs.of(System.from_ase(atoms)) * atoms.get_volume() for atoms in frames)
    return pairs.distribution(np.asarray(total) / len(frames))


def per_density(g: PairDistribution, symbols: Sequence[str]) -> PairDistribution:
    """g(r) with like pairs over the density of all n atoms, not of the n − 1 others.

    In a crystal or a dense liquid the neighbours at a distance are then the same number in cells
    of every size.
    """
    n_of = Counter(symbols)
    scale = {f"{e}-{e}": 1.0 - 1.0 / n for e, n in n_of.items()}
    return PairDistribution(g.r, {pair: scale.get(pair, 1.0) * v for pair, v in g.g.items()})


def kinetic_temperatures(
    numbers: NDArray[np.int64], masses: Array, velocities: Array
) -> dict[str, float]:
    """Kinetic temperature of each element, K, with three degrees of freedom per atom.

    numbers: [n_atoms]; masses: [n_atoms] amu; velocities: [n_atoms, 3] in ASE's unit, √(eV/amu)
    """
    kinds, kind = np.unique(numbers, return_inverse=True)
    twice_kinetic = (velocities**2).sum(axis=1) * masses
    means = np.bincount(kind, twice_kinetic) / np.bincount(kind) / (3.0 * units.kB)
    return {chemical_symbols[z]: float(mean) for z, mean in zip(kinds, means, strict=True)}


def element_temperatures(frames: Sequence[Atoms]) -> dict[str, Array]:
    """Kinetic temperature of each element in each frame, [n_frames] K, from the velocities.

    Three degrees of freedom per atom: right under a thermostat that moves the centre of mass
    (Langevin), and low by 1/n_atoms where that is at rest.
    Raises DataError where frames have no velocities.
    """
    temperatures: dict[str, list[float]] = {}
    for atoms in frames:
        if not atoms.has("momenta"):
            raise DataError("temperatures need velocities: dump vx vy vz with the positions.")
        found = kinetic_temperatures(atoms.numbers, atoms.get_masses(), atoms.get_velocities())
        for element in sorted(found):
            temperatures.setdefault(element, []).append(found[element])
    return {element: np.array(values) for element, values in temperatures.items()}


def read_lammps_dump(path: str | Path) -> list[Atoms]:
    """All frames of a text dump in units metal with columns id, element, x y z (vx vy vz).

    Raises DataError for a file that is missing, empty or has no elements.
    """
    try:
        frames = read(path, index=":", format="lammps-dump-text")
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read as a LAMMPS dump with the columns id element x y z: {error}."
        ) from None
    if not frames:
        raise DataError(f"{path} holds no frame: the run that wrote it has not come to its end.")
    return list(frames)


def read_ipi_trajectory(path: str | Path) -> list[Atoms]:
    """All frames of a trajectory of i-PI with format='ase' and positions{ase}, in Å.

    Raises DataError for a file that is missing, empty or of another kind.
    """
    try:
        frames = list(iread(path, index=":", format="extxyz"))
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read as a trajectory of i-PI with format='ase': {error}."
        ) from None
    if not frames or not frames[0].positions.any():
        raise DataError(f"{path} holds no positions: give a trajectory of positions{{ase}}.")
    return frames


def read_ipi_temperatures(path: str | Path) -> tuple[Array, dict[str, Array]]:
    """Time in ps and temperature(X){kelvin} of each element, from a properties file of i-PI.

    [n_lines] each. Raises DataError for a file without time{picosecond} or such columns.
    """
    try:
        text = Path(path).read_text(encoding="ascii")
        rows = [line for line in text.splitlines() if line.strip() and line[0] != "#"]
        table = np.array([line.split() for line in rows], dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as properties of i-PI: {error}.") from None
    names = re.findall(r"^# column +\d+ +--> (\S+)", text, re.MULTILINE)
    columns = dict(zip(names, table.T, strict=False))
    temperatures = {
        found[1]: values
        for name, values in columns.items()
        if (found := re.fullmatch(r"temperature\((\w+)\)\{kelvin\}", name))
    }
    if "time{picosecond}" not in columns or not temperatures:
        raise DataError(
            f"{path} has no time{{picosecond}} or no temperature(X){{kelvin}}: ask i-PI for them."
        )
    return columns["time{picosecond}"], temperatures
