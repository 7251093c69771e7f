"""The frames of a run from the files that it left, one after another, whatever wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase import units as u
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import atomic_numbers, chemical_symbols

from forcenet_md.data.reading import DUMP, read_source
from forcenet_md.data.source import ANY_SIZE, CutShort, open_text
from forcenet_md.errors import DataError
from forcenet_md.simulation.dumps import read_dump, states_units
from forcenet_md.simulation.h5md_reader import read_h5md
from forcenet_md.simulation.snapshot import Snapshot, Unwrapper
from forcenet_md.units import unit_style

PS = 1000.0 * u.fs  # in ASE's unit of time
FAR = 0.35  # parts of the cell between two frames: half a cell is where images are mistaken
HDF5 = (".h5", ".hdf5", ".h5md")
TIMESTEP_ASKED = (
    "the frames of {path} tell no time, which {what} needs: give --timestep PS, the time of one"
    " step (of one frame where a file counts no steps)."
)


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read.

    elements: of the atom types, for dumps without a column 'element'
    units: LAMMPS's unit style, for dumps that do not state theirs
    timestep: ps of one step, or of one frame where a file counts no steps; for files without times
    begins: ps; what is before is left out
    every: of the frames after that, one of so many is taken
    """

    elements: tuple[str, ...] = ()
    units: str | None = None
    timestep: float | None = None
    begins: float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.elements if name not in atomic_numbers]
        if unknown:
            raise DataError(f"--elements names {unknown[0]!r}, which is no element.")
        if self.units is not None:
            unit_style(self.units)
        if self.timestep is not None and not self.timestep > 0.0:
            raise DataError(f"a timestep of {self.timestep:g} ps is no time: give one above 0.")
        if self.every < 1:
            raise DataError(f"every {self.every} frames is none: give 1 or more.")


class Trajectory:
    """The frames of one run, from one file or several in the order of time, with unwrapped
    positions.

    A frame that a file repeats from the one before (as a restart writes it) is taken once; one that
    is cut short is left out. `remarks` says what was left out or assumed, once it has been read.
    Raises DataError while it is read: no frames, other atoms, files out of order.
    """

    def __init__(self, paths: Sequence[Path], reading: Reading | None = None) -> None:
        if not paths:
            raise DataError("there is no trajectory to read: give a file.")
        self.paths = list(paths)
        self.reading = reading or Reading()
        self.remarks: list[str] = []
        self._unstated: set[Path] = set()

    def __iter__(self) -> Iterator[Snapshot]:
        self.remarks.clear()
        self._unstated.clear()
        reading, unwrapped = self.reading, Unwrapper()
        taken = 0
        try:
            for k, snapshot in enumerate(self._from()):
                positions = unwrapped(snapshot)
                if k % reading.every == 0:
                    taken += 1
                    yield replace(snapshot, positions=positions, unwrapped=True)
        finally:
            self._remark_on(unwrapped)
        if not taken:
            names = " and ".join(str(path) for path in self.paths)
            after = "" if reading.begins is None else f" from {reading.begins:g} ps on"
            raise DataError(f"{names} has no whole frame{after}: there is nothing to analyse.")

    def elements(self) -> list[str]:
        """By atomic number, of the first frame; reads no further."""
        first = next((each for path in self.paths for each in self._whole(path)), None)
        self.remarks.clear()
        return [] if first is None else [chemical_symbols[z] for z in np.unique(first.numbers)]

    def _from(self) -> Iterator[Snapshot]:
        begins = self.reading.begins
        for snapshot in self._timed():
            if begins is not None:
                if snapshot.time is None:
                    path = self.paths[0]
                    raise DataError(TIMESTEP_ASKED.format(path=path, what="--from"))
                if snapshot.time < begins - 1e-9:
                    continue
            yield snapshot

    def _timed(self) -> Iterator[Snapshot]:
        step = self.reading.timestep
        for k, snapshot in enumerate(self._in_order()):
            if snapshot.time is None and step is not None:
                count = k if snapshot.step is None else snapshot.step
                snapshot = replace(snapshot, time=count * step)
            yield snapshot

    def _in_order(self) -> Iterator[Snapshot]:
        """Of two files that overlap the later one counts, as of a run that was begun again."""
        first: Snapshot | None = None
        ends = self._ends()
        last = -np.inf
        for path, end in zip(self.paths, ends, strict=True):
            found = left_out = 0
            for snapshot in self._whole(path):
                found += 1
                first = first or snapshot
                if not np.array_equal(snapshot.numbers, first.numbers):
                    raise DataError(
                        f"{path} has other atoms than the frames before: give the files of one run."
                    )
                now = _key(snapshot)
                if now is not None:
                    if now <= last or now >= end:
                        left_out += 1
                        continue
                    last = now
                yield snapshot
            if found > 1 and left_out == found:
                raise DataError(
                    f"{path} has no frame before those of the files after it: give the files of"
                    " one run in the order of time, counted on from one to the next."
                )
            if left_out > 1:
                self._remark(f"{left_out} frames of {path} were run again and are left out.")

    def _ends(self) -> list[float]:
        """For each file where a later one begins: a step or a time."""
        ends = [np.inf]
        remarks = list(self.remarks)
        for path in self.paths[:0:-1]:
            first = next(self._whole(path), None)
            begins = None if first is None else _key(first)
            ends.append(min(ends[-1], np.inf if begins is None else begins))
        self.remarks[:] = remarks
        return ends[::-1]

    def _whole(self, path: Path) -> Iterator[Snapshot]:
        for snapshot in self._read(path):
            if isinstance(snapshot, CutShort):
                self._remark(f"{_place(snapshot)} is cut short and left out.")
            else:
                yield snapshot

    def _read(self, path: Path) -> Iterator[Snapshot | CutShort]:
        if not path.is_file():
            what = f"{path} is no file" if path.exists() else f"there is no file {path}"
            raise DataError(f"{what}: give the path of a trajectory.")
        if path.suffix in HDF5:
            yield from read_h5md(path, self._remark)
        elif path.suffix in DUMP or _starts_as_dump(path):
            if self.reading.units is None and not states_units(path):
                self._unstated.add(path)
            yield from read_dump(path, self.reading.elements, self.reading.units)
        else:
            yield from _read_by_ase(path)

    def _remark_on(self, unwrapped: Unwrapper) -> None:
        if self._unstated:
            first, *more = (path for path in self.paths if path in self._unstated)
            files = f"{first} and {len(more)} more" if more else str(first)
            self._remark(
                f"{files}: units are not stated, and taken as LAMMPS's 'units metal' (--units)."
            )
        if unwrapped.farthest > FAR:
            self._remark(
                f"Between two frames an atom moved by {unwrapped.farthest:.2f} of the cell: frames"
                " that far apart cannot be unwrapped surely, so displacements and diffusion may be"
                " wrong; write frames more often (a LAMMPS dump may have xu yu zu)."
            )
        if unwrapped.cell_changes:
            self._remark("The cell changes: displacements follow the nearest images in it.")

    def _remark(self, sentence: str) -> None:
        if sentence not in self.remarks:
            self.remarks.append(sentence)


