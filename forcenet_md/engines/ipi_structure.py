"""The elements of i-PI's atoms, from the files its input starts from: its sockets send none."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from forcenet_md.data.frames import read_frames
from forcenet_md.engines.ipi_input import (
    IpiInput,
    IpiSystem,
    SocketForceField,
)
from forcenet_md.engines.ipi_xml import attribute, entries, parse_xml, text_of
from forcenet_md.errors import DataError
from forcenet_md.server.template import Template, read_template

ISOTOPES = {"D": 1, "T": 1}


@dataclass(frozen=True, slots=True)
class Structure:
    """What is served, and what the user should hear of how it was read."""

    template: Template
    remarks: tuple[str, ...] = ()


def read_structure(ipi: IpiInput, forcefield: SocketForceField, template: Path | None) -> Structure:
    """The atoms a forcefield is asked about; from a template file if one is given.

    i-PI's cells are periodic in all directions; a template says otherwise if it has to be.
    Raises DataError where an element or a file is missing, or systems differ.
    """
    systems = ipi.users(forcefield)
    held = any(system.holds_atoms for system in systems)
    if template is not None:
        read = read_template(template)
        remarks = tuple(_disagreement(systems, read.numbers, template))
        numbers, pbc = read.numbers, read.pbc
        held |= read.keep_net_force
    else:
        labels = [_labels(system) for system in systems]
        each = [_numbers(found.names, ipi.path) for found in labels]
        if any(not np.array_equal(one, each[0]) for one in each):
            raise DataError(
                f"the systems of {ipi.path} that use {forcefield.outer!r} differ in their elements,"
                " and i-PI does not say which one it asks about: give each kind its own"
                " <ffsocket>."
            )
        numbers, pbc = each[0], np.ones(3, dtype=bool)
        remarks = tuple(dict.fromkeys(note for found in labels for note in found.remarks))
    if forcefield.active is not None:
        if max(forcefield.active) >= len(numbers):
            raise DataError(
                f"the <activelist> of {forcefield.name!r} names atom {max(forcefield.active)}, but"
                f" there are {len(numbers)}: i-PI counts them from 0."
            )
        if template is None or len(numbers) != len(forcefield.active):
            numbers = numbers[list(forcefield.active)]
        held = True  # it is not all of the system: its net force is real
    return Structure(Template(numbers, pbc, held), remarks)


def _disagreement(systems: list[IpiSystem], numbers: np.ndarray, template: Path) -> Iterator[str]:
    """A template in another order would give wrong forces without a word."""
    for system in systems:
        try:
            own = _numbers(_labels(system).names, system.source)
        except DataError:  # it is given because the input's own labels are no elements
            continue
        if len(own) == len(numbers) and (own != numbers).any():
            k = int(np.argmax(own != numbers))
            yield (
                f"atom {k + 1} is {chemical_symbols[numbers[k]]} in {template} but"
                f" {chemical_symbols[own[k]]} in {system.source}: forces are computed for the"
                f" elements of {template}, in its order"
            )
            return


@dataclass(slots=True)
class _Labels:
    names: list[str]
    remarks: list[str]


def _labels(system: IpiSystem) -> _Labels:
    """The labels of a system in the order in which i-PI fills them in."""
    found = _Labels(entries(system.element.find("beads/names")), [])
    for item in system.element.findall("initialize/*"):
        if item.tag == "file" or (item.tag == "labels" and item.get("mode") != "manual"):
            names = list(_file_labels(item, system.source, found.remarks))
        elif item.tag == "labels":
            names = entries(item) or [text_of(item)]
        else:
            continue
        index = attribute(item, "index", int, -1, system.source)
        if 0 <= index < len(found.names):
            found.names[index] = names[0]
        else:
            found.names = names * len(found.names) if found.names and len(names) == 1 else names
    if not found.names:
        raise DataError(
            f"{system.source} does not say which elements its atoms are: start from a <file> or"
            " give --template FILE."
        )
    return found


def _file_labels(item: ET.Element, source: Path, remarks: list[str]) -> Iterator[str]:
    path, mode = Path(text_of(item)), item.get("mode", "chk").strip()
    if not path.exists():
        raise DataError(
            f"{source} starts from the structure {path}, which is not there: i-PI takes it"
            " relative to the current folder, so run from the folder where it is."
        )
    if mode == "chk":
        names = parse_xml(path).find("system/beads/names")
        if names is None:
            raise DataError(f"{path} has no atoms: give a RESTART or checkpoint file of i-PI.")
        yield from entries(names)
    elif mode == "ase":
        atoms = read_frames(path)[0]
        if atoms.pbc.any() and not atoms.pbc.all():
            remarks.append(
                f"{path} is not periodic in every direction, but i-PI's cells are: give"
                f" --template {path} to keep its boundaries, here and with every RESTART"
            )
        yield from atoms.symbols
    elif mode in ("xyz", "pdb"):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            yield from _xyz_labels(lines) if mode == "xyz" else _pdb_labels(lines)
        except OSError as error:
            raise DataError(
                f"the structure {path} cannot be read ({error.strerror}): i-PI takes it relative to"
                " the current folder."
            ) from None
        except (ValueError, IndexError):
            raise DataError(
                f"{path} is not of the format that mode={mode!r} says: give its own, or"
                " mode='ase' for all that ASE reads."
            ) from None
        if (
            mode == "xyz"
            and item.tag == "file"
            and not item.get("units")
            and "positions{" not in lines[1]
        ):
            remarks.append(
                f"i-PI reads the positions of {path} in bohr, as nothing says otherwise: write"
                " units='angstrom' if they are in Å"
            )
    else:
        raise DataError(f"i-PI has no mode {mode!r} for {path}: it has xyz, pdb, ase and chk.")


def _xyz_labels(lines: list[str]) -> list[str]:
    count = int(lines[0])
    names = [line.split()[0] for line in lines[2 : 2 + count]]
    if count < 1 or len(names) != count:
        raise ValueError
    return names


def _pdb_labels(lines: list[str]) -> list[str]:
    """Of i-PI's own reader: an optional title, the cell, then atoms up to END."""
    names = []
    for line in lines[2 if "TITLE" in lines[0] else 1 :]:
        if line.strip() in ("", "END"):
            break
        names.append(line[12:16].strip())
    if not names or "CRYST1" not in lines[1 if "TITLE" in lines[0] else 0]:
        raise ValueError
    return names


def _numbers(labels: list[str], path: Path) -> np.ndarray:
    """Atomic numbers of i-PI's labels; isotopes (D, C13) are their element."""
    numbers = []
    for k, label in enumerate(labels):
        parts = re.fullmatch(r"([A-Z][a-z]?)[0-9_]*", label)
        symbol = parts[1] if parts else ""
        number = ISOTOPES.get(symbol) or atomic_numbers.get(symbol, 0)
        if not number:
            raise DataError(
                f"the label {label!r} of atom {k + 1} of {path} is no element: name the elements"
                " with --template FILE."
            )
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)
