"""One structure on its way to a minimum: one of ASE's optimisers, given forces from outside."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.optimize import FIRE, LBFGS
from ase.optimize.optimize import Optimizer
from numpy.typing import NDArray

from forcenet_md.data.frames import with_labels
from forcenet_md.data.labelled import FIXED, fixed_atoms
from forcenet_md.errors import DataError, ForceNetError, StructureError
from forcenet_md.graph.neighbours import build_edges
from forcenet_md.inference.interface import Kind, Moment, Request, Session
from forcenet_md.relaxation.judge import Judge
from forcenet_md.system import Forces, System
from forcenet_md.watching.guard_limits import Limits
from forcenet_md.watching.guards import atom_name, distance_figure

CONVERGED, STEPS, CYCLE, RUNAWAY, FAILED = "converged", "steps", "cycle", "runaway", "failed"
NEAR = Limits().distance[0]  # of the shortest distance of training: where guards warn
# What ASE's optimisers keep between steps; L-BFGS the second in the method behind it.
KEPT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "fire": (("vel", "dt", "a", "Nsteps"), ()),
    "lbfgs": (("r0", "f0"), ("iteration", "s", "y", "rho")),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a structure is relaxed.

    optimizer: ASE's FIRE, or its L-BFGS without line search: neither asks for an energy
    fmax: eV/Å; it is relaxed when no atom has a force of this length, constraints applied
    steps: at most
    maxstep: Å; with L-BFGS the most that an atom moves in a step, with FIRE all of them together
    memory: steps that L-BFGS remembers
    """

    optimizer: Literal["fire", "lbfgs"] = "lbfgs"
    fmax: float = 0.01
    steps: int = 200
    maxstep: float = 0.2
    memory: int = 100


class Given:
    """What an Atoms asks for forces: those it was last given."""

    forces: NDArray[np.float64]

    def get_forces(self, atoms: Atoms) -> NDArray[np.float64]:
        """[n_atoms, 3] eV/Å, before constraints."""
        return self.forces.copy()


