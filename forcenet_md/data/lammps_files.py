"""Files of LAMMPS: dumps, and the data files that `read_data` and `write_data` are about.

https://docs.lammps.org/dump.html, https://docs.lammps.org/read_data.html
"""

from __future__ import annotations

import io
import itertools
import lzma
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers
from ase.io.lammpsrun import read_lammps_dump_text

from forcenet_md.data.source import CUT, CutShort, Options, check_size, open_text
from forcenet_md.errors import DataError

UNIT_STYLES = ("metal", "real", "si", "cgs", "electron", "micro", "nano")  # of LAMMPS
SAME_MASS = 0.1  # amu, by which files round
HEADINGS = ("ITEM: UNITS", "ITEM: TIME\n", "ITEM: TIMESTEP")  # of a dump's frame, in this order


def read_dump(path: Path, options: Options) -> Iterator[Atoms]:
    style = "metal"
    with open_text(path) as file:
        for text in snapshots(file):
            if text[0].startswith("ITEM: UNITS"):  # LAMMPS writes them once, for the whole file
                style = _stated_units(text[1:2], options)
            head = _columns(text, options.max_atoms)
            if "element" not in head and not options.elements:
                raise DataError(
                    "it has types of atoms but no column 'element': name the elements of the types"
                    " in their order with --elements, as Ag,Au,Cu, or dump that column."
                )
            order = None if "element" in head else list(options.elements)
            _check_types(head, text, order)
            atoms = read_lammps_dump_text(
                io.StringIO("".join(text)), index=0, specorder=order, units=style
            )
            yield atoms


def _stated_units(text: list[str], options: Options) -> str:
    style = "".join(text).strip()
    if style not in UNIT_STYLES:
        raise DataError(
            f"it is in LAMMPS's 'units {style}', which has no eV and Å: write it from a run in one"
            f" of {', '.join(UNIT_STYLES)}."
        )
    if options.units_told:
        raise DataError(
            f"it says itself that it is in LAMMPS's 'units {style}', and is converted from them:"
            " leave --units-length and --units-force away."
        )
    return style


def _columns(text: list[str], max_atoms: int) -> list[str]:
    """Of a snapshot that is whole: ASE reads what is left of one that is cut between two atoms."""
    items = {line.split()[1]: k for k, line in enumerate(text) if line.startswith("ITEM: ")}
    if "NUMBER" in items and items["NUMBER"] + 1 < len(text):
        n, atoms = int(text[items["NUMBER"] + 1]), items.get("ATOMS", len(text))
        check_size(n, max_atoms)
        if len(text) == atoms + 1 + n and text[-1].endswith("\n"):
            return text[atoms].split()[2:]
    raise CutShort(CUT)


def _check_types(head: Sequence[str], text: list[str], order: list[str] | None) -> None:
    if order is None:
        return
    first = next(k for k, line in enumerate(text) if line.startswith("ITEM: ATOMS")) + 1
    largest = max(int(line.split()[list(head).index("type")]) for line in text[first:])
    if largest > len(order):
        raise DataError(_unnamed(largest, order))


def _unnamed(kind: int, elements: Sequence[str]) -> str:
    return f"it has an atom of type {kind}, but --elements names {len(elements)}."


def snapshots(file: TextIO) -> Iterator[list[str]]:
    """The lines of each frame of a LAMMPS dump; any may be cut short."""
    lines: list[str] = []
    last = 0
    for line in file:
        before, item, after = line.partition("ITEM:")
        if item:
            if before:  # one that was killed amid a line, and another that went on in the file
                lines.append(before)
                line = item + after
            found = (k for k, start in enumerate(HEADINGS) if line.startswith(start))
            heading = next(found, len(HEADINGS))
            if lines and heading <= last and heading < len(HEADINGS):
                yield lines
                lines = []
            last = heading
        lines.append(line)
    if lines:
        yield lines


def is_data(path: Path) -> bool:
    """Whether it is a data file: below its comment it begins with a number of atoms."""
    try:
        with open_text(path) as file:
            lines = [line.partition("#")[0].strip() for line in itertools.islice(file, 1, 10)]
    except (OSError, EOFError, lzma.LZMAError):
        return False  # whoever reads it will say so
    return re.fullmatch(r"\d+\s+atoms", next(filter(None, lines), "")) is not None


def read_data(path: Path, options: Options) -> Iterator[Atoms]:
    """The one structure of a data file, in units of metal unless its first line names others, as
    that of `write_data` does; periodic on all sides, for the file does not say where it is.

    Elements are those of the options, or of type labels, or those that have the masses.
    """
    with open_text(path) as file:
        text = file.read()
    stated = re.search(r"units = (\w+)", text.partition("\n")[0])
    style = _stated_units([stated[1]], options) if stated else "metal"
    elements = dict(enumerate(options.elements, start=1)) or _labels(text)
    of_types = {kind: atomic_numbers[element] for kind, element in elements.items()}
    try:
        atoms = ase.io.read(
            io.StringIO(text), format="lammps-data", units=style, Z_of_type=of_types or None
        )
    except KeyError as error:
        if not of_types:
            raise
        raise DataError(_unnamed(error.args[0], list(elements.values()))) from None
    assert isinstance(atoms, Atoms)
    check_size(len(atoms), options.max_atoms)
    if not of_types:
        _check_masses(atoms)
    yield atoms


def _labels(text: str) -> dict[int, str]:
    """By type, if all are names of elements: ASE would rather believe masses."""
    section = re.search(r"^\s*Atom Type Labels[^\n]*\n\s*((?:\d+\s+\S+[^\n]*\n\s*)*)", text, re.M)
    lines = section[1].splitlines() if section else []
    labels = {int(kind): label for kind, label, *_ in map(str.split, filter(str.strip, lines))}
    return labels if all(label in atomic_numbers for label in labels.values()) else {}


def _check_masses(atoms: Atoms) -> None:
    """ASE takes the nearest element, and types for atomic numbers where there are no masses."""
    off = np.abs(atoms.get_masses() - atomic_masses[atoms.numbers])
    if not atoms.has("masses"):
        raise DataError(
            "it has types of atoms, but neither masses nor labels that name elements: write it with"
            " a section Masses, or Atom Type Labels."
        )
    if off.max(initial=0.0) > SAME_MASS:
        kind, mass = (atoms.arrays[of][off.argmax()] for of in ("type", "masses"))
        raise DataError(
            f"its type {kind} has a mass of {mass:g}, which is no element's: name the elements in a"
            " section Atom Type Labels."
        )
