"""ASE calculators as evaluators: slow, but with energy and virial.

With them every route can be tested against an exact reference, and teachers can be served.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators import emt, lj
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.data import atomic_numbers, chemical_symbols

from forcenet_md.errors import EvaluationError, ForceNetError, ModelFileError
from forcenet_md.graph.capacity import check_capacity
from forcenet_md.graph.frame import Frame, Placement
from forcenet_md.inference.interface import Capabilities, Request, Timings
from forcenet_md.system import Forces, System

MAX_PAIRS = 10_000_000  # a neighbour list of ASE takes about a hundred bytes for each
SKIN = 0.6  # Å that ASE's lists reach beyond the cutoff


@dataclass(frozen=True, slots=True)
class Registered:
    """A calculator that can be served; cutoff is that of its neighbour list, in Å."""

    make: Callable[..., Calculator]
    parameters: dict[str, Any]
    numbers: frozenset[int]
    cutoff: Callable[[Calculator], float]


REGISTER = {
    "emt": Registered(
        make=emt.EMT,
        parameters=emt.EMT.default_parameters,
        numbers=frozenset(atomic_numbers[symbol] for symbol in emt.parameters),
        cutoff=lambda _: 6.0,
    ),
    "lj": Registered(
        make=lj.LennardJones,
        parameters=lj.LennardJones.default_parameters,
        numbers=frozenset(range(1, len(chemical_symbols))),
        cutoff=lambda calculator: calculator.parameters.rc,
    ),
}


class AseSession:
    """A calculator and its atoms, kept so that its neighbour list is kept."""

    def __init__(self, calculator: Calculator) -> None:
        self.calculator = calculator
        self.atoms = Atoms()

    def atoms_of(self, system: System) -> Atoms:
        same = np.array_equal(self.atoms.numbers, system.numbers)
        if not same or (self.atoms.pbc != system.pbc).any():
            self.calculator.reset()
            self.atoms = Atoms(numbers=system.numbers, pbc=system.pbc, calculator=self.calculator)
        self.atoms.positions = system.positions
        self.atoms.cell[:] = system.cell
        return self.atoms


class AseEvaluator:
    """The calculator `ase:NAME[,key=value…]`, one instance per session."""

    def __init__(self, spec: str) -> None:
        """Raises ModelFileError for an unknown name or parameter."""
        self._entry, self._parameters = _parse(spec)
        try:
            calculator = self._entry.make(**self._parameters)
            self._cutoff = float(self._entry.cutoff(calculator))
        except Exception as error:
            raise ModelFileError(f"{spec} cannot be made: {error}.") from None
        if not 0.0 < self._cutoff < 100.0:
            raise ModelFileError(f"{spec} has a cutoff of {self._cutoff:g} Å: use one below 100 Å.")
        self.timings = Timings()
        self.capabilities = Capabilities(
            name=spec,
            numbers=self._entry.numbers,
            cutoff=self._cutoff,
            energy=True,
            stress=True,
            conservative=True,
        )

    def new_session(self) -> AseSession:
        return AseSession(self._entry.make(**self._parameters))

    def warm_up(self) -> None:
        """Nothing to prepare but the import of ASE's parts."""
        number = 29 if 29 in self.capabilities.numbers else min(self.capabilities.numbers)
        pair = System.make(np.array([[0, 0, 0], [0, 0, 2.5]]), [number] * 2, 20 * np.eye(3), True)
        self.evaluate([Request(self.new_session(), pair)])

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        """One after the other: a calculator knows no batches."""
        start = perf_counter()
        answers = [self._answer(request) for request in requests]
        self.timings = Timings(network=perf_counter() - start)
        return answers

    def _answer(self, request: Request) -> Forces | ForceNetError:
        session = request.session
        assert isinstance(session, AseSession)
        try:
            _check_pairs(request.system, self._cutoff)
            with np.errstate(all="ignore"):  # infinities are found below
                return _forces(session.atoms_of(request.system), request.want_stress)
        except ForceNetError as error:
            return error
        except MemoryError:
            session.atoms = Atoms()
            return EvaluationError(
                f"the calculator ran out of memory with {request.system.n_atoms} atoms:"
                " simulate fewer."
            )
        except Exception as error:
            session.atoms = Atoms()  # what the fault left behind is not used again
            return EvaluationError(f"the calculator {self.capabilities.name} failed: {error!r}.")


def _check_pairs(system: System, cutoff: float) -> None:
    """Raises TooManyEdgesError before ASE's neighbour list would take the machine's memory."""
    reach = cutoff + SKIN
    if system.n_atoms == 0:
        raise EvaluationError("there are no atoms to compute forces for.")
    placement = Placement.of(system.positions, Frame.of(system), reach)
    check_capacity(placement, reach, MAX_PAIRS)


def _forces(atoms: Atoms, want_stress: bool) -> Forces:
    forces = atoms.get_forces()
    energy = float(atoms.get_potential_energy())
    stress = None
    if want_stress:
        with contextlib.suppress(PropertyNotImplementedError):  # no volume
            stress = atoms.get_stress(voigt=False)
    finite = np.isfinite(forces).all() and isfinite(energy)
    if not finite or (stress is not None and not np.isfinite(stress).all()):
        raise EvaluationError(
            "the forces are not finite: two atoms lie on one point or nearly so; use a relaxed"
            " starting structure or a smaller timestep."
        )
    return Forces(forces=np.array(forces), energy=energy, stress=stress)


def _parse(spec: str) -> tuple[Registered, dict[str, Any]]:
    name, *settings = spec.removeprefix("ase:").split(",")
    if name not in REGISTER:
        raise ModelFileError(
            f"the ASE calculator {name!r} is not registered: use one of {', '.join(REGISTER)}."
        )
    entry = REGISTER[name]
    parameters = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in entry.parameters:
            raise ModelFileError(
                f"{name} has no parameter {key!r}: it has {', '.join(entry.parameters)}."
            )
        parameters[key] = _value(key, value)
    return entry, parameters


def _value(key: str, text: str) -> float | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise ModelFileError(f"the value of {key} is {text!r}: give a number, true or false.")
    return value
