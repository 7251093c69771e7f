"""LAMMPS text dumps as snapshots of a run: with steps, times and the images that ASE leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from numpy.typing import NDArray

from forcenet_md.data.lammps_files import snapshots
from forcenet_md.data.source import CUT, CutShort, open_text
from forcenet_md.errors import DataError
from forcenet_md.simulation.snapshot import Array, Snapshot
from forcenet_md.units import UnitStyle, unit_style

# The names of LAMMPS's columns of positions: wrapped or not, in lengths or in parts of the cell.
POSITIONS = (("xu", False), ("xsu", True), ("x", False), ("xs", True))
ELEMENTS_ASKED = (
    "it has types of atoms but no column 'element': name the elements of the types in their order"
    " with --elements, as Ag,Au,Cu, or dump that column."
)


def read_dump(
    path: Path, elements: Sequence[str] = (), units: str | None = None
) -> Iterator[Snapshot | CutShort]:
    """The frames in order; where one is cut short, the fault in its place.

    elements: of the atom types, for dumps without a column 'element'; units: LAMMPS's unit style
    where the file does not state it (metal if not given). Atoms are sorted by id.
    Raises DataError or UnitsError for what cannot be read, with the number of the frame.
    """
    stated = None
    with open_text(path) as file:
        for number, lines in enumerate(snapshots(file)):
            try:
                parts = _parts(lines)
                stated = _stated(parts, units) or stated
                yield _snapshot(parts, elements, unit_style(stated or units or "metal"))
            except CutShort as fault:
                yield CutShort(f"frame {number} of {path}: {fault}")
            except (DataError, ValueError, IndexError, KeyError) as fault:
                why = fault if isinstance(fault, DataError) else f"{fault!r}; the file is damaged."
                raise DataError(f"frame {number} of {path}: {why}") from None


def states_units(path: Path) -> bool:
    """Whether the file begins with its unit style (dump_modify units yes)."""
    with open_text(path) as file:
        return file.readline().startswith("ITEM: UNITS")


def _parts(lines: list[str]) -> dict[str, list[str]]:
    """The lines below each ITEM, and those of the items themselves under '' in order.

    Raises CutShort unless all the atoms are there.
    """
    starts = [k for k, line in enumerate(lines) if line.startswith("ITEM:")]
    ends = [*starts[1:], len(lines)]
    parts = {}
    for start, end in zip(starts, ends, strict=True):
        word = lines[start].split()[1]
        if word in parts:
            raise CutShort(CUT)
        parts[word] = [lines[start], *lines[start + 1 : end]]
    whole = {"TIMESTEP", "NUMBER", "BOX", "ATOMS"} <= parts.keys() and len(parts["NUMBER"]) > 1
    if not whole or len(parts["ATOMS"]) != 1 + int(parts["NUMBER"][1]):
        raise CutShort(CUT)
    if not parts["ATOMS"][-1].endswith("\n"):
        raise CutShort(CUT)
    return parts


def _stated(parts: dict[str, list[str]], told: str | None) -> str | None:
    if "UNITS" not in parts:
        return None
    style = parts["UNITS"][1].strip()
    if told not in (None, style):
        raise DataError(f"it says itself that it is in units {style}: leave --units away.")
    return style


def _snapshot(parts: dict[str, list[str]], elements: Sequence[str], style: UnitStyle) -> Snapshot:
    names = parts["ATOMS"][0].split()[2:]
    table = _table(names, parts["ATOMS"][1:])
    if "id" in names:
        table = table[np.argsort(table["id"], kind="stable")]
    rows, origin, pbc = _box(parts["BOX"])
    numbers = _numbers(table, names, elements)
    positions, unwrapped = _positions(table, names, rows, origin)
    velocities = None
    if {"vx", "vy", "vz"} <= set(names):
        velocities = _three(table, "vx", "vy", "vz") * style.velocity
    masses = table["mass"] * style.mass if "mass" in names else atomic_masses[numbers]
    time = float(parts["TIME"][1]) * style.time if "TIME" in parts else None
    return Snapshot(
        numbers=numbers,
        masses=np.asarray(masses),
        positions=positions * style.length,
        cell=rows * style.length,
        pbc=pbc,
        velocities=velocities,
        step=int(parts["TIMESTEP"][1]),
        time=time,
        unwrapped=unwrapped,
    )


def _table(names: list[str], lines: list[str]) -> NDArray[Any]:
    kinds = {"id": np.dtype(np.int64), "type": np.dtype(np.int64), "element": np.dtype("U3")}
    dtype = np.dtype([(name, kinds.get(name, np.float64)) for name in names])
    return np.loadtxt(lines, dtype=dtype, ndmin=1, comments=None)


def _box(lines: list[str]) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Lattice vectors [3, 3], origin [3] and periodic directions [3].

    See https://docs.lammps.org/Howto_triclinic.html for the bounds of a tilted box.
    """
    words = lines[0].split()[3:]
    values = np.array([line.split() for line in lines[1:4]], dtype=np.float64)
    pbc = np.array([word == "pp" for word in words[-3:]], dtype=bool)
    if "abc" in words:  # a general triclinic box: its vectors and its origin
        return values[:, :3], values[:, 3], pbc
    low, high = values[:, 0], values[:, 1]
    if values.shape[1] == 2:
        return np.diag(high - low), low, pbc
    xy, xz, yz = values[:, 2]
    corners = np.array([0.0, xy, xz, xy + xz])
    low = low - [corners.min(), min(0.0, yz), 0.0]
    high = high - [corners.max(), max(0.0, yz), 0.0]
    rows = np.diag(high - low)
    rows[1, 0], rows[2, 0], rows[2, 1] = xy, xz, yz
    return rows, low, pbc


def _numbers(table: NDArray[Any], names: list[str], elements: Sequence[str]) -> NDArray[np.int64]:
    if "element" in names:
        known = {name: atomic_numbers.get(str(name)) for name in np.unique(table["element"])}
        unknown = sorted(str(name) for name, number in known.items() if number is None)
        if unknown:
            raise DataError(f"it has atoms of {', '.join(unknown)}, which are no elements.")
        return np.array([known[name] for name in table["element"]], dtype=np.int64)
    if "type" not in names or not elements:
        raise DataError(ELEMENTS_ASKED)
    largest = int(table["type"].max())
    if largest > len(elements):
        raise DataError(f"it has an atom of type {largest}, but --elements names {len(elements)}.")
    return np.array([atomic_numbers[e] for e in elements], dtype=np.int64)[table["type"] - 1]


def _positions(
    table: NDArray[Any], names: list[str], rows: Array, origin: Array
) -> tuple[Array, bool]:
    """[n_atoms, 3], and whether they are unwrapped."""
    found = next(((x, scaled) for x, scaled in POSITIONS if x in names), None)
    if found is None:
        raise DataError("it has no positions: dump the columns id element x y z vx vy vz.")
    x, scaled = found
    positions = _three(table, x, x.replace("x", "y", 1), x.replace("x", "z", 1))
    if scaled:
        positions = positions @ rows + origin
    unwrapped = "u" in x
    if not unwrapped and {"ix", "iy", "iz"} <= set(names):
        positions = positions + _three(table, "ix", "iy", "iz") @ rows
        unwrapped = True
    return positions, unwrapped


def _three(table: NDArray[Any], *names: str) -> Array:
    return np.stack([table[name] for name in names], axis=1).astype(np.float64)
