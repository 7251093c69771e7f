"""What a model cannot give to an i-PI run, found before the run.

i-PI's protocol has an energy and a virial in every answer, so a model without them sends zeros, and
i-PI goes on with them: line searches that do not move, cells of the wrong volume, exchanges that
are all accepted. From i-PI 3.3, `ipi.engine.motion`: what reads `forces.pot` or `forces.vir`.

Only the part of a forcefield that is in the total force counts (`IpiSystem.share`). Where it is
not zero, an energy that other forcefields bring does not help: the sum would lack this part.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

from forcenet_md.engines.ipi_input import (
    DYNAMICS,
    IpiInput,
    IpiSystem,
    SocketForceField,
)
from forcenet_md.engines.ipi_xml import entries, femtoseconds, is_true
from forcenet_md.inference.interface import Capabilities

LINE_SEARCHES = ("sd", "cg", "bfgs", "lbfgs")
NEED_ENERGY = {  # why, and what works
    "neb": ("compares the energies of its images", "use a model with an energy"),
    "string": ("compares the energies of its images", "use a model with an energy"),
    "instanton": ("weighs the energies along its path", "use a model with an energy"),
    "atomswap": ("accepts swaps by their energy", "leave it out, or use a model with an energy"),
    "al-kmc": ("needs the energies of its barriers", "use a model with an energy"),
    "normalmodes": (
        "maps the energy along the modes",
        "write mode='vibrations', which needs forces alone",
    ),
}
CONSTANT_PRESSURE = ("npt", "nst", "scnpt")
GLOBAL_THERMOSTATS = {"svr": "langevin", "pile_g": "pile_l", "nm_gle_g": "nm_gle"}  # what is local
LONGEST_TAU = 200.0  # fs
SHORT_TIMEOUT = 10.0  # s
ENERGY_COLUMNS = ("potential", "conserved", "pot_", "bead_potentials", "ensemble_lp", "ti_")
VIRIAL_COLUMNS = ("pressure_", "stress_", "virial_md", "virial_cv", "vir_")
MANY_ATOMS = 1000
SLOW_LATENCY = 1e-3  # s


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence; refused: the run would be wrong or hang, otherwise it is a warning."""

    refused: bool
    sentence: str


def check(
    ipi: IpiInput, forcefield: SocketForceField, model: Capabilities, n_atoms: int
) -> list[Finding]:
    """All that is wrong or doubtful with serving a forcefield by a model, each once."""
    findings = list(_socket(ipi, forcefield, n_atoms))
    counted = [s for s in ipi.users(forcefield) if abs(s.share(forcefield.outer)) > 1e-9]
    for system in counted:
        if not model.energy:
            findings += _without_energy(system, model.name)
        if not model.stress:
            findings += _without_virial(system, model.name)
        if not model.conservative:
            findings += _not_conservative(system, model.name)
    for system in ipi.users(forcefield):
        findings += _exchanges(system)
    if counted:
        findings += _replicas(ipi, model)
        findings += _columns(ipi, model)
    return list(dict.fromkeys(findings))


def _socket(ipi: IpiInput, forcefield: SocketForceField, n_atoms: int) -> Iterator[Finding]:
    requests = sum(system.requests(forcefield.outer) for system in ipi.users(forcefield))
    name, batch = forcefield.name, forcefield.batch_size
    if forcefield.mode == "shm":
        yield Finding(
            True, f"the <ffsocket> {name!r} has mode='shm', which is not served: write mode='unix'."
        )
    elif forcefield.mode not in ("unix", "inet"):
        yield Finding(
            True,
            f"the <ffsocket> {name!r} has mode={forcefield.mode!r}, which i-PI does not know:"
            " write mode='unix'.",
        )
    if batch > 1 and forcefield.matching == "lock":
        yield Finding(
            True,
            f"the <ffsocket> {name!r} has a <batch_size> and matching='lock', which i-PI cannot"
            " do together: leave out matching.",
        )
    if batch > max(requests, 1):
        yield Finding(
            False,
            f"<batch_size> {batch} is more than the {requests} structures of a step: i-PI fills"
            " the batch with copies that take time",
        )
    others = [f.name for f in ipi.forcefields if f != forcefield and ipi.users(f)]
    if others:
        yield Finding(
            False,
            f"not served here: {', '.join(others)}; give i-PI a driver for each, as with"
            " `forcenet-md serve --ipi` in another terminal, or it waits for ever",
        )
    if 0 < forcefield.timeout < SHORT_TIMEOUT:
        yield Finding(
            False,
            f"<timeout> {forcefield.timeout:g} s: i-PI drops the server when a step takes longer;"
            " 0 waits as long as it takes",
        )
    many = requests >= 4 and batch == 1 and n_atoms >= MANY_ATOMS
    if many and forcefield.latency < SLOW_LATENCY:
        yield Finding(
            False,
            f"with {requests} structures of {n_atoms} atoms a step, i-PI hands out the late ones a"
            f" round later: write <latency> 2e-3 </latency> or <batch_size> {requests}"
            " </batch_size>",
        )


