"""The evaluator: what every route (socket, ASE, i-PI, in-process) asks for forces.

The server and the engines know this file only; networks, graphs and devices lie behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from forcenet_md.errors import ForceNetError
from forcenet_md.system import Forces, System

if TYPE_CHECKING:
    from ase import Atoms

    from forcenet_md.artifact.card import Card, TrainingRange


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do, as its card says.

    numbers: atomic numbers it knows
    cutoff: Å; 0 if unknown (a foreign calculator)
    spread: it is a committee, whose answers have a `force_spread`
    notes: what the card says it is for; none of a committee
    ranks: how many of MPI compute it together
    training_range: how far the training frames went; None if the model does not say
    net_force_removed: it was trained without the net force, which is arbitrary then
    velocities: it cannot answer without them; velocities_welcome: they are of use where an engine
        has them
    """

    name: str
    numbers: frozenset[int]
    cutoff: float
    energy: bool
    stress: bool
    conservative: bool
    velocities: bool = False
    velocities_welcome: bool = False
    sha256: str | None = None
    warnings: tuple[str, ...] = ()
    spread: bool = False
    notes: str = ""
    ranks: int = 1
    training_range: TrainingRange | None = None
    net_force_removed: bool = False

    @classmethod
    def of_card(cls, card: Card, warnings: tuple[str, ...] = ()) -> Capabilities:
        return cls(
            name=card.name,
            numbers=card.numbers,
            cutoff=card.cutoff,
            energy=card.energy,
            stress=card.stress,
            conservative=card.conservative,
            sha256=card.sha256,
            warnings=warnings,
            notes=card.notes,
            training_range=card.training_range,
            net_force_removed=card.net_force_removed,
        )


class Kind(IntEnum):
    """Why an engine asks: set-up of a run, a step of it, or an iteration of a minimiser; some do
    not say (UNKNOWN, which is nothing that an engine says in docs/protocol.md)."""

    SETUP = 0
    RUN = 1
    MINIMISE = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in a simulation a request stands, as far as its engine says.

    stream: which of the simulations that are served side by side, counted from 0
    step: the engine's own count, or None
    timestep: ps; 0 where it is not known
    velocities: [n_atoms, 3] Å/ps, or None. LAMMPS asks for forces in the middle of velocity Verlet:
        at a step (Kind.RUN) they are those of half a timestep before.
    masses: [n_atoms] amu, or None
    ids: [n_atoms] the engine's own, or None
    client: which of all that have asked, where a stream may be another one's after the first
    """

    stream: int = 0
    step: int | None = None
    kind: Kind = Kind.RUN
    timestep: float = 0.0
    velocities: NDArray[np.float64] | None = None
    masses: NDArray[np.float64] | None = None
    ids: NDArray[np.int64] | None = None
    client: int = 0

    def goes_on(self, before: Moment) -> bool:
        """Whether it may be the same simulation: the same client's, and no earlier step. Several
        runs of one LAMMPS, each from where the last one ended, are."""
        if self.client != before.client:
            return False
        return self.step is None or before.step is None or self.step >= before.step


class Session(Protocol):
    """What is kept for one simulation between its steps (neighbour list, calculator)."""


@dataclass(slots=True)
class Request:
    """One System of one session.

    keep_net_force: the net force is not taken out (atoms are held, or the group is not all),
        unless the model was trained without it: then it means nothing and always goes
    want_stress: energy and stress are wanted if the model has them
    moment: for whoever watches the run; it changes no force
    """

    session: Session
    system: System
    keep_net_force: bool = False
    want_stress: bool = True
    moment: Moment = Moment()

    @classmethod
    def from_ase(
        cls, session: Session, atoms: Atoms, want_stress: bool = False, moment: Moment = Moment()
    ) -> Request:
        """The net force stays where atoms are held; FixCom holds none. Raises StructureError."""
        from ase.constraints import FixCom  # a second, which who speaks the protocol can do without

        held = any(not isinstance(constraint, FixCom) for constraint in atoms.constraints)
        return cls(session, System.from_ase(atoms), held, want_stress, moment)


@dataclass(slots=True)
class Timings:
    """Seconds of the last batch, per part."""

    graph: float = 0.0
    network: float = 0.0


class Evaluator(Protocol):
    """Computes forces for a batch of requests from different sessions."""

    capabilities: Capabilities
    timings: Timings

    def new_session(self) -> Session: ...

    def warm_up(self) -> None:
        """Evaluate a small system once, so that the first request is as fast as the others."""

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        """One answer per request, in order. A request that fails gets its ForceNetError and
        never changes another's answer; nothing is raised for a fault of one request."""
