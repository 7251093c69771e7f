"""ASE calculators as evaluators: slow, but with energy and virial.

With them every route can be tested against an exact reference, and teachers can be served.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from math import isfinite
from time import perf_counter

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError

from forcenet_md.calculators.register import REGISTER, Chosen, choose, served, split
from forcenet_md.errors import (
    DataError,
    EvaluationError,
    ForceNetError,
    ModelFileError,
    NotFiniteError,
)
from forcenet_md.graph.capacity import check_capacity
from forcenet_md.graph.frame import Frame, Placement
from forcenet_md.inference.interface import Capabilities, Request, Timings
from forcenet_md.system import Forces, System

MAX_PAIRS = 10_000_000  # a neighbour list of ASE takes about a hundred bytes for each
SKIN = 0.6  # Å that ASE's lists reach beyond the cutoff


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
        self._chosen = _choose(spec)
        entry = self._chosen.entry
        assert entry.cutoff is not None  # else it is not among the served
        try:
            self._cutoff = float(entry.cutoff(self._chosen.make()))
        except DataError as error:
            raise ModelFileError(str(error)) from None
        except Exception as error:
            raise ModelFileError(f"{spec} cannot be made: {error}.") from None
        if not 0.0 < self._cutoff < 100.0:
            raise ModelFileError(f"{spec} has a cutoff of {self._cutoff:g} Å: use one below 100 Å.")
        self.timings = Timings()
        self.capabilities = Capabilities(
            name=spec,
            numbers=entry.numbers,
            cutoff=self._cutoff,
            energy=True,
            stress=True,
            conservative=True,
        )

    def new_session(self) -> AseSession:
        return AseSession(self._chosen.make())

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
        raise NotFiniteError(
            "the forces are not finite: two atoms lie on one point or nearly so; use a relaxed"
            " starting structure or a smaller timestep."
        )
    return Forces(forces=np.array(forces), energy=energy, stress=stress)


def _choose(spec: str) -> Chosen:
    name, _ = split(spec)
    if name not in served():
        teaches = "can teach but not be served" if name in REGISTER else "is not registered"
        raise ModelFileError(
            f"the ASE calculator {name!r} {teaches}: use one of {', '.join(served())}."
        )
    try:
        chosen = choose(spec)
    except DataError as error:
        raise ModelFileError(str(error)) from None
    assert chosen is not None  # its name is in the register
    return chosen
