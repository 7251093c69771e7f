"""An input of i-PI and its structure, which run as they stand, from any structure."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import write
from ase.io.formats import filetype
from numpy.typing import NDArray

from forcenet_md.engines.prepared import (
    DAMP,
    Ensemble,
    check_new,
    check_structure,
    in_box,
    timestep,
)
from forcenet_md.errors import AddressError, RequestError
from forcenet_md.inference.interface import Capabilities
from forcenet_md.server.address import TcpAddress, parse_address
from forcenet_md.server.ipi import PREFIX, parse_ipi_address
from forcenet_md.writing import write_texts

VACUUM = 5.0  # Å beyond the cutoff, between periodic images in directions that are open
FAR = 10.0  # Å, the cutoff of a model that does not tell it
FEW_ELEMENTS = 8  # each gets a column with its temperature
LARGE = 1000  # atoms, from which i-PI's minimisers, which diagonalise a matrix of all, are slow
FMAX = 0.02  # eV/Å
# bohr: i-PI's bfgstrm judges longer steps by the energy, and refuses them if there is none
FORCES_ONLY_STEP = 0.049


@dataclass(frozen=True, slots=True)
class IpiPlan:
    """What i-PI is to do.

    name: of the files, without ending; address: where i-PI listens, unix:NAME or tcp:HOST:PORT;
    temperature in K
    """

    name: str
    address: str
    ensemble: Ensemble = "nvt"
    temperature: float = 300.0
    beads: int = 1


def write_ipi_input(
    folder: Path, atoms: Atoms, plan: IpiPlan, capabilities: Capabilities, overwrite: bool = False
) -> tuple[Path, Path, list[str]]:
    """Write NAME-start.xyz and NAME.xml into the folder; returns their paths and remarks.

    Raises UnknownElementError for an element the model lacks, DataError for a structure that
    i-PI cannot hold or a file that is there already, AddressError for an address i-PI cannot have,
    RequestError for a relaxation with beads.
    """
    if plan.beads > 1 and plan.ensemble == "relax":
        raise RequestError("a relaxation has one bead: leave out --beads, or relax first.")
    address = socket_of(plan.address)
    held = check_structure(atoms, capabilities)
    cell = in_ipi_cell(atoms, capabilities.cutoff)
    cell.set_constraint(FixAtoms(held) if len(held) else None)
    structure, xml = folder / f"{plan.name}-start.xyz", folder / f"{plan.name}.xml"
    check_new((structure, xml), overwrite)
    text = io.StringIO()
    write(text, cell, format="extxyz")
    lines = input_lines(cell, held, plan, address, capabilities)
    write_texts({structure: text.getvalue(), xml: "\n".join(lines) + "\n"})
    return structure, xml, list(_remarks(atoms, plan))


def readable_name(name: str) -> str:
    """A name whose extended XYZ files ASE does not take for VASP's, as it does those of POSCAR."""
    return name if filetype(f"{name}.xyz", read=False) == "extxyz" else name.lower()


