"""Units of labelled frames: converted when they are declared, otherwise seen from magnitudes.

Lengths: the smallest distance of a frame over the sum of the covalent radii is near 1 in matter in
Å, near 1.9 in Bohr, near 0.1 in nm. Forces: the mean |component| is 0.02 to 8 eV/Å in all but
relaxed and torn structures; kcal/mol/Å are 23 times as large, Hartree/Bohr 51 times as small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.data import covalent_radii
from numpy.typing import NDArray

from forcenet_md.data.labelled import Labelled
from forcenet_md.data.manifest import Units as Declared
from forcenet_md.errors import DataError, StructureError
from forcenet_md.graph.neighbours import build_edges
from forcenet_md.system import System

LENGTHS = {"angstrom": 1.0, "bohr": units.Bohr, "nm": units.nm, "pm": 0.01}
ENERGIES = {
    "eV": 1.0,
    "meV": 0.001,
    "hartree": units.Hartree,
    "rydberg": units.Rydberg,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
}
FORCES = {
    f"{energy}/{length}": (e, e / LENGTHS[length])
    for energy, e in ENERGIES.items()
    for length in ("angstrom", "bohr", "nm")
}
REACHES = (0.25, 0.5, 1.0, 2.0, 4.0)  # tried in turn: far ones are dear where units are wrong
SMALL = 1000  # atoms of a frame whose pairs fit into memory, however near they are
EARLY = 50  # frames after which a source is judged for the first time
THIN = 50  # later only every so many frames are looked at
TOO_NEAR, FAR = 0.25, 1.5
SMALL_FORCE, LARGE_FORCE = 0.02, 8.0  # eV/Å, mean |component|
MIXED_LENGTHS = (1.7, 2.1)  # about Bohr / Å
MIXED_FORCES = 15.0
NOBLE = {2, 10, 18, 36, 54, 86}


@dataclass(frozen=True)
class Units:
    """What sources are in; None: eV and Å, and looked at. force names the energy's unit too."""

    length: str | None = None
    force: str | None = None

    def __post_init__(self) -> None:
        for what, name, known in (("length", self.length, LENGTHS), ("force", self.force, FORCES)):
            if name is not None and name not in known:
                raise DataError(
                    f"--units-{what} {name} is unknown: give one of {', '.join(known)}."
                )

    def convert(self, atoms: Atoms) -> None:
        """Into eV and Å, in place. What is in them already stays the same to the bit."""
        length = LENGTHS[self.length or "angstrom"]
        energy, force = FORCES[self.force or "eV/angstrom"]
        if length != 1.0:
            atoms.positions *= length
            atoms.cell[:] *= length
        if atoms.calc is None or (energy, force) == (1.0, 1.0):
            return
        per_volume = energy / length**3
        results = atoms.calc.results
        for name, factor in (("energy", energy), ("forces", force), ("stress", per_volume)):
            if results.get(name) is not None:
                results[name] = np.asarray(results[name], dtype=float) * factor

    def declared(self, checks: Sequence[UnitCheck]) -> Declared:
        """For the manifest."""
        seen = [
            f"{name} by magnitude" if given is None else f"{name} as told"
            for name, given in (("length", self.length), ("force", self.force))
        ]
        return Declared(
            length=self.length or "angstrom",
            force=self.force or "eV/angstrom",
            checked=f"{', '.join(seen)}, in {sum(c.looked_at for c in checks)} frames",
        )


