"""The LAMMPS codec: HELLO and STEP become checked settings and Systems, Forces become FORCES.

Everything that is LAMMPS's habit (unit styles, types, order of the virial) ends here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from forcenet_md.errors import RequestError, UnknownElementError
from forcenet_md.inference.interface import Capabilities, Moment
from forcenet_md.server.protocol import (
    Buffer,
    StepFrame,
    decode_step,
    decode_text,
    encode_forces,
    encode_text,
)
from forcenet_md.system import Forces, System
from forcenet_md.units import UnitStyle, unit_style

MASS_TOLERANCE = 0.5  # amu


@dataclass(frozen=True, slots=True)
class Settings:
    """What a HELLO said, checked. numbers [n_types] are the atomic numbers of types 1, 2, …

    masses: [n_types] amu, or None where each atom has one of its own
    spread: it takes the spread of a committee
    """

    engine: str
    units: UnitStyle
    numbers: NDArray[np.int64]
    n_atoms: int
    group: str
    held: bool
    need: frozenset[str]
    masses: NDArray[np.float64] | None = None
    spread: bool = False

    @property
    def keep_net_force(self) -> bool:
        """With held atoms, or atoms that do not feel the forces, the net force is physical."""
        return self.held or self.group != "all"

    def describe(self) -> str:
        """Who is there, for the log."""
        return f"{self.engine[:80]}: {self.n_atoms} atoms of {symbols(set(self.numbers))}"


@dataclass(frozen=True, slots=True)
class Step:
    """One request in our units; step: the engine's."""

    step: int
    system: System
    moment: Moment


def symbols(numbers: Iterable[int]) -> str:
    """Chemical symbols in alphabetical order, separated by spaces."""
    return " ".join(sorted(chemical_symbols[z] for z in numbers))


def read_hello(payload: Buffer, model: Capabilities, max_atoms: int) -> Settings:
    """The settings of a HELLO.

    Raises UnitsError, UnknownElementError, RequestError or ProtocolError: the sentence says what
    the engine must change.
    """
    lines = decode_text(payload)

    def value(key: str) -> str:
        if key not in lines:
            raise RequestError(f"the engine did not say {key!r} in its HELLO.")
        return lines[key][0]

    units = unit_style(value("units"))
    elements = value("elements").split()
    numbers = _atomic_numbers(elements, model)
    masses = _read_masses(value("masses").split(), elements, units)
    if value("mass_check") != "off" and masses is not None:
        _check_masses(elements, masses)
    n_atoms = value("atoms")
    if not (n_atoms.isascii() and n_atoms.isdecimal()) or len(n_atoms) > 18:
        raise RequestError(f"{n_atoms!r} is not a number of atoms.")
    check_size(int(n_atoms), max_atoms)
    need = frozenset(lines.get("need", [""])[0].split())
    _check_need(need, model)
    return Settings(
        engine=value("engine"),
        units=units,
        numbers=numbers,
        n_atoms=int(n_atoms),
        group=value("group"),
        held=value("held") != "no",
        need=need,
        masses=masses,
        spread=lines.get("spread", [""])[0] == "yes",
    )


def check_size(n_atoms: int, max_atoms: int) -> None:
    """Raises RequestError for more atoms than this server takes."""
    if n_atoms > max_atoms:
        raise RequestError(
            f"{n_atoms} atoms are more than this server takes ({max_atoms}):"
            " start it with a larger --max-atoms."
        )


def _atomic_numbers(elements: list[str], model: Capabilities) -> NDArray[np.int64]:
    if not elements:
        raise RequestError("no elements were given: name one per atom type.")
    for type_, element in enumerate(elements, start=1):
        number = atomic_numbers.get(element, 0)
        if number == 0:
            raise UnknownElementError(
                f"{element!r} (atom type {type_}) is not a chemical element:"
                " give symbols such as Cu, one per atom type."
            )
        if number not in model.numbers:
            raise UnknownElementError(
                f"the model {model.name} does not know {element} (atom type {type_}):"
                f" it knows {symbols(model.numbers)}; take a model of all your elements."
            )
    return np.array([atomic_numbers[e] for e in elements], dtype=np.int64)


def _read_masses(
    texts: list[str], elements: list[str], units: UnitStyle
) -> NDArray[np.float64] | None:
    if texts == ["none"]:
        return None
    if len(texts) != len(elements):
        raise RequestError(f"{len(elements)} elements but {len(texts)} masses were given.")
    masses = []
    for type_, text in enumerate(texts, start=1):
        try:
            masses.append(float(text) * units.mass)
        except ValueError:
            raise RequestError(f"the mass {text!r} of atom type {type_} is not a number.") from None
    return np.array(masses)