class Course:
    """A structure from its first positions to its ending.

    number: its place among those that are relaxed
    atoms: a copy of the given ones, at the positions that are evaluated next. Atoms are held by
        ASE's constraints and by a column `fixed`.
    cutoff: of the model, Å
    ending: '' on its way, then CONVERGED, STEPS, CYCLE, RUNAWAY or FAILED; reason: of any but the
        first, a word or a sentence

    Raises DataError for a column `fixed` that is not one number an atom.
    """

    def __init__(self, number: int, atoms: Atoms, settings: Settings, cutoff: float) -> None:
        self.number, self.settings = number, settings
        self.atoms = atoms.copy()
        if FIXED in atoms.arrays:
            held = FixAtoms(mask=fixed_atoms(atoms))
            self.atoms.set_constraint([*self.atoms.constraints, held])
        self.ending = self.reason = ""
        self.steps = 0
        self.fmax: float | None = None
        self.session: Session | None = None
        self._cutoff = cutoff
        self._start = self.atoms.copy()
        self._judge = Judge(self.atoms.positions)
        self._given = self.atoms.calc = Given()
        self._optimizer = make_optimizer(self.atoms, settings)
        self._answer: Forces | None = None
        self._evaluated = self.atoms.positions.copy()  # where that answer is from

    def request(self) -> Request:
        """For the forces at its positions. Raises StructureError."""
        assert self.session is not None
        moment = Moment(stream=self.number, step=self.steps, kind=Kind.MINIMISE)
        return Request.from_ase(self.session, self.atoms, moment=moment)

    def take(self, answer: Forces | ForceNetError) -> None:
        """Move by these forces, or end."""
        if isinstance(answer, ForceNetError):
            self._end(FAILED, str(answer))
            return
        self._answer, self._evaluated = answer, self.atoms.positions.copy()
        self._given.forces = answer.forces
        lengths = np.linalg.norm(self.atoms.get_forces(), axis=1)
        self.fmax = float(lengths.max())
        if self.fmax < self.settings.fmax:
            self._end(*self._converged())
        elif verdict := self._judge.verdict(self.atoms.positions, lengths):
            self._end(verdict.partition(":")[0], verdict)
        elif self.steps == self.settings.steps:
            self._end(STEPS, STEPS)
        else:
            self._step()

    def _converged(self) -> tuple[str, str]:
        """Atoms that have flown apart feel no force either."""
        lone = np.flatnonzero(lone_atoms(self.atoms, self._cutoff))
        if len(lone) and not lone_atoms(self._start, self._cutoff)[lone].all():
            return RUNAWAY, (
                f"runaway: {len(lone)} atoms have no other within {self._cutoff:g} Å any more, the"
                f" first is atom {lone[0] + 1}"
            )
        return CONVERGED, ""

    def _step(self) -> None:
        with np.errstate(all="ignore"):  # what is not finite is found below
            self._optimizer.step()
        self.steps += 1
        if not np.isfinite(self.atoms.positions).all():
            self._end(RUNAWAY, "runaway: the optimiser's next step is not finite")

    def _end(self, ending: str, reason: str) -> None:
        self.ending, self.reason = ending, reason
        self.session = None

    @property
    def contact(self) -> str:
        """Of atoms that are nearer, where it was last evaluated, than the model's training brought
        such a pair: which and how near; else ''. A network can be at rest there by mistake."""
        contact = None if self._answer is None else self._answer.contact
        if contact is None or contact.ratio >= NEAR:
            return ""
        a, b = (atom_name(row + 1, self.atoms.numbers[row]) for row in (contact.a, contact.b))
        return distance_figure(contact, a, b).words()

    def result(self) -> Atoms:
        """Where it ended, with the forces there (and energy, where the model has one); a
        committee's spread as a column. `info` says how: converged, steps, fmax, reason, contact."""
        self.atoms.calc = None
        self.atoms.positions = self._evaluated
        answer = self._answer
        out = self.atoms.copy()
        if answer is not None:
            out = with_labels(self.atoms, answer.energy, answer.forces)
            if answer.force_spread is not None:
                out.set_array("force_spread", answer.force_spread)
        out.info |= {"converged": self.ending == CONVERGED, "steps": self.steps}
        reason = self.reason.replace('"', "'")
        told = {"fmax": self.fmax, "reason": reason or None, "contact": self.contact or None}
        for key, value in told.items():
            out.info.pop(key, None)  # of a relaxation before
            if value is not None:
                out.info[key] = value
        return out

    def state(self) -> bytes:
        """All that is needed to go on from here as if nothing had been."""
        values = {"positions": self.atoms.positions, "steps": np.array(self.steps)}
        values |= self._judge.state()
        for holder, names in self._holders():
            found = {name: getattr(holder, name) for name in names}
            values |= {name: np.array(v) for name, v in found.items() if v is not None}
        file = io.BytesIO()
        np.savez(file, **values)
        return file.getvalue()

    def restore(self, state: bytes) -> None:
        """Go on from a state of the same structure with the same settings. Raises DataError."""
        try:
            with np.load(io.BytesIO(state), allow_pickle=False) as values:
                self.atoms.set_positions(values["positions"], apply_constraint=False)
                self.steps = int(values["steps"])
                self._judge.restore(values)
                for holder, names in self._holders():
                    for name in set(names) & set(values):
                        setattr(holder, name, _as_kept(name, values[name]))
        except (ValueError, KeyError, OSError) as error:
            raise DataError(f"the state of structure {self.number} is damaged ({error}).") from None
        self._evaluated = self.atoms.positions.copy()

    def _holders(self) -> list[tuple[Any, tuple[str, ...]]]:
        optimizer = self._optimizer
        return list(
            zip(
                (optimizer, getattr(optimizer, "state", None)),
                KEPT[self.settings.optimizer],
                strict=True,
            )
        )


def make_optimizer(atoms: Atoms, settings: Settings) -> Optimizer:
    """ASE's, as silent as it goes."""
    if settings.optimizer == "fire":
        return FIRE(atoms, logfile=None, maxstep=settings.maxstep)
    return LBFGS(
        atoms,
        logfile=None,  # type: ignore[arg-type]
        maxstep=settings.maxstep,
        memory=settings.memory,
    )


def lone_atoms(atoms: Atoms, cutoff: float) -> NDArray[np.bool_]:
    """[n_atoms] which have no other within the cutoff, Å; none of a structure too large for one
    search."""
    try:
        edges = build_edges(System.from_ase(atoms), cutoff)
    except StructureError:
        return np.zeros(len(atoms), dtype=bool)
    return np.bincount(edges.target, minlength=len(atoms)) == 0


def _as_kept(name: str, value: NDArray[Any]) -> Any:
    if name in ("s", "y", "rho"):
        return list(value)
    return value if value.ndim else value.item()
