"""i-PI's input, read before the run: which sockets it opens, and what its systems do with forces.

Names, defaults and units are those of i-PI 3 (its package `ipi.inputs`); a RESTART file has the
same format. What i-PI itself checks well when it starts is left to it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from forcenet_md.engines.ipi_xml import (
    attribute,
    entries,
    numbers_of,
    parse_xml,
    value,
)
from forcenet_md.errors import DataError

PREFIX = "/tmp/ipi_"
UNUSED = "__DUMMY__"  # i-PI's name for what a RESTART has to have
DYNAMICS = ("dynamics", "driven_dynamics", "constrained_dynamics")


@dataclass(frozen=True, slots=True)
class SocketForceField:
    """One <ffsocket>.

    outer: the name that systems know it by: that of the forcefield it is part of, if any
    prefix: what i-PI puts before the address of a unix socket
    active: the atoms it is asked about (from 0), None for all
    latency, timeout: s; a timeout of 0 is none
    """

    name: str
    outer: str
    prefix: str
    mode: str
    address: str
    port: int
    batch_size: int
    matching: str
    latency: float
    timeout: float
    active: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Component:
    """One <force> of a system. share: what of it is in the total force, over all time levels."""

    forcefield: str
    share: float
    beads: int


class IpiSystem:
    """One <system>, with what a force server must know of it."""

    def __init__(self, element: ET.Element, source: Path) -> None:
        self.element = element
        self.source = source

    @cached_property
    def beads(self) -> int:
        inline = attribute(self.element.find("beads"), "nbeads", int, 0, self.source)
        return inline or attribute(self.element.find("initialize"), "nbeads", int, 1, self.source)

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """Its forces and its biases."""
        forces = self.element.findall("forces/force") + self.element.findall("ensemble/bias/force")
        return tuple(self._component(force) for force in forces)

    def _component(self, force: ET.Element) -> Component:
        levels = force.find("mts_weights")
        weights = [] if levels is None else numbers_of(levels, self.source)
        weight = attribute(force, "weight", float, 1.0, self.source)
        beads = attribute(force, "nbeads", int, 0, self.source)
        return Component(force.get("forcefield", "").strip(), weight * sum(weights or [1.0]), beads)

    def share(self, forcefield: str) -> float:
        """How much of a forcefield is in the total force.

        Zero for the fast force of a multiple time stepping that is taken out again at the outer
        level: then neither its energy nor its virial counts.
        """
        return sum(c.share for c in self.components if c.forcefield == forcefield)

    def requests(self, forcefield: str) -> int:
        """How many structures a step sends to a forcefield."""
        return sum(c.beads or self.beads for c in self.components if c.forcefield == forcefield)

    @cached_property
    def motions(self) -> tuple[ET.Element, ...]:
        """Its <motion>s, those of a 'multi' one by one."""
        outer = self.element.findall("motion")
        return tuple(
            inner
            for motion in outer
            for inner in (motion.findall("motion") if motion.get("mode") == "multi" else [motion])
        )

    @property
    def holds_atoms(self) -> bool:
        return any(
            held.get("mode") == "file" or entries(held)
            for motion in self.motions
            for held in motion.findall("fixatoms") + motion.findall("fixatoms_dof")
        )


@dataclass(frozen=True, slots=True)
class IpiInput:
    """What one input file asks for. others: the tags of the forcefields that are not sockets."""

    path: Path
    simulation: ET.Element
    step: int
    total_steps: int
    forcefields: tuple[SocketForceField, ...]
    others: tuple[str, ...]
    systems: tuple[IpiSystem, ...]

    def users(self, forcefield: SocketForceField) -> list[IpiSystem]:
        """The systems whose forces it is part of."""
        return [
            s for s in self.systems if any(c.forcefield == forcefield.outer for c in s.components)
        ]


def read_input(path: Path) -> IpiInput:
    """Raises DataError for a file that is missing, not XML, or without a system and a socket."""
    simulation = parse_xml(path)
    forcefields = tuple(_forcefields(simulation, path))
    others = tuple(
        dict.fromkeys(e.tag for e in simulation if e.tag.startswith("ff") and e.tag != "ffsocket")
    )
    if not forcefields:
        found = f" (it has {', '.join(others)})" if others else ""
        raise DataError(
            f"{path} has no <ffsocket>{found}: give i-PI one, it is where forces are served."
        )
    systems = tuple(IpiSystem(element, path) for element in _systems(simulation, path))
    if not systems:
        raise DataError(f"{path} has no <system>: give an input that i-PI runs.")
    return IpiInput(
        path=path,
        simulation=simulation,
        step=value(simulation, "step", int, 0, path),
        total_steps=value(simulation, "total_steps", int, 1000, path),
        forcefields=forcefields,
        others=others,
        systems=systems,
    )


def choose(ipi: IpiInput, name: str | None) -> SocketForceField:
    """The forcefield to serve: the one of that name, or the only one. Raises DataError."""
    names = ", ".join(f.name for f in ipi.forcefields)
    if name is None:
        if len(ipi.forcefields) > 1:
            raise DataError(
                f"{ipi.path} has several <ffsocket>s ({names}): say which one this model serves"
                " with --forcefield NAME."
            )
        chosen = ipi.forcefields[0]
    else:
        named = [f for f in ipi.forcefields if f.name == name]
        if not named:
            raise DataError(f"{ipi.path} has no <ffsocket> named {name!r}: its names are {names}.")
        chosen = named[0]
    if not ipi.users(chosen):
        raise DataError(
            f"no <system> of {ipi.path} uses the forcefield {chosen.outer!r}: write <force"
            f" forcefield='{chosen.outer}'> in its <forces>."
        )
    return chosen


def _forcefields(simulation: ET.Element, path: Path) -> Iterator[SocketForceField]:
    prefix = simulation.get("sockets_prefix", PREFIX).strip()
    for element in simulation:
        name = element.get("name", "").strip()
        if element.tag == "ffsocket":
            yield _forcefield(element, name, prefix, path)
        elif element.tag.startswith("ff"):
            for inner in element.iter("ffsocket"):
                if inner.get("name") != UNUSED:
                    yield _forcefield(inner, name, PREFIX, path)  # i-PI hands its own on to none


def _forcefield(element: ET.Element, outer: str, prefix: str, path: Path) -> SocketForceField:
    chosen = element.find("activelist")
    active = [int(n) for n in numbers_of(chosen, path)] if chosen is not None else []
    return SocketForceField(
        name=element.get("name", "").strip(),
        outer=outer,
        prefix=prefix,
        mode=element.get("mode", "inet").strip(),
        address=value(element, "address", str, "localhost", path),
        port=value(element, "port", int, 65535, path),
        batch_size=value(element, "batch_size", int, 1, path),
        matching=element.get("matching", "auto").strip(),
        latency=value(element, "latency", float, 1e-4, path),
        timeout=value(element, "timeout", float, 0.0, path),
        active=tuple(active) if active and active[0] >= 0 else None,
    )


def _systems(simulation: ET.Element, path: Path) -> Iterator[ET.Element]:
    for element in simulation:
        if element.tag == "system":
            yield element
        elif element.tag == "system_template":
            yield from _instances(element, path)


def _instances(element: ET.Element, path: Path) -> Iterator[ET.Element]:
    """The systems of a <system_template>: its labels replaced, the longest ones first."""
    template = element.find("template")
    labels = entries(element.find("labels"))
    if template is None or len(template) != 1:
        raise DataError(f"{path}: a <system_template> needs one <system> in its <template>.")
    text = ET.tostring(template[0], encoding="unicode")
    for instance in element.findall("instance"):
        filled = text
        for label, word in sorted(zip(labels, entries(instance), strict=False), reverse=True):
            filled = filled.replace(label, word)
        try:
            yield ET.fromstring(filled)
        except ET.ParseError as error:
            raise DataError(
                f"{path}: a <system_template> is not XML any more when its labels are replaced"
                f" ({error}): choose labels that occur nowhere else."
            ) from None