def _check_masses(elements: list[str], masses: NDArray[np.float64]) -> None:
    for type_, (element, mass) in enumerate(zip(elements, masses, strict=True), start=1):
        expected = atomic_masses[atomic_numbers[element]]
        if not abs(mass - expected) <= MASS_TOLERANCE:
            raise RequestError(
                f"atom type {type_} has mass {mass:.4g} amu but {element} has {expected:.4g}:"
                " put the elements in the order of the atom types, or turn the check off"
                " (mass_check no)."
            )


def _check_need(need: frozenset[str], model: Capabilities) -> None:
    has = {"energy": model.energy, "virial": model.stress}
    missing = sorted(what for what in need if not has.get(what, False))
    if missing:
        raise RequestError(
            f"the model {model.name} gives no {' and no '.join(missing)}, which this simulation"
            " needs: use a model that does, or a run at fixed volume with fix nve and fix langevin,"
            " or min_style fire with etol 0."
        )


def welcome(model: Capabilities, spread: bool = False) -> bytes:
    """The payload of WELCOME; spread: the client takes that of a committee."""

    def yes(flag: bool) -> str:
        return "yes" if flag else "no"

    return encode_text(
        ("model", model.name),
        ("sha256", model.sha256 or "none"),
        ("energy", yes(model.energy)),
        ("virial", yes(model.stress)),
        ("conservative", yes(model.conservative)),
        ("velocities", yes(model.velocities or model.velocities_welcome)),
        ("cutoff", str(float(model.cutoff))),
        ("elements", symbols(model.numbers)),
        *([("spread", "yes")] if spread and model.spread else []),
        *(("warning", warning) for warning in model.warnings),
    )


def read_step(
    payload: Buffer,
    settings: Settings,
    model: Capabilities,
    max_atoms: int,
    stream: int = 0,
    client: int = 0,
) -> Step:
    """The request of a STEP payload; arrays are views of it where units allow. stream, client: see
    `interface.Moment`.

    Raises ProtocolError (not a STEP), RequestError (refused), StructureError (not finite).
    """
    frame = decode_step(payload)
    check_size(len(frame.ids), max_atoms)
    _check_atoms(frame, len(settings.numbers))
    if model.velocities and frame.velocities is None:
        raise RequestError(f"the model {model.name} needs velocities and the STEP has none.")
    units = settings.units
    with np.errstate(all="ignore"):  # what overflows is refused as not finite
        system = System.make(
            _scaled(frame.positions, units.length),
            settings.numbers[frame.types - 1],
            frame.cell * units.length,
            frame.periodic,
        )
    velocities = frame.velocities
    moment = Moment(
        stream=stream,
        client=client,
        step=frame.step,
        kind=frame.kind,
        timestep=frame.timestep * units.time,
        velocities=None if velocities is None else _scaled(velocities, units.velocity),
        masses=None if settings.masses is None else settings.masses[frame.types - 1],
        ids=frame.ids,
    )
    return Step(frame.step, system, moment)


def _check_atoms(frame: StepFrame, n_types: int) -> None:
    if len(frame.ids) == 0:
        raise RequestError("the request has no atoms.")
    if not (frame.ids[1:] > frame.ids[:-1]).all():
        raise RequestError("the atom ids of a request do not ascend.")
    check_types(frame.types, n_types)


def check_types(types: NDArray[np.int32] | NDArray[np.int64], n_types: int) -> None:
    """Raises RequestError for an atom type without an element."""
    outside = types[(types < 1) | (types > n_types)]
    if len(outside):
        raise RequestError(
            f"an atom has type {outside[0]}, but elements were named for types 1 to {n_types}:"
            " name one element per atom type."
        )


def _scaled(values: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    return values if factor == 1.0 else values * factor


def write_forces(step: int, system: System, forces: Forces, settings: Settings) -> memoryview:
    """The whole FORCES message in the engine's units.

    The virial is W = −stress · volume in the order xx yy zz xy xz yz. Raises RequestError if the
    engine needs an energy or virial that this answer lacks, or a number is too large for it.
    """
    units = settings.units
    energy = None if forces.energy is None else forces.energy / units.energy
    virial = spread = None
    with np.errstate(all="ignore"):
        f = _scaled(forces.forces, 1.0 / units.force)
        if settings.spread and forces.force_spread is not None:
            spread = _scaled(forces.force_spread, 1.0 / units.force)
        if forces.stress is not None:
            w = -forces.stress * (abs(np.linalg.det(system.cell)) / units.energy)
            virial = np.array([w[0, 0], w[1, 1], w[2, 2], w[0, 1], w[0, 2], w[1, 2]])
    for values in (energy, virial, f, spread):
        if values is not None and not np.isfinite(values).all():
            raise RequestError(
                f"energy, virial or forces are too large for units {units.name}: the simulation"
                " has failed; use a smaller timestep or a relaxed starting structure."
            )
    for what, given in (("energy", energy), ("virial", virial)):
        if what in settings.need and given is None:
            raise RequestError(f"the model gave no {what} for this structure, which the run needs.")
    return encode_forces(step, energy, virial, f, spread)
