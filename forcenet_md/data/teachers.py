"""Teachers: what labels structures with energies and forces.

LAMMPS potentials by a snippet of commands, evaluated with `run 0` and read by atom id; ASE
calculators by name. Forces are never gathered during dynamics: `fix langevin` adds its noise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.data import atomic_numbers

from forcenet_md.data.eam import metals, write_setfl
from forcenet_md.data.frames import with_labels
from forcenet_md.data.lammps_box import LammpsBox
from forcenet_md.errors import DataError

ZHOU = "zhou2004"
ASE_TEACHERS = ("emt", "lj")
TEACHERS = (ZHOU, *ASE_TEACHERS)
UNIT_STYLES = ("metal", "real", "si", "cgs", "electron", "micro", "nano")


class Teacher(Protocol):
    """Labels structures one by one."""

    name: str

    def label(self, atoms: Atoms) -> Atoms:
        """A copy with energy (eV) and forces (eV/Å). Raises DataError."""


class AseTeacher:
    """An ASE calculator by name: emt (ASE's effective medium) or lj (Lennard-Jones)."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self._calculator: Any = {"emt": EMT, "lj": LennardJones}[name](**options)

    def label(self, atoms: Atoms) -> Atoms:
        work = atoms.copy()
        work.calc = self._calculator
        try:
            return with_labels(atoms, work.get_potential_energy(), work.get_forces())
        except NotImplementedError as error:
            raise DataError(
                f"teacher '{self.name}' cannot label {work.get_chemical_formula()}: {error}."
            ) from error


class LammpsTeacher:
    """A LAMMPS potential.

    snippet: commands that define the forces; `{elements}` stands for the elements in the order
        of the atom types; a line `units STYLE` sets the units (metal if there is none)
    elements: element of each type
    """

    def __init__(self, name: str, snippet: str, elements: Sequence[str]) -> None:
        if not elements:
            raise DataError("a LAMMPS teacher needs the elements of its atom types: --elements.")
        for element in elements:
            if element not in atomic_numbers or element == "X":
                raise DataError(f"'{element}' is no element: give --elements as Ag,Au,Cu.")
        self.name = name
        self.elements = list(elements)
        lines = [line.strip() for line in snippet.splitlines()]
        units = [line.split()[1:2] for line in lines if line.split()[:1] == ["units"]]
        self.units = "".join(units[0]) if units else "metal"
        if self.units not in UNIT_STYLES:
            raise DataError(
                f"the teacher {name} has 'units {self.units}', which has no eV and Å: use one of"
                f" {', '.join(UNIT_STYLES)}."
            )
        kept = [
            line for line in lines if line.split()[:1] not in ([], ["units"]) and line[0] != "#"
        ]
        self.snippet = "\n".join(kept).replace("{elements}", " ".join(self.elements))
        self._box: LammpsBox | None = None

    @property
    def box(self) -> LammpsBox:
        """The LAMMPS instance of this process, started when first needed."""
        if self._box is None:
            self._box = LammpsBox(self.snippet, self.elements, self.units)
        return self._box

    def label(self, atoms: Atoms) -> Atoms:
        self.box.load(atoms)
        self.box.commands("run 0 post no")
        return with_labels(atoms, self.box.energy(), self.box.forces())

    def close(self) -> None:
        if self._box is not None:
            self._box.close()
            self._box = None


@contextmanager
def open_teacher(spec: str | Path, elements: Sequence[str] = ()) -> Iterator[Teacher]:
    """The teacher of a name (zhou2004, emt, lj) or of a file with LAMMPS commands.

    elements: order of the atom types of a LAMMPS teacher. Raises DataError for an unknown one.
    """
    if str(spec) in ASE_TEACHERS:
        yield AseTeacher(str(spec))
    elif str(spec) == ZHOU:
        chosen = list(elements) or list(metals())
        with tempfile.TemporaryDirectory(prefix="forcenet-eam-") as folder:
            table = write_setfl(chosen, Path(folder) / "zhou2004.eam.alloy")
            snippet = f"pair_style eam/alloy\npair_coeff * * {table} {{elements}}"
            yield from _closing(LammpsTeacher(ZHOU, snippet, chosen))
    elif Path(spec).is_file():
        snippet = _text(Path(spec))
        yield from _closing(LammpsTeacher(Path(spec).name, snippet, elements))
    else:
        raise DataError(
            f"there is no teacher '{spec}': use one of {', '.join(TEACHERS)}, or the path"
            " of a file with LAMMPS commands (pair_style, pair_coeff)."
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"the teacher {path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise DataError(
            f"the teacher {path} is no text: give a file with LAMMPS commands (pair_style,"
            " pair_coeff), not a table or a model."
        ) from None


def _closing(teacher: LammpsTeacher) -> Iterator[LammpsTeacher]:
    try:
        yield teacher
    finally:
        teacher.close()