class UnitCheck:
    """Magnitudes in the frames of one source."""

    def __init__(self, name: str, declared: Units) -> None:
        self.name = name
        self.declared = declared
        self.elements: set[int] = set()
        self.remarks: list[str] = []
        self._nearest: list[float] = []
        self._forces: list[float] = []
        self._seen = 0

    @property
    def looked_at(self) -> int:
        return len(self._nearest)

    @property
    def nearest(self) -> float | None:
        """Middle of the frames that have neighbours at all."""
        near = [r for r in self._nearest if np.isfinite(r)]
        return float(np.median(near)) if near else None

    @property
    def mean_force(self) -> float | None:
        """eV/Å: middle of the frames that have forces at all."""
        return float(np.median(self._forces)) if self._forces else None

    def add(self, frame: Labelled) -> None:
        """Raises DataError as soon as enough frames are in another unit."""
        self._seen += 1
        if self._seen > EARLY and self._seen % THIN:
            return
        self.elements.update(frame.numbers.tolist())
        self._nearest.append(nearest_ratio(frame, REACHES))
        if (mean := float(np.abs(frame.forces).mean())) > 0.0:
            self._forces.append(mean)
        if self._seen == EARLY:
            self._judge()

    def finish(self) -> None:
        """Raises DataError when the frames look as if they were in another unit."""
        self._judge()
        force = self.mean_force
        if self.declared.force is None and force is not None and force < SMALL_FORCE:
            self.remarks.append(
                f"the forces of {self.name} are small (middle of the mean |component|"
                f" {force:.2g} eV/Å): if they are in Hartree/Bohr, give --units-force hartree/bohr;"
                " if the structures are close to relaxed, that is as it should be."
            )

    def _judge(self) -> None:
        near, force = self.nearest, self.mean_force
        if self.declared.length is None and near is not None:
            unit = None
            if near < TOO_NEAR:
                unit = "nm"
            elif near > FAR and not self.elements <= NOBLE:
                unit = "bohr"
            if unit is not None:
                raise DataError(
                    f"the positions of {self.name} look like {unit} (nearest atoms at {near:.2f}"
                    f" times the sum of their covalent radii): give --units-length {unit}, or"
                    " --units-length angstrom if they are in Å, to 'forcenet-md data compile'."
                )
        if self.declared.force is None and force is not None and force > LARGE_FORCE:
            unit = next(
                unit
                for limit, unit in (
                    (35.0, "kcal/mol/angstrom"),
                    (200.0, "kJ/mol/angstrom"),
                    (np.inf, "meV/angstrom"),
                )
                if force < limit
            )
            raise DataError(
                f"the forces of {self.name} look like {unit} (middle of the mean |component|"
                f" {force:.3g}): give --units-force {unit}, or --units-force eV/angstrom if they"
                " are in eV/Å, to 'forcenet-md data compile'."
            )


def check_mixture(checks: Sequence[UnitCheck]) -> list[str]:
    """Remarks on sources of the same elements whose forces are far apart.

    Raises DataError when the distances in one are to those in another as Bohr to Å.
    """
    alike: dict[frozenset[int], list[UnitCheck]] = {}
    for check in checks:
        alike.setdefault(frozenset(check.elements), []).append(check)
    remarks = []
    for group in alike.values():
        _check_lengths([c for c in group if c.declared.length is None])
        remarks += _force_remarks([c for c in group if c.declared.force is None])
    return remarks


def _check_lengths(group: Sequence[UnitCheck]) -> None:
    near = sorted((c.nearest, k) for k, c in enumerate(group) if c.nearest is not None)
    for length, k in near[1:]:
        ratio = length / near[0][0]
        if MIXED_LENGTHS[0] < ratio < MIXED_LENGTHS[1]:
            raise DataError(
                f"{group[k].name} and {group[near[0][1]].name} look as if they were in mixed units"
                f" (the nearest atoms are {ratio:.2f} times as far apart): compile them separately"
                " with --units-length, then both stores into one."
            )


def _force_remarks(group: Sequence[UnitCheck]) -> list[str]:
    forces = sorted((c.mean_force, k) for k, c in enumerate(group) if c.mean_force is not None)
    if not forces or forces[-1][0] / forces[0][0] < MIXED_FORCES:
        return []
    return [
        f"the forces of {group[forces[-1][1]].name} are {forces[-1][0] / forces[0][0]:.0f} times"
        f" those of {group[forces[0][1]].name}: if they are in mixed units, compile them separately"
        " with --units-force, then both stores into one."
    ]


def nearest_ratio(frame: Labelled, reaches: Sequence[float]) -> float:
    """The smallest distance over the sum of the covalent radii of the two; infinite when none is
    within the last of `reaches` times the largest sum."""
    radii = covalent_radii[np.minimum(frame.numbers, len(covalent_radii) - 1)]
    for reach in reaches:
        try:
            a, b, length = _pairs(frame, float(2.0 * reach * radii.max()))
        except StructureError:
            return 0.0  # more neighbours than there can be
        if len(length):
            return float((length / (radii[a] + radii[b])).min())
    return float("inf")


def _pairs(frame: Labelled, reach: float) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Atoms (a, b) within reach Å of each other and their distances."""
    if frame.pbc.all() and len(frame.numbers) <= SMALL:  # most frames; there may be millions
        import vesin  # imports torch

        searcher = vesin.NeighborList(cutoff=reach, full_list=False, sorted=False, n_threads=1)
        a, b, length = searcher.compute(frame.positions, frame.cell, frame.pbc, "ijd")
        return a, b, length
    system = System(frame.positions, frame.numbers, frame.cell, frame.pbc)
    edges = build_edges(system, reach)
    return edges.source, edges.target, np.sqrt(np.square(edges.vector).sum(axis=1))
