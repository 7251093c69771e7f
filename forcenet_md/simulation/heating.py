"""How fast forces heat a run: a thermostat for a while, then constant energy, for several copies.

What is seen depends on what there is:

- an energy E(x), of a teacher or of the model: d(E + K)/dt is the power that forces put in, exact
  but for what the fluctuations of the error leave over a finite time;
- none: the temperature alone, whose own fluctuations are far larger.

Both are told as a rate in K/ps, see `inference.kinetics.heating_rate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from ase import units
from pydantic import BaseModel
from scipy.stats import t as student

from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.inference.interface import Evaluator, Request, Session
from forcenet_md.inference.kinetics import heating_rate
from forcenet_md.simulation.probed import Array, Structure
from forcenet_md.system import Forces, System
from forcenet_md.units import ACCELERATION

SAMPLED, SAMPLES = 0.02, 20  # ps between samples, and how many there are at least
RELAXATION, EQUILIBRATION = 0.05, 0.5  # ps: of the thermostat at the start, and how long it is on
RUNAWAY = 5.0  # times the temperature: the structure has fallen apart
LEAST = 5  # samples of a slope

Energy = Callable[[System], float]


class Heating(BaseModel):
    """rate, interval: K/ps, mean over the copies and half its 95 % interval (Student's t, for they
    are few); None if fewer than two lived
    seen_by: whose energy, or 'temperature' alone
    drift: of the energy, meV per free atom and ps; None without one
    temperature: mean, K; target: K; time: ps that the copies ran; timestep: ps
    lost: when and why copies ended
    """

    rate: float | None
    interval: float | None
    seen_by: Literal["teacher", "model", "temperature"]
    drift: float | None
    temperature: float | None
    target: float
    time: float
    timestep: float
    n_copies: int
    lost: list[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """temperature: K; timestep, time, equilibration: ps"""

    temperature: float
    timestep: float
    time: float
    equilibration: float = EQUILIBRATION

    @property
    def n_before(self) -> int:
        return round(self.equilibration / self.timestep)

    @property
    def n_steps(self) -> int:
        return round(self.time / self.timestep)

    @property
    def stride(self) -> int:
        """Steps between samples."""
        return max(1, round(min(SAMPLED, self.time / SAMPLES) / self.timestep))


@dataclass(slots=True)
class Copy:
    """One simulation. velocities: [n_atoms, 3] Å/ps; answer: at its positions
    samples: of ps, K, and E + K in eV (nan without E); lost: when and why it ended"""

    structure: Structure
    session: Session
    system: System
    velocities: Array
    answer: Forces
    samples: list[tuple[float, float, float]] = field(default_factory=list)
    lost: str = ""

    @property
    def n_dof(self) -> int:
        """Without the centre of mass, unless atoms are held."""
        free = int(self.structure.free.sum())
        return 3 * free - (0 if self.structure.keep_net_force else 3)

    @property
    def kinetic(self) -> float:
        """eV"""
        squares = (self.velocities**2).sum(axis=1)
        return float(0.5 * (self.structure.masses * squares).sum() / ACCELERATION)

    @property
    def temperature(self) -> float:
        """K"""
        return 2.0 * self.kinetic / (self.n_dof * units.kB)

    def kick(self, time: float) -> None:
        """Velocities by the forces of the last answer, over a time in ps; held atoms stay."""
        gain = time * ACCELERATION / self.structure.masses[:, None]
        self.velocities += np.where(self.structure.free[:, None], gain * self.answer.forces, 0.0)

    def thermostat(self, temperature: float, time: float, rng: np.random.Generator) -> None:
        """Langevin's friction and noise over a time in ps, exactly (Ornstein and Uhlenbeck)."""
        kept = np.exp(-time / RELAXATION)
        self.velocities *= kept
        self.velocities += np.sqrt(1.0 - kept**2) * thermal(self.structure, temperature, rng)

    def stop_as_a_whole(self) -> None:
        """No momentum of the whole, where nothing is held."""
        if not self.structure.keep_net_force:
            masses = self.structure.masses[:, None]
            self.velocities -= (masses * self.velocities).sum(axis=0) / masses.sum()


def thermal(structure: Structure, temperature: float, rng: np.random.Generator) -> Array:
    """[n_atoms, 3] Å/ps of Maxwell and Boltzmann; held atoms stand."""
    width = np.sqrt(units.kB * temperature * ACCELERATION / structure.masses)[:, None]
    drawn = width * rng.normal(size=(len(structure.masses), 3))
    return np.where(structure.free[:, None], drawn, 0.0)