def socket_of(text: str) -> tuple[str, str, int | None]:
    """Mode, address and port of i-PI's <ffsocket>. Raises AddressError."""
    address = parse_ipi_address(text) if text.startswith("unix:") else parse_address(text)
    if isinstance(address, TcpAddress):
        return "inet", address.host, address.port
    name = str(address.path).removeprefix(PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise AddressError(
            f"i-PI cannot listen at {text}: give unix:NAME, which is its {PREFIX}NAME, with NAME of"
            " letters and digits, or tcp:HOST:PORT."
        )
    return "unix", name, None


def in_ipi_cell(atoms: Atoms, cutoff: float) -> Atoms:
    """A copy as i-PI holds it: periodic, the first cell vector along x, the second in xy.

    Directions that were open get vacuum, so that no atom sees an image of another (cutoff in Å,
    0 if unknown). Raises DataError.
    """
    boxed = in_box(atoms, 0.5 * ((cutoff or FAR) + VACUUM))
    rows, _ = boxed.cell.standard_form()
    cell = np.tril(rows.array)
    positions = boxed.get_scaled_positions(wrap=False) @ cell
    return Atoms(numbers=boxed.numbers, positions=positions, cell=cell, pbc=True)


def input_lines(
    atoms: Atoms,
    held: NDArray[np.int64],
    plan: IpiPlan,
    address: tuple[str, str, int | None],
    capabilities: Capabilities,
) -> list[str]:
    """The input for atoms as `in_ipi_cell` returns them."""
    relax = plan.ensemble == "relax"
    what = "relaxation" if relax else "molecular dynamics at constant volume and temperature"
    beads = f", {plan.beads} beads in one batch" if plan.beads > 1 else ""
    motion = _relaxation(capabilities) if relax else _dynamics(atoms, plan)
    return [
        f"<!-- {atoms.get_chemical_formula()}: {what}{beads} -->",
        "<simulation verbosity='low'>",
        f"  <total_steps> {2000 if relax else 10000} </total_steps>",
        "  <prng> <seed> 4711 </seed> </prng>",
        f"  <output prefix='{plan.name}'>",
        *(_relaxation_output(held) if relax else _dynamics_output(atoms, held, capabilities)),
        "    <!-- to go on from after a crash; a run that ends in good order leaves RESTART -->",
        f"    <checkpoint filename='restart' stride='{100 if relax else 1000}' overwrite='True'/>",
        "  </output>",
        *_socket(address, plan.beads),
        "  <system>",
        f"    <initialize nbeads='{plan.beads}'>",
        f"      <file mode='ase'> {plan.name}-start.xyz </file>",
        *([] if relax else [_velocities(plan.temperature)]),
        "    </initialize>",
        "    <forces> <force forcefield='forcenet'/> </forces>",
        *([] if relax else [_ensemble(plan.temperature)]),
        f"    <motion mode='{'minimize' if relax else 'dynamics'}'>",
        *_held(held),
        *motion,
        "    </motion>",
        "  </system>",
        "</simulation>",
    ]


def _dynamics_output(
    atoms: Atoms, held: NDArray[np.int64], capabilities: Capabilities
) -> Iterator[str]:
    elements = sorted(set(np.delete(atoms.get_chemical_symbols(), held)))
    columns = ["step", "time{picosecond}", "temperature{kelvin}"]
    if 1 < len(elements) <= FEW_ELEMENTS:
        columns += [f"temperature({element}){{kelvin}}" for element in elements]
    if capabilities.energy:
        columns += ["potential{electronvolt}", "conserved{electronvolt}"]
    if capabilities.stress:
        columns += ["pressure_md{bar}"]
    yield "    <properties filename='out' stride='100'>"
    for k in range(0, len(columns), 3):
        start, end = "[" if k == 0 else " ", "," if k + 3 < len(columns) else " ]"
        yield f"      {start} {', '.join(columns[k : k + 3])}{end}"
    yield "    </properties>"
    yield "    <trajectory filename='pos' stride='100' format='ase'> positions{ase} </trajectory>"


def _relaxation_output(held: NDArray[np.int64]) -> Iterator[str]:
    yield "    <!-- every step: the last frame is the minimum -->"
    yield "    <trajectory filename='pos' stride='1' format='ase'> positions{ase} </trajectory>"
    if len(held):  # the server's word of the largest force includes theirs
        yield "    <trajectory filename='for' stride='1' format='ase'> forces{ase} </trajectory>"
    else:
        yield "    <!-- the largest force on an atom, in eV/Å -->"
        yield (
            "    <trajectory filename='fmax' stride='1' extra_type='largest_force'> extras"
            " </trajectory>"
        )


def _socket(address: tuple[str, str, int | None], beads: int) -> list[str]:
    mode, where, port = address
    return [
        f"  <ffsocket name='forcenet' mode='{mode}' pbc='False'>",
        f"    <address> {where} </address>",
        *([f"    <port> {port} </port>"] if port is not None else []),
        *([f"    <batch_size> {beads} </batch_size>"] if beads > 1 else []),
        # until all beads are queued; one has nothing to wait for
        f"    <latency> {'2e-3' if beads > 1 else '1e-4'} </latency>",
        "    <timeout> 600 </timeout>  <!-- s until a server that hangs is given up -->",
        "    <exit_on_disconnect> True </exit_on_disconnect>  <!-- the server has ended: leave a"
        " RESTART -->",
        "  </ffsocket>",
    ]


def _velocities(temperature: float) -> str:
    # atoms start where they have no potential energy: half of the kinetic energy becomes that
    return f"      <velocities mode='thermal' units='kelvin'> {2 * temperature:g} </velocities>"


def _ensemble(temperature: float) -> str:
    return f"    <ensemble> <temperature units='kelvin'> {temperature:g} </temperature> </ensemble>"


def _held(held: NDArray[np.int64]) -> Iterator[str]:
    """The held atoms, counted from 0; the centre of mass is free then."""
    if not len(held):
        return
    yield "      <fixcom> False </fixcom>"
    yield f"      <fixatoms shape='({len(held)})'>"
    for k in range(0, len(held), 12):
        start, end = "[" if k == 0 else " ", "," if k + 12 < len(held) else " ]"
        yield f"        {start} {', '.join(map(str, held[k : k + 12]))}{end}"
    yield "      </fixatoms>"


def _dynamics(atoms: Atoms, plan: IpiPlan) -> list[str]:
    thermostat = "pile_l" if plan.beads > 1 else "langevin"
    return [
        "      <dynamics mode='nvt'>",
        f"        <timestep units='femtosecond'> {1000 * timestep(atoms):g} </timestep>",
        f"        <thermostat mode='{thermostat}'> <tau units='femtosecond'> {1000 * DAMP:g} </tau>"
        " </thermostat>",
        "      </dynamics>",
    ]


def _relaxation(capabilities: Capabilities) -> list[str]:
    step = f"{FORCES_ONLY_STEP:g}"
    forces_only = [
        "        <!-- bohr, of all coordinates: longer steps are judged by the energy -->",
        f"        <biggest_step> {step} </biggest_step>",
        f"        <tr_trm shape='(1)'> [ {step} ] </tr_trm>",
    ]
    return [
        f"      <optimizer mode='{'lbfgs' if capabilities.energy else 'bfgstrm'}'>",
        *([] if capabilities.energy else forces_only),
        "        <tolerances>",
        "          <energy units='electronvolt'> 1e-3 </energy>",
        f"          <force units='ev/ang'> {FMAX:g} </force>",
        "          <position units='angstrom'> 0.01 </position>",
        "        </tolerances>",
        "      </optimizer>",
    ]


def _remarks(atoms: Atoms, plan: IpiPlan) -> Iterator[str]:
    if not atoms.pbc.all():
        yield "i-PI is periodic in every direction: there is vacuum where the structure was open"
    if plan.ensemble == "relax" and len(atoms) > LARGE:
        yield (
            f"i-PI's minimiser diagonalises a matrix of 3×{len(atoms)} rows in every step: LAMMPS"
            " relaxes so many atoms sooner (prepare --for lammps)"
        )
