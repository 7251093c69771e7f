"""The structure behind i-PI's positions: its protocol sends no elements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import RequestError, UnknownElementError
from forcenet_md.inference.interface import Capabilities
from forcenet_md.server.lammps import symbols


@dataclass(frozen=True, slots=True)
class Template:
    """What does not change in a run.

    numbers: [n_atoms] atomic numbers, int64
    pbc: [3] bool
    keep_net_force: atoms are held, see `inference.interface.Request`
    """

    numbers: NDArray[np.int64]
    pbc: NDArray[np.bool_]
    keep_net_force: bool = False


def read_template(path: Path) -> Template:
    """The first structure of a file that ASE reads; its positions and cell do not matter.

    i-PI always has a cell, so a file that names no periodic direction is taken as periodic in all.
    Atoms that the file holds (ASE's constraints) keep the net force. Raises DataError.
    """
    from forcenet_md.data.frames import read_frames  # ASE's readers, not for every server

    atoms = read_frames(path)[0]
    pbc = np.array(atoms.pbc, dtype=bool)
    return Template(
        numbers=np.array(atoms.numbers, dtype=np.int64),
        pbc=pbc if pbc.any() else np.ones(3, dtype=bool),
        keep_net_force=bool(atoms.constraints),
    )


def check_template(template: Template, model: Capabilities, max_atoms: int) -> None:
    """Raises UnknownElementError and RequestError where a model cannot serve such a structure."""
    if len(template.numbers) == 0:
        raise RequestError("the template has no atoms: give the structure that i-PI starts from.")
    unknown = frozenset(template.numbers.tolist()) - model.numbers
    if unknown:
        raise UnknownElementError(
            f"the template has {symbols(unknown)}, which the model {model.name} does not know:"
            f" it knows {symbols(model.numbers)}; take a model of all your elements."
        )
    if len(template.numbers) > max_atoms:
        raise RequestError(
            f"the template has {len(template.numbers)} atoms, more than the {max_atoms} that are"
            " served: raise --max-atoms."
        )
