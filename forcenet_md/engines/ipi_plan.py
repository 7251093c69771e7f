"""What `forcenet-md ipi` is going to run, decided before anything runs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from ase.data import chemical_symbols
from ase.formula import Formula

from forcenet_md.engines.ipi_checks import check
from forcenet_md.engines.ipi_input import (
    DYNAMICS,
    IpiInput,
    SocketForceField,
    choose,
    read_input,
)
from forcenet_md.engines.ipi_structure import read_structure
from forcenet_md.engines.ipi_xml import entries, femtoseconds
from forcenet_md.errors import RequestError
from forcenet_md.inference.interface import Capabilities, Kind
from forcenet_md.server.ipi import parse_ipi_address
from forcenet_md.server.template import Template, check_template

RAMPS = ("t_ramp", "p_ramp")  # motions that ask for no forces
MOST_SOCKETS = 64  # that are opened unasked


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run. warnings: sentences for the user."""

    ipi: IpiInput
    forcefield: SocketForceField
    address: str
    template: Template
    sockets: int
    warnings: tuple[str, ...]

    @property
    def requests(self) -> int:
        """How many structures a step sends."""
        users = self.ipi.users(self.forcefield)
        return sum(system.requests(self.forcefield.outer) for system in users)

    @property
    def modes(self) -> frozenset[str]:
        """Of all motions of its systems, in i-PI's words."""
        users = self.ipi.users(self.forcefield)
        return frozenset(motion.get("mode", "") for s in users for motion in s.motions)

    @property
    def relaxes(self) -> bool:
        return "minimize" in self.modes

    @property
    def kind(self) -> Kind:
        """What its requests are for: steps of dynamics, or ways to a minimum or along a path,
        which may come from far away. UNKNOWN if some of these and some of those."""
        dynamic = self.modes & frozenset(DYNAMICS)
        if dynamic:
            return Kind.UNKNOWN if self.relaxes else Kind.RUN
        return Kind.MINIMISE

    @property
    def step(self) -> int | None:
        """i-PI's count at its first request, where it asks once a step: of one bead, and in
        dynamics without multiple time stepping. Else None."""
        return None if self._dynamics is None else self.ipi.step

    @property
    def timestep(self) -> float:
        """ps, where i-PI asks once a step; else 0."""
        if self._dynamics is None:
            return 0.0
        return 1e-3 * (femtoseconds(self._dynamics.find("timestep"), self.ipi.path) or 0.0)

    @property
    def _dynamics(self) -> ET.Element | None:
        """What asks once a step."""
        users = self.ipi.users(self.forcefield)
        asking = [m for s in users for m in s.motions if m.get("mode") not in RAMPS]
        if len(asking) != 1 or self.requests != 1 or asking[0].get("mode") not in DYNAMICS:
            return None
        dynamics = asking[0].find(asking[0].get("mode", ""))
        several = dynamics is None or set(entries(dynamics.find("nmts"))) - {"1"}
        return None if several else dynamics

    def describe(self) -> list[str]:
        """The plan in lines."""
        users = self.ipi.users(self.forcefield)
        beads = sorted({system.beads for system in users})
        symbols = [chemical_symbols[n] for n in self.template.numbers]
        atoms = Formula.from_list(symbols).format("hill")
        kinds = dict.fromkeys(_kind(motion) for system in users for motion in system.motions)
        return [
            f"input       {self.ipi.path}: {', '.join(kinds) or 'no motion'},"
            f" steps {self.ipi.step} to {self.ipi.total_steps}",
            f"systems     {len(users)} with {len(self.template.numbers)} atoms ({atoms}),"
            f" {' or '.join(map(str, beads))} {'bead' if beads == [1] else 'beads'}"
            + (", some of them held" if self.template.keep_net_force else ""),
            f"forcefield  {self.forcefield.name} at {self.address}, {self.sockets}"
            f" {'socket' if self.sockets == 1 else 'sockets'}"
            + (f", batches of {b}" if (b := self.forcefield.batch_size) > 1 else ""),
        ]


def make_plan(
    path: Path,
    model: Capabilities,
    template: Path | None = None,
    forcefield: str | None = None,
    sockets: int | None = None,
) -> Plan:
    """Read an input of i-PI, and hold it against what a model can do.

    Raises RequestError for what the model cannot give, DataError and UnknownElementError for what
    cannot be read or served, AddressError for a place that no socket can be at.
    """
    ipi = read_input(path)
    if ipi.step >= ipi.total_steps:
        raise RequestError(
            f"{path} is already at step {ipi.step} of {ipi.total_steps}: raise its <total_steps>"
            " to go on."
        )
    chosen = choose(ipi, forcefield)
    structure = read_structure(ipi, chosen, template)
    findings = check(ipi, chosen, model, len(structure.template.numbers))
    for finding in findings:
        if finding.refused:
            raise RequestError(finding.sentence)
    check_template(structure.template, model, max_atoms=len(structure.template.numbers))
    requests = sum(system.requests(chosen.outer) for system in ipi.users(chosen))
    if sockets is None:
        most = requests if chosen.matching == "lock" else min(requests, MOST_SOCKETS)
        sockets = most if chosen.batch_size == 1 else 1
    elif chosen.matching == "lock" and sockets < requests:
        raise RequestError(
            f"matching='lock' gives every bead a socket of its own: give --sockets {requests}."
        )
    return Plan(
        ipi,
        chosen,
        _address(chosen),
        structure.template,
        sockets,
        (*structure.remarks, *(finding.sentence for finding in findings)),
    )


def _address(forcefield: SocketForceField) -> str:
    """Where i-PI will listen. Raises AddressError."""
    if forcefield.mode == "unix":
        address = f"unix:{Path(forcefield.prefix + forcefield.address).absolute()}"
    else:
        here = forcefield.address in ("", "0.0.0.0", "localhost")
        address = f"tcp:{'127.0.0.1' if here else forcefield.address}:{forcefield.port}"
    return str(parse_ipi_address(address))


def _kind(motion: ET.Element) -> str:
    """A motion in words, as 'dynamics nvt'."""
    mode = motion.get("mode", "")
    if mode in DYNAMICS:
        settings, default = motion.find(mode), "nve"
    elif mode == "minimize":
        settings, default = motion.find("optimizer"), "lbfgs"
    else:
        return mode
    return f"{mode} {default if settings is None else settings.get('mode', default)}"
