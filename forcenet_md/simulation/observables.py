"""What a run is judged by: pair distributions g(r) and the temperature of each element."""

from __future__ import annotations

import re
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
        """∫|g − g_reference| dr / ∫ g_reference dr of each pair of the reference.

        Raises DataError if the two are not of the same pairs and bins.
        """
        if self.g.keys() != reference.g.keys() or not np.array_equal(self.r, reference.r):
            raise DataError("two g(r) of different elements or bins cannot be compared.")
        return {
            pair: float(np.abs(self.g[pair] - g).sum() / g.sum()) for pair, g in reference.g.items()
        }


def pair_distribution(
    frames: Sequence[Atoms], r_max: float = 6.0, n_bins: int = 60
) -> PairDistribution:
    """g(r) of periodic frames of the same atoms, averaged over frames; r_max in Å.

    Raises DataError where there is no frame, or no volume.
    """
    if not frames or not all(atoms.pbc.all() for atoms in frames):
        raise DataError("g(r) needs frames that are periodic in all directions.")
    numbers = frames[0].numbers
    kinds, kind = np.unique(numbers, return_inverse=True)
    n_kinds = len(kinds)
    limits = np.linspace(0.0, r_max, n_bins + 1)
    counts = np.zeros((n_kinds, n_kinds, n_bins))
    for atoms in frames:
        if not np.array_equal(atoms.numbers, numbers):
            raise DataError("g(r) needs frames of the same atoms in the same order.")
        edges = build_edges(System.from_ase(atoms), r_max)
        bins = np.linalg.norm(edges.vector, axis=1) * (n_bins / r_max)
        which = (kind[edges.target] * n_kinds + kind[edges.source]) * n_bins
        which += np.minimum(bins.astype(np.int64), n_bins - 1)
        histogram = np.bincount(which, minlength=counts.size).reshape(counts.shape)
        counts += histogram * atoms.get_volume()
    shell = 4.0 / 3.0 * np.pi * np.diff(limits**3)
    n_of = np.bincount(kind).astype(float)
    g = {}
    for a, b in combinations_with_replacement(range(n_kinds), 2):
        pairs = n_of[a] * (n_of[a] - 1.0 if a == b else n_of[b])
        if pairs > 0:
            names = sorted((chemical_symbols[kinds[a]], chemical_symbols[kinds[b]]))
            g["-".join(names)] = counts[a, b] / (pairs * shell * len(frames))
    return PairDistribution(0.5 * (limits[1:] + limits[:-1]), dict(sorted(g.items())))


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
        twice_kinetic = (atoms.get_momenta() ** 2).sum(axis=1) / atoms.get_masses()
        symbols = np.array(atoms.get_chemical_symbols())
        for element in np.unique(symbols):
            mean = twice_kinetic[symbols == element].mean() / (3.0 * units.kB)
            temperatures.setdefault(str(element), []).append(float(mean))
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
