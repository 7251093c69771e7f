"""`forcenet-md probe`: what a model's forces will do to a long run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel

import forcenet_md
from forcenet_md.errors import ForceNetError
from forcenet_md.evaluation.cases import Case
from forcenet_md.evaluation.result import Model
from forcenet_md.evaluation.rotation import Axis, Instability, instability
from forcenet_md.evaluation.run import predict
from forcenet_md.inference.interface import Evaluator
from forcenet_md.inference.kinetics import HEATING
from forcenet_md.simulation import heating, jacobian, jumps, verdict
from forcenet_md.simulation.heating import Energy, Heating
from forcenet_md.simulation.jacobian import Lambda
from forcenet_md.simulation.jumps import Jumps, Reach
from forcenet_md.simulation.probed import Asker, Stopped, Structure
from forcenet_md.simulation.verdict import Verdict
from forcenet_md.system import Forces

Progress = Callable[[str, int, int], None]
"""Told what is measured, how much of it is done, and how much there is."""

DEFINITIONS = {
    "lambda": "Frobenius norms |J_antisymmetric| / |J| of J = dF/dx of the free atoms, the forces"
    " as they are served (without the net force, where it is taken out); Bigi, Langer and Ceriotti,"
    " arXiv:2412.11569",
    "rotation": "structures turned at random, forces turned back: standard deviation of a component"
    " over the turns (Hu et al. 2021, table 1), eV/Angstrom",
    "jumps": "largest jump of the force on any atom where a neighbour comes or goes, eV/Angstrom",
    "heating": f"{HEATING} of the forces, K/ps: times tau it is how far off a Langevin"
    " thermostat's temperature is",
    "standard_error": "of the directions",
    "interval": "half of the 95 % interval of a mean over the copies",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """directions: of the Jacobian, for each frame; rotations: of each frame, 0 for none
    temperature: K; timestep, time: ps of heating, a time of 0 for none; nve: ps asked about
    """

    directions: int = 32
    rotations: int = 10
    axis: Axis = "so3"
    temperature: float = 300.0
    timestep: float = 0.001
    time: float = 1.0
    copies: int = 4
    nve: float = 100.0
    seed: int = 0
    batch_atoms: int = 1000


class Probe(BaseModel):
    """What was found; None for what was left out, or not begun when the user stopped it.

    net_force: whether the net force is taken out of the forces that were probed
    mean_force: mean |F| over components, eV/Å
    """

    format: Literal[1] = 1
    version: str = forcenet_md.__version__
    model: Model
    structures: list[str]
    n_atoms: int
    net_force: Literal["removed", "kept"]
    mean_force: float | None = None
    jacobian: Lambda | None = None
    rotation: Instability | None = None
    jumps: Jumps | None = None
    heating: Heating | None = None
    verdict: Verdict = Verdict(words=[])
    complete: bool = False
    definitions: dict[str, str] = DEFINITIONS


def probe(
    evaluator: Evaluator,
    model: Model,
    structures: Sequence[Structure],
    reaches: Sequence[Reach],
    settings: Settings,
    teacher: Energy | None = None,
    progress: Progress = lambda what, done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Probe:
    """Probe a model at structures, one after another.

    model: as it is told; reaches: cutoff and neighbour cap, of each member of a committee;
    teacher: see `heating.heat`
    stopped: asked now and then; when it is true, what is known by then is the answer.
    Raises EvaluationError where the model has no forces for a structure.
    """
    known = evaluator.capabilities
    removed = not known.conservative and not any(s.keep_net_force for s in structures)
    found = Probe(
        model=model,
        structures=[structure.name for structure in structures],
        n_atoms=sum(structure.system.n_atoms for structure in structures),
        net_force="removed" if removed else "kept",
    )
    work = _Work(evaluator, structures, reaches, settings, teacher, progress, stopped)
    for part in (work.mean_force, work.jacobian, work.jumps, work.rotation, work.heating):
        if stopped():
            break
        try:
            part(found)
        except Stopped:
            break
    found.complete = not stopped()
    found.verdict = verdict.judge(found.heating, found.jacobian, found.jumps, settings.nve)
    return found


@dataclass(frozen=True, slots=True)
class _Work:
    """The parts of a probe; each puts what it finds into it, and raises Stopped."""

    evaluator: Evaluator
    structures: Sequence[Structure]
    reaches: Sequence[Reach]
    settings: Settings
    teacher: Energy | None
    progress: Progress
    stopped: Callable[[], bool]

    def mean_force(self, found: Probe) -> None:
        asker = self._asker("forces", len(self.structures))
        forces = [asker.forces(s, [s.system.positions])[0][s.free] for s in self.structures]
        found.mean_force = float(np.abs(np.concatenate(forces)).mean())

    def jacobian(self, found: Probe) -> None:
        settings = self.settings
        rng = np.random.default_rng(settings.seed)
        counts = [min(settings.directions, 3 * int(s.free.sum())) for s in self.structures]
        total = 2 * (sum(counts) + min(jacobian.CHECKED, counts[0]))
        asker = self._asker("Jacobian", total)
        images: list[jacobian.Images] = []
        error = 0.0
        for structure in self.structures:
            try:
                images.append(jacobian.take_images(asker, structure, settings.directions, rng))
                if len(images) == 1:
                    error = jacobian.step_error(asker, structure, images[0])
                    found.jacobian = jacobian.estimate(images, error)
            except Stopped:
                break
        if found.jacobian is not None:
            found.jacobian = jacobian.estimate(images, error)

    def jumps(self, found: Probe) -> None:
        n = sum(1 for _ in jumps.places(self.structures, self.reaches))
        asker = self._asker("jumps at the cutoff", 4 * n)
        found.jumps = jumps.find_jumps(asker, self.structures, self.reaches)

    def rotation(self, found: Probe) -> None:
        settings = self.settings
        if not settings.rotations:
            return
        total = len(self.structures)
        self.progress("rotations", 0, total)

        def ask(batch: Sequence[Case]) -> list[Forces | ForceNetError]:
            if self.stopped():
                raise Stopped
            self.progress("rotations", batch[0].row + 1, total)
            return [answer for case in batch for answer in predict(self.evaluator, [case])]

        cases = [
            Case(k, s.system, np.zeros_like(s.system.positions), None, ~s.free)
            for k, s in enumerate(self.structures)
        ]
        found.rotation = instability(ask, cases, settings.rotations, settings.axis, settings.seed)

    def heating(self, found: Probe) -> None:
        settings = self.settings
        if settings.time <= 0.0:
            return
        plan = heating.Plan(settings.temperature, settings.timestep, settings.time)
        done, total = 0, plan.n_before + plan.n_steps

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            self.progress("heating", done, total)

        found.heating = heating.heat(
            self.evaluator,
            self.structures,
            plan,
            settings.copies,
            settings.seed,
            self.teacher,
            self.stopped,
            advance,
        )

    def _asker(self, what: str, total: int) -> Asker:
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            self.progress(what, done, total)

        self.progress(what, 0, total)
        return Asker(self.evaluator, self.settings.batch_atoms, self.stopped, advance)