def _starts_as_dump(path: Path) -> bool:
    try:
        with open_text(path) as file:
            return file.read(5) == "ITEM:"
    except (OSError, EOFError):
        return False


def _read_by_ase(path: Path) -> Iterator[Snapshot | CutShort]:
    """Extended XYZ, also that of i-PI with format='ase', and what else holds positions in Å."""
    try:
        for k, atoms in enumerate(read_source(path, ANY_SIZE)):
            if k == 0 and len(atoms) > 1 and not atoms.positions.any():
                raise DataError(
                    f"{path} holds no positions: of i-PI give a trajectory of positions{{ase}}."
                )
            yield _of_atoms(atoms)
    except CutShort as fault:
        yield fault


def _of_atoms(atoms: Atoms) -> Snapshot:
    velocities = atoms.get_velocities() * PS if atoms.has("momenta") else None
    energy = None
    if atoms.calc is not None:
        try:
            energy = float(atoms.get_potential_energy())
        except (PropertyNotImplementedError, RuntimeError):
            energy = None
    return Snapshot(
        numbers=atoms.numbers.astype(np.int64),
        masses=atoms.get_masses(),
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        velocities=velocities,
        energy=energy,
        step=_step(atoms),
    )


def _step(atoms: Atoms) -> int | None:
    """i-PI's count from its comment, or a column `step`."""
    found = re.search(r"Step:\s*(\d+)", str(atoms.info.get("ipi_comment", "")))
    if found:
        return int(found[1])
    step = atoms.info.get("step")
    return int(step) if isinstance(step, int | np.integer) else None


def _key(snapshot: Snapshot) -> float | None:
    """What frames are put in order by: their step; a minimisation before a run has no times."""
    return snapshot.time if snapshot.step is None else snapshot.step


def _place(fault: CutShort) -> str:
    """'frame 7 of run.dump' of its sentence, as one begins it."""
    place = str(fault).split(": ")[0]
    return place[0].upper() + place[1:]
