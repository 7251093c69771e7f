"""Teachers: what labels structures with energies and forces.

LAMMPS potentials by a snippet of commands, evaluated with `run 0` and read by atom id; ASE
calculators by name; model files. Forces are never gathered during dynamics: `fix langevin` adds
its noise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.data import atomic_numbers

from forcenet_md.artifact.find import SHIPPED, model_path
from forcenet_md.calculators.register import (
    Chosen,
    Registered,
    choose,
    known,
    options_of,
    split,
)
from forcenet_md.data.eam import metals, write_setfl
from forcenet_md.data.frames import with_labels
from forcenet_md.data.lammps_box import LammpsBox
from forcenet_md.data.lammps_files import UNIT_STYLES
from forcenet_md.errors import DataError, ForceNetError

ZHOU = "zhou2004"


class Teacher(Protocol):
    """Labels structures one by one."""

    name: str

    def label(self, atoms: Atoms) -> Atoms:
        """A copy with forces (eV/Å) and, where the teacher has them, energy (eV) and stress.

        Raises DataError."""


class AseTeacher:
    """An ASE calculator as `choose` finds it, or by its name."""

    def __init__(self, chosen: Chosen | str) -> None:
        found = choose(chosen) if isinstance(chosen, str) else chosen
        if found is None:
            raise DataError(
                f"the ASE calculator {chosen!r} is not registered: {', '.join(known())}."
            )
        self._chosen = found
        self.name = self._chosen.name
        self._calculator = self._chosen.make()

    def label(self, atoms: Atoms) -> Atoms:
        self._check_periodic(atoms)
        # Neighbour lists and first guesses of the structure before would show in the last digits.
        reset = getattr(self._calculator, "reset", None)
        if reset is not None:
            reset()
        work = atoms.copy()
        work.calc = self._calculator
        try:
            forces = np.array(work.get_forces(apply_constraint=False), dtype=float)
        except NotImplementedError as error:
            raise DataError(
                f"teacher '{self.name}' cannot label {work.get_chemical_formula()}: {error}."
            ) from error
        try:
            energy = float(work.get_potential_energy())
        except PropertyNotImplementedError:  # a network of forces alone
            energy = None
        if getattr(self._calculator, "converged", None) is False:
            raise DataError(
                f"teacher '{self.name}' did not converge; give it more steps or leave it out."
            )
        out = with_labels(atoms, energy, forces)
        stress = getattr(self._calculator, "results", {}).get("stress")
        if stress is not None and atoms.pbc.all():
            out.calc.results["stress"] = np.array(stress, dtype=float)
        return out

    def _check_periodic(self, atoms: Atoms) -> None:
        """Some calculators silently take a structure as periodic in every direction."""
        takes = self._chosen.entry.periodic
        whole = atoms.pbc.all() or (takes == "all or none" and not atoms.pbc.any())
        if takes != "any" and not whole:
            raise DataError(
                f"teacher '{self.name}' takes a structure as periodic in every direction"
                f"{' or in none' if takes == 'all or none' else ''}: give it a cell with enough"
                ' vacuum and pbc="T T T".'
            )


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
    """A teacher: NAME[,key=value…] of a registered ASE calculator, zhou2004, a model file (.pt) or
    shipped model, module:function of one's own, or a file with LAMMPS commands.

    elements: order of the atom types of a LAMMPS teacher. Raises DataError for an unknown one.
    """
    found = find_teacher(spec)
    if isinstance(found, Chosen):
        yield AseTeacher(found)
    elif found is None:
        chosen = list(elements) or list(metals())
        with tempfile.TemporaryDirectory(prefix="forcenet-eam-") as folder:
            table = write_setfl(chosen, Path(folder) / "zhou2004.eam.alloy")
            snippet = f"pair_style eam/alloy\npair_coeff * * {table} {{elements}}"
            yield from _closing(LammpsTeacher(ZHOU, snippet, chosen))
    else:
        yield from _closing(LammpsTeacher(found.name, read_snippet(found), elements))


def find_teacher(spec: str | Path) -> Chosen | Path | None:
    """What a specification names: a calculator, the file of a LAMMPS snippet, or None for
    zhou2004. Raises DataError."""
    spec = str(spec)
    name, settings = split(spec)
    if spec == ZHOU:
        return None
    if spec not in known() and Path(spec).is_file() and not spec.endswith(".pt"):
        return Path(spec)
    if name.endswith(".pt") or (SHIPPED / f"{name}.pt").is_file():
        parameters = {"dtype": "float64", "trust": False}
        path = _model_file(name)
        entry = Registered(partial(_forcenet, path), parameters, packages=("torch",))
        return Chosen(path, entry, options_of(name, entry, settings))
    chosen = choose(spec)
    if chosen is None:
        raise DataError(
            f"there is no teacher '{spec}': use {ZHOU} or an ASE calculator"
            f" ({', '.join(known())}, with options as lj,sigma=2.2), module:function of your own,"
            " a model file, or the path of a file with LAMMPS commands (pair_style, pair_coeff)."
        )
    return chosen


def _forcenet(path: str, dtype: str = "float64", trust: bool = False) -> Calculator:
    """A model file, to teach a smaller one; forces only, where it has no energy."""
    from forcenet_md.engines.ase_calculator import ForceNetCalculator

    return ForceNetCalculator(path, dtype=dtype, trust=trust, threads=1, guard="off")


def _model_file(name: str) -> str:
    """The path of a model. Raises DataError when there is none."""
    try:
        path = model_path(name)
    except ForceNetError as error:
        raise DataError(str(error)) from None
    if not path.is_file():
        raise DataError(f"there is no model file {path}: give the path of an m.pt.")
    return str(path)


def read_snippet(path: Path) -> str:
    """LAMMPS commands. Raises DataError."""
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