def heat(
    evaluator: Evaluator,
    structures: Sequence[Structure],
    plan: Plan,
    n_copies: int,
    seed: int = 0,
    teacher: Energy | None = None,
    stopped: Callable[[], bool] = lambda: False,
    advance: Callable[[int], None] = lambda n: None,
) -> Heating:
    """Run copies of the structures, in turn, side by side; see the top of this file.

    teacher: the energy in eV of what forces should be the gradient of; if not given, the model's
    own where it has one. stopped: asked at every step; what was sampled until then counts.
    advance: told of every step. Raises EvaluationError where a structure has no forces to start
    with.
    """
    rng = np.random.default_rng(seed)
    copies = [
        _start(evaluator, structures[k % len(structures)], plan, rng) for k in range(n_copies)
    ]
    time = 0.0
    for step in range(-plan.n_before, plan.n_steps + 1):
        alive = [copy for copy in copies if not copy.lost]
        if stopped() or not alive:
            break
        if step == 0:
            for copy in alive:
                copy.stop_as_a_whole()
        if step >= 0:
            time = step * plan.timestep
            if step % plan.stride == 0:
                _sample(alive, time, teacher)
        if step < plan.n_steps:
            _step(evaluator, alive, plan.timestep)
            for copy in alive:
                if step < 0:
                    copy.thermostat(plan.temperature, plan.timestep, rng)
                if not copy.lost and not copy.temperature < RUNAWAY * plan.temperature:
                    copy.lost = f"it is at {copy.temperature:.0f} K"
                if copy.lost:
                    after = (step + 1 + plan.n_before) * plan.timestep
                    copy.lost = f"after {after:.3g} ps {copy.lost}"
            advance(1)
    own: Literal["model", "temperature"] = (
        "model" if evaluator.capabilities.energy else "temperature"
    )
    return judge(copies, plan, time, "teacher" if teacher else own)


def judge(
    copies: Sequence[Copy],
    plan: Plan,
    time: float,
    seen_by: Literal["teacher", "model", "temperature"],
) -> Heating:
    """The slopes of what was sampled, and how far copies are apart."""
    rates, drifts, temperatures = [], [], []
    for copy in copies:
        if copy.lost or len(copy.samples) < LEAST:
            continue
        at, kelvin, energy = np.array(copy.samples).T
        temperatures.append(kelvin.mean())
        if seen_by == "temperature":
            rates.append(np.polyfit(at, kelvin, 1)[0])
        else:
            slope = np.polyfit(at, energy, 1)[0]  # eV/ps
            rates.append(heating_rate(slope, copy.n_dof))
            drifts.append(1000.0 * slope / copy.structure.free.sum())
    n = len(rates)
    enough = n > 1
    return Heating(
        rate=float(np.mean(rates)) if enough else None,
        interval=float(student.ppf(0.975, n - 1) * np.std(rates, ddof=1) / n**0.5)
        if enough
        else None,
        seen_by=seen_by,
        drift=float(np.mean(drifts)) if enough and drifts else None,
        temperature=float(np.mean(temperatures)) if temperatures else None,
        target=plan.temperature,
        time=time,
        timestep=plan.timestep,
        n_copies=len(copies),
        lost=[copy.lost for copy in copies if copy.lost],
    )


def _start(
    evaluator: Evaluator, structure: Structure, plan: Plan, rng: np.random.Generator
) -> Copy:
    session = evaluator.new_session()
    (answer,) = evaluator.evaluate([Request(session, structure.system, structure.keep_net_force)])
    if isinstance(answer, ForceNetError):
        raise EvaluationError(f"{structure.name}: {answer}")
    velocities = thermal(structure, plan.temperature, rng)
    return Copy(structure, session, structure.system, velocities, answer)


def _step(evaluator: Evaluator, copies: Sequence[Copy], timestep: float) -> None:
    """Velocity Verlet; a copy that fails is lost, and the others go on."""
    requests = []
    for copy in copies:
        copy.kick(0.5 * timestep)
        x = copy.system.positions + timestep * copy.velocities
        copy.system = replace(copy.system, positions=x)
        requests.append(Request(copy.session, copy.system, copy.structure.keep_net_force))
    for copy, answer in zip(copies, evaluator.evaluate(requests), strict=True):
        if isinstance(answer, ForceNetError):
            copy.lost = f"the model says: {answer}"
        else:
            copy.answer = answer
            copy.kick(0.5 * timestep)


def _sample(copies: Sequence[Copy], time: float, teacher: Energy | None) -> None:
    for copy in copies:
        energy = copy.answer.energy
        if teacher is not None:
            try:
                energy = teacher(copy.system)
            except ForceNetError as fault:
                copy.lost = f"after {time:.3g} ps the teacher says: {fault}"
                continue
        whole = np.nan if energy is None else energy + copy.kinetic
        copy.samples.append((time, copy.temperature, whole))