def _without_energy(system: IpiSystem, model: str) -> Iterator[Finding]:
    for motion in system.motions:
        mode = motion.get("mode", "")
        search = _mode_of(motion.find("optimizer"), "lbfgs")
        if mode == "minimize" and search in LINE_SEARCHES:
            yield Finding(
                True,
                f"i-PI's minimize with <optimizer mode='{search}'> searches along lines by the"
                f" energy, which the model {model} does not have: write <optimizer mode='bfgstrm'>"
                " or 'damped_bfgs'.",
            )
        elif mode in NEED_ENERGY:
            why, remedy = NEED_ENERGY[mode]
            yield Finding(
                True,
                f"i-PI's motion mode='{mode}' {why}, which the model {model} does not have:"
                f" {remedy}.",
            )


def _without_virial(system: IpiSystem, model: str) -> Iterator[Finding]:
    for dynamics in _dynamics(system):
        mode = _mode_of(dynamics, "nve")
        if mode in CONSTANT_PRESSURE:
            constant = "sc" if mode == "scnpt" else "nvt"
            yield Finding(
                True,
                f"i-PI's dynamics mode='{mode}' moves the cell by the virial, which the model"
                f" {model} does not have: write mode='{constant}', at constant volume.",
            )


def _not_conservative(system: IpiSystem, model: str) -> Iterator[Finding]:
    for dynamics in _dynamics(system):
        thermostats = _thermostats(dynamics)
        if "nve" in _mode_of(dynamics, "nve") or not thermostats:
            yield Finding(
                False,
                f"the forces of {model} are not the gradient of an energy, so without a thermostat"
                " the system heats up without bound: use mode='nvt' with a langevin thermostat of"
                " tau 100 femtosecond, or multiple time stepping with a conservative force outside",
            )
        modes = [_mode_of(thermostat, "") for thermostat in thermostats]
        if modes and all(mode in GLOBAL_THERMOSTATS for mode in modes):
            yield Finding(
                False,
                f"the thermostat '{modes[0]}' acts on all atoms as one: with forces that are not a"
                f" gradient ({model}) the elements get different temperatures; use"
                f" '{GLOBAL_THERMOSTATS[modes[0]]}'",
            )
        taus = [femtoseconds(thermostat.find("tau"), system.source) for thermostat in thermostats]
        known = [tau for tau in taus if tau]
        if known and len(known) == len(taus) and min(known) > LONGEST_TAU:
            yield Finding(
                False,
                f"a thermostat with tau {min(known):.4g} fs is too weak for forces that are not a"
                f" gradient ({model}), the system will be too hot: use 100 femtosecond",
            )


def _exchanges(system: IpiSystem) -> Iterator[Finding]:
    """i-PI's alchemy exchanges labels; elements are not in its messages."""
    for motion in system.motions:
        names = entries(motion.find("alchemy/names"))
        kinds = {"H" if name in ("D", "T") else name.rstrip("0123456789_") for name in names}
        if motion.get("mode") == "alchemy" and len(kinds) > 1:
            yield Finding(
                True,
                f"i-PI's alchemy exchanges {', '.join(sorted(kinds))}, but its messages do not say"
                " which element an atom is: exchange isotopes only, or use 'atomswap'.",
            )


def _replicas(ipi: IpiInput, model: Capabilities) -> Iterator[Finding]:
    if model.energy:
        return
    for smotion in ipi.simulation.iter("smotion"):
        if smotion.get("mode") == "remd":
            yield Finding(
                True,
                f"i-PI's replica exchange accepts by the energy, which the model {model.name} does"
                " not have: leave out <smotion mode='remd'> and run the replicas apart.",
            )
        if smotion.get("mode") == "metad" and is_true(smotion.find("metad/use_energy")):
            yield Finding(
                True,
                "i-PI's metadynamics with use_energy needs the energy, which the model"
                f" {model.name} does not have: leave out <use_energy>.",
            )


def _columns(ipi: IpiInput, model: Capabilities) -> Iterator[Finding]:
    """Outputs that are written all the same, without a meaning."""
    columns = [
        word.partition("{")[0].partition("(")[0]
        for properties in ipi.simulation.findall("output/properties")
        for word in entries(properties)
    ]
    for has, starts, what in (
        (model.energy, ENERGY_COLUMNS, "energy"),
        (model.stress, VIRIAL_COLUMNS, "virial"),
    ):
        empty = dict.fromkeys(column for column in columns if column.startswith(starts))
        if empty and not has:
            yield Finding(
                False,
                f"the model {model.name} has no {what}: what i-PI writes as {', '.join(empty)} has"
                " no meaning",
            )


def _dynamics(system: IpiSystem) -> Iterator[ET.Element]:
    for motion in system.motions:
        mode = motion.get("mode", "")
        if mode in DYNAMICS:
            settings = motion.find(mode)
            yield ET.Element(mode) if settings is None else settings


def _thermostats(dynamics: ET.Element) -> list[ET.Element]:
    """Those of the atoms, the parts of a 'multi' one by one."""
    return [
        thermostat
        for outer in dynamics.findall("thermostat")
        for thermostat in (outer.findall("thermostat") if outer.get("mode") == "multi" else [outer])
        if thermostat.get("mode", "")
    ]


def _mode_of(element: ET.Element | None, default: str) -> str:
    return default if element is None else element.get("mode", default).strip()
