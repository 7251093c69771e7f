"""What is found in frames while they pass: statistics, duplicates, strange ones.

Per frame it keeps 32 bytes; everything else does not grow with the number of frames.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

import forcenet_md
from forcenet_md.data.labelled import N_ELEMENTS, Labelled
from forcenet_md.data.manifest import (
    NAMED,
    ForceStatistics,
    Found,
    Manifest,
    Place,
    Source,
    Units,
)
from forcenet_md.data.unit_checks import nearest_ratio
from forcenet_md.data.vasp import CONVERGED
from forcenet_md.models.elements import known_numbers

SAME = 1e-4  # Å: frames that agree after rounding to this are duplicates
LARGE_FORCE = 50.0  # eV/Å: one larger is named, however many there are
ROBUST_Z = 6.0  # of the logarithm of the largest force of a frame
NEAR = 0.5  # times the sum of the covalent radii


class Survey:
    """Sees every frame once; `manifest` is what it has seen."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.units = Units()
        self.remarks: list[str] = []
        self.skipped_columns: set[str] = set()
        self.replaced_columns: set[str] = set()
        self._names: dict[str, int] = {"": 0}
        self._digest, self._force, self._near = array("Q"), array("d"), array("f")
        self._source, self._number = array("i"), array("q")
        self._counts = np.zeros((N_ELEMENTS + 1,), dtype=np.int64)
        self._sums = np.zeros((N_ELEMENTS + 1, 3))  # |component|, component², largest length
        self._unconverged = array("q")
        self._sizes = [0, 0]  # smallest, largest
        self._with_energy = self._with_stress = self._fixed = 0
        self._cell_without_pbc: list[int] = [0, -1]  # frames, the first of them

    def __len__(self) -> int:
        return len(self._digest)

    def add(self, frame: Labelled, info: Mapping[str, Any]) -> None:
        """info: the columns of the frame; `source` and `source_frame` say where it was read."""
        row, n = len(self), len(frame.numbers)
        self._digest.append(_digest(frame))
        self._force.append(frame.largest_force)
        self._near.append(nearest_ratio(frame, (NEAR,)))
        name = str(info.get("source", ""))
        self._source.append(self._names.setdefault(name, len(self._names)))
        number = info.get("source_frame", row)
        self._number.append(int(number) if isinstance(number, int | float | np.number) else row)
        if str(info.get(CONVERGED)) in ("False", "0", "0.0"):
            self._unconverged.append(row)
        self._counts += np.bincount(frame.numbers, minlength=N_ELEMENTS + 1)
        absolute = np.abs(frame.forces)
        np.add.at(self._sums[:, 0], frame.numbers, absolute.sum(axis=1))
        square = np.square(frame.forces).sum(axis=1)
        np.add.at(self._sums[:, 1], frame.numbers, square)
        np.maximum.at(self._sums[:, 2], frame.numbers, np.sqrt(square))
        self._sizes = [min(self._sizes[0] or n, n), max(self._sizes[1], n)]
        self._with_energy += frame.energy is not None
        self._with_stress += frame.stress is not None
        self._fixed += int(frame.fixed.sum())
        if frame.cell.any() and not frame.pbc.any():
            if self._cell_without_pbc[0] == 0:
                self._cell_without_pbc[1] = row
            self._cell_without_pbc[0] += 1

    def manifest(self, columns: Mapping[str, str]) -> Manifest:
        """columns: name → "text" or "number"."""
        atoms = int(self._counts.sum())
        present = np.flatnonzero(self._counts).tolist()
        forces = {chemical_symbols[z]: self._statistics(z) for z in present}
        return Manifest(
            frames=len(self),
            atoms=atoms,
            smallest=self._sizes[0],
            largest=self._sizes[1],
            with_energy=self._with_energy,
            with_stress=self._with_stress,
            fixed_atoms=self._fixed,
            elements={chemical_symbols[z]: int(self._counts[z]) for z in present},
            forces=forces,
            mean_abs_force=float(self._sums[:, 0].sum() / max(3 * atoms, 1)),
            units=self.units,
            sources=self.sources,
            columns=dict(columns),
            skipped_columns=sorted(self.skipped_columns - set(columns))[:NAMED],
            duplicates=self._duplicates(),
            large_forces=self._large_forces(),
            near_atoms=self._near_atoms(),
            unconverged=self._found(
                np.array(self._unconverged, dtype=np.intp),
                lambda _: "the electrons took all the steps they may",
            ),
            remarks=[*self.remarks, *self._own_remarks(present)],
            written_by=f"forcenet-md {forcenet_md.__version__}",
        )

    def _statistics(self, z: int) -> ForceStatistics:
        n = int(self._counts[z])
        absolute, square, largest = self._sums[z].tolist()
        return ForceStatistics(
            atoms=n,
            mean_abs=absolute / (3 * n),
            rms=float(np.sqrt(square / (3 * n))),
            largest=largest,
        )

    def _own_remarks(self, present: list[int]) -> list[str]:
        out = []
        if self.replaced_columns:
            out.append(
                f"columns of the frames are not kept: {', '.join(sorted(self.replaced_columns))}"
                " (a store says under these names what a frame is and where it was read); rename"
                " them in the source to keep them."
            )
        bare = [chemical_symbols[z] for z in present if z not in known_numbers()]
        if bare:
            out.append(
                f"there are no atomic properties for {', '.join(bare)}: a network that reads them"
                " cannot be trained on these frames; use node_features 'embedding', or leave them"
                " out."
            )
        count, first = self._cell_without_pbc
        if count:
            place = self._place(first, "")
            out.append(
                f"{count} frames have a cell without pbc (the first: frame {place.frame} of"
                f" {place.source or 'the store'}): they are molecules in a void; if they are"
                ' crystals, set pbc="T T T" in the source.'
            )
        return out

    def _duplicates(self) -> Found:
        """A frame that is the same as one before it."""
        digests = np.frombuffer(self._digest, dtype=np.uint64)
        order = np.argsort(digests, kind="stable")
        same = np.flatnonzero(digests[order][1:] == digests[order][:-1]) + 1
        first = {}
        for k in same[:NAMED].tolist():  # the run of equal digests is in the order of the rows
            start = np.searchsorted(digests, digests[order[k]], sorter=order)
            first[int(order[k])] = int(order[start])
        named = []
        for row, earlier in sorted(first.items()):
            there = self._place(earlier, "")
            named.append(self._place(row, f"the same as frame {there.frame} of {there.source}"))
        return Found(count=len(same), named=named)

    def _large_forces(self) -> Found:
        forces = np.frombuffer(self._force)
        if len(forces) == 0:
            return Found()
        logs = np.log10(np.maximum(forces, 1e-3))
        middle = np.median(logs)
        spread = max(1.4826 * float(np.median(np.abs(logs - middle))), 0.1)
        limit = min(LARGE_FORCE, float(10 ** min(middle + ROBUST_Z * spread, 300.0)))
        rows = np.flatnonzero(forces > limit)
        rows = rows[np.argsort(-forces[rows], kind="stable")]
        return self._found(rows, lambda row: f"a force of {forces[row]:.4g} eV/Å")

    def _near_atoms(self) -> Found:
        near = np.frombuffer(self._near, dtype=np.float32)
        rows = np.flatnonzero(near < NEAR)
        rows = rows[np.argsort(near[rows], kind="stable")]
        return self._found(
            rows, lambda row: f"two atoms at {near[row]:.2f} times the sum of their radii"
        )

    def _found(self, rows: NDArray[np.intp], what: Any) -> Found:
        named = [self._place(row, what(row)) for row in rows[:NAMED].tolist()]
        return Found(count=len(rows), named=named)

    def _place(self, row: int, what: str) -> Place:
        name = list(self._names)[self._source[row]]
        return Place(row=row, source=name, frame=self._number[row], what=what)


def _digest(frame: Labelled) -> int:
    sha = hashlib.blake2b(digest_size=8)
    sha.update(frame.numbers.astype("<i2").tobytes())
    sha.update(frame.pbc.tobytes())
    for lengths in (frame.cell, frame.positions):
        sha.update(np.rint(lengths / SAME).astype("<i8").tobytes())
    return int.from_bytes(sha.digest(), "little")
