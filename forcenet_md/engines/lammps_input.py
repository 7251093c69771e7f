"""A LAMMPS data file and a script that run as they stand, from any structure."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.lammpsdata import write_lammps_data
from numpy.typing import NDArray

from forcenet_md.engines.prepared import (
    DAMP,
    Ensemble,
    check_new,
    check_structure,
    in_box,
    timestep,
)
from forcenet_md.errors import DataError
from forcenet_md.inference.interface import Capabilities
from forcenet_md.writing import write_texts

# Room around the atoms in directions that are not periodic, Å; the box follows the atoms.
MARGIN = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What the script is to do.

    name: of the files, without ending; model: as given to `forcenet-md serve --model`;
    address: of the server; temperature in K
    """

    name: str
    model: str
    address: str
    ensemble: Ensemble = "nvt"
    temperature: float = 300.0


def write_lammps_input(
    folder: Path, atoms: Atoms, plan: Plan, capabilities: Capabilities, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write NAME.data and NAME.in into the folder; returns their paths.

    Raises UnknownElementError for an element the model lacks, DataError for a structure that
    LAMMPS cannot hold, an address it cannot read or a file that is there already.
    """
    if not re.fullmatch(r"[!%(-~]+", plan.address):
        raise DataError(
            f"the address {plan.address} has a character that a LAMMPS script cannot carry in a"
            " variable: listen at a path of letters and digits, without spaces and quotes."
        )
    held = check_structure(atoms, capabilities)
    elements = sorted(set(atoms.get_chemical_symbols()))
    boxed = in_box(atoms, MARGIN)
    data, script = folder / f"{plan.name}.data", folder / f"{plan.name}.in"
    check_new((data, script), overwrite)
    text = io.StringIO()
    write_lammps_data(text, boxed, specorder=elements, masses=True)
    commands = script_text(boxed, elements, held, plan, capabilities)
    write_texts({data: text.getvalue(), script: commands})
    return data, script


def script_text(
    atoms: Atoms,
    elements: list[str],
    held: NDArray[np.int64],
    plan: Plan,
    capabilities: Capabilities,
) -> str:
    """The script for atoms as `in_box` returns them."""
    relax = plan.ensemble == "relax"
    lines = [
        f"# {atoms.get_chemical_formula()}: "
        + ("relaxation" if relax else "molecular dynamics at constant volume and temperature"),
        "#",
        f"#   forcenet-md serve --model {shlex.quote(plan.model)} --listen {plan.address}",
        f"#   lmp -in {plan.name}.in",
        "#",
        "# Values can be set on the command line: -var steps 100",
        "",
        f"variable address index {plan.address}",
        *_variables(plan),
        "",
        "units metal",
        "atom_style atomic",
        "atom_modify sort 0 0",
        f"boundary {' '.join('p' if p else 's' for p in atoms.pbc)}",
        "comm_modify cutoff 8.0",
        *(["box tilt large"] if _is_skewed(atoms) else []),
        f"read_data {plan.name}.data",
        "",
        "# one element for each atom type, in their order",
        "fix ext all external pf/callback 1 1",
        f"forcenet ext ${{address}} elements {' '.join(elements)}",
        "",
    ]
    if len(held):
        lines += [
            "# held in the structure file; after fix external, whose forces this replaces",
            *(f"group held id {ids}" for ids in _id_ranges(held + 1)),
            "group moving subtract all held",
            "fix hold held setforce 0.0 0.0 0.0",
            "",
        ]
    own = len(held) > 0 and not relax  # a temperature of what moves alone
    thermo = [*(["pe"] if capabilities.energy else []), *(["press"] if capabilities.stress else [])]
    moving = "moving" if len(held) else "all"
    body = _relax(plan) if relax else _dynamics(atoms, plan, moving, len(atoms) - len(held))
    dump = "id element x y z fx fy fz" if relax else "id element x y z vx vy vz"
    lines += [
        *(["compute temperature moving temp"] if own else []),
        f"thermo_style custom step {' '.join(['fmax' if relax else 'time temp', *thermo, 'cpu'])}",
        # after thermo_style, which forgets it
        *(["thermo_modify temp temperature"] if own else []),
        f"thermo {10 if relax else 100}",
        f"dump trajectory all custom {10 if relax else 100} {plan.name}.dump {dump}",
        f"dump_modify trajectory sort id element {' '.join(elements)}",
        "",
        *body,
        f"write_data {plan.name}-end.data nocoeff",
    ]
    return "\n".join(lines) + "\n"


def _variables(plan: Plan) -> list[str]:
    if plan.ensemble == "relax":
        return ["variable fmax index 0.02  # eV/Å", "variable steps index 2000"]
    return [
        f"variable temperature index {plan.temperature:g}  # K",
        "variable steps index 10000",
        "variable seed index 4711",
    ]


def _dynamics(atoms: Atoms, plan: Plan, moving: str, n_moving: int) -> list[str]:
    create = f"velocity {moving} create $(2.0*v_temperature) ${{seed}} dist gaussian loop geom"
    return [
        # an atom alone has no temperature that LAMMPS could scale to: the thermostat moves it
        *([create] if n_moving > 1 else []),
        f"timestep {timestep(atoms):g}",
        f"fix move {moving} nve",
        f"fix bath {moving} langevin ${{temperature}} ${{temperature}} {DAMP:g} ${{seed}}",
        "run ${steps}",
    ]


def _relax(plan: Plan) -> list[str]:
    return [
        "# by forces alone: the energy tolerance must be 0.0",
        "min_style fire",
        "min_modify norm inf",
        "timestep 0.001",
        "minimize 0.0 ${fmax} ${steps} $(2*v_steps)",
    ]


def _is_skewed(atoms: Atoms) -> bool:
    lengths, angles = atoms.cell.lengths(), atoms.cell.angles()
    return bool((np.abs(np.cos(np.radians(angles))) * lengths.max() > 1e-9).any())


def _id_ranges(ids: NDArray[np.int64]) -> Iterator[str]:
    """Ascending ids as LAMMPS writes them, 1:20 25, at most ten ranges to a line."""
    ends = np.flatnonzero(np.diff(ids) > 1)
    starts = ids[np.append(0, ends + 1)]
    stops = ids[np.append(ends, len(ids) - 1)]
    words = [f"{a}:{b}" if b > a else f"{a}" for a, b in zip(starts, stops, strict=True)]
    for k in range(0, len(words), 10):
        yield " ".join(words[k : k + 10])
