"""The sums of one evaluation, filled batch by batch."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from forcenet_md.errors import ForceNetError
from forcenet_md.evaluation.cases import Case, Cases
from forcenet_md.evaluation.errors import ABS, ERROR_NORM, WITHIN, Sample, Sums, measures, starts
from forcenet_md.evaluation.result import (
    Baseline,
    Data,
    Energy,
    Evaluation,
    Model,
    NetForce,
    Refused,
    Worst,
)
from forcenet_md.evaluation.rotation import Axis, Instability
from forcenet_md.evaluation.spread import judge_spread
from forcenet_md.system import Forces, System

MAX_REASONS = 5  # frames that are named among those the model refused


@dataclass(frozen=True, slots=True)
class Settings:
    """What is evaluated and how.

    remove_net_force: take the labels' net force out, as the model's training did (its card)
    limit: at most so many frames, evenly spread; None for all
    split_by: columns by whose values errors are given too
    free_only: by element, by column, worst frames and plots leave held atoms out
    rotations: turns of each structure for the rotation instability (0: none), about `axis`,
        for at most rotation_frames frames
    n_worst: frames that are named; batch_atoms: atoms that go to the model at once
    """

    remove_net_force: bool = False
    limit: int | None = None
    split_by: Sequence[str] = ()
    free_only: bool = False
    rotations: int = 4
    rotation_frames: int = 50
    axis: Axis = "z"
    n_worst: int = 10
    batch_atoms: int = 1000


@dataclass(frozen=True, slots=True)
class Picture:
    """A worst frame as it is drawn: error [n_atoms] eV/Å is the length of each error vector."""

    worst: Worst
    system: System
    error: NDArray[np.float64]


@dataclass(slots=True)
class Outcome:
    """The figures; a sample of atoms (label [3], prediction [3], atomic number, held, spread of a
    committee or NaN); the worst frames with their structures."""

    result: Evaluation
    sample: Sample
    pictures: list[Picture] = field(default_factory=list)


class Totals:
    """All sums of one evaluation; `evaluated` are the rows that had forces, in order."""

    def __init__(self, cases: Cases, settings: Settings, conservative: bool) -> None:
        self._settings = settings
        self._conservative = conservative
        self._cases = cases
        self._columns = {name: cases.groups(name) for name in settings.split_by}
        self._all, self._free_or_held = Sums(), Sums(2)
        self._elements = Sums(len(chemical_symbols))
        self._by = {name: Sums(len(values)) for name, (values, _) in self._columns.items()}
        self._sample = Sample(9)
        self._within: list[int] = [0, 0]  # frames within the threshold, frames with free atoms
        self._energy = np.zeros(3)
        self._net_force = 0.0
        self._worst: list[tuple[float, int, Case, NDArray[np.float64]]] = []
        self._tie = count()
        self.n_energies = 0
        self.evaluated = array("q")
        self.refused = Refused()

    @property
    def n_frames(self) -> int:
        return len(self.evaluated)

    def add(self, cases: Sequence[Case], answers: Sequence[Forces | ForceNetError]) -> None:
        good: list[Case] = []
        given: list[Forces] = []
        for case, answer in zip(cases, answers, strict=True):
            if isinstance(answer, ForceNetError):
                self._refuse(case, answer)
            else:
                good.append(case)
                given.append(answer)
                self.evaluated.append(case.row)
                self._add_energy(case, answer)
                self._net_force += float(np.linalg.norm(case.forces.mean(axis=0)))
        if good:
            self._add_forces(good, given)

    def _refuse(self, case: Case, error: ForceNetError) -> None:
        self.refused.n_frames += 1
        if len(self.refused.first) < MAX_REASONS:
            self.refused.first.append(f"{self._cases.name(case.row)}: {error}")

    def _add_energy(self, case: Case, answer: Forces) -> None:
        if case.energy is not None and answer.energy is not None:
            error = abs(answer.energy - case.energy)
            self._energy += error, error**2, error / case.system.n_atoms
            self.n_energies += 1

    def _add_forces(self, cases: Sequence[Case], answers: Sequence[Forces]) -> None:
        predicted = np.concatenate([answer.forces for answer in answers])
        spread = np.concatenate([_spread(answer) for answer in answers])
        counts = [case.system.n_atoms for case in cases]
        first = starts(counts)
        frame = np.repeat(np.arange(len(cases)), counts)
        labels = np.concatenate([self._labels(case) for case in cases])
        numbers = np.concatenate([case.system.numbers for case in cases])
        held = np.concatenate([case.fixed for case in cases])
        rows = measures(labels, predicted)

        self._all.add(rows, np.zeros(len(rows), dtype=np.int64), frame)
        self._free_or_held.add(rows, held.astype(np.int64), frame)
        within = np.logical_and.reduceat((rows[:, WITHIN] > 0.0) | held, first)
        some_free = np.logical_or.reduceat(~held, first)
        self._within[0] += int((within & some_free).sum())
        self._within[1] += int(some_free.sum())

        counted = ~held if self._settings.free_only else np.ones(len(rows), dtype=bool)
        self._elements.add(rows[counted], numbers[counted], frame[counted])
        for name, (_, value) in self._columns.items():
            group = value[[case.row for case in cases]][frame]
            self._by[name].add(rows[counted], group[counted], frame[counted])
        atoms = np.column_stack([labels, predicted, numbers, held, spread])
        self._sample.add(atoms)
        for case, part in zip(cases, np.split(np.arange(len(rows)), first[1:]), strict=True):
            if counted[part].any():
                self._add_worst(case, rows[part], counted[part])

    def _labels(self, case: Case) -> NDArray[np.float64]:
        net = case.forces.mean(axis=0)
        return case.forces - net if self._settings.remove_net_force else case.forces

    def _add_worst(self, case: Case, rows: NDArray[np.float64], counted: NDArray[np.bool_]) -> None:
        mae = float(rows[counted][:, ABS].mean())
        room = self._settings.n_worst - len(self._worst)
        if self._settings.n_worst and (room or mae > self._worst[0][0]):
            error = np.where(counted, rows[:, ERROR_NORM], 0.0)
            entry = (mae, -next(self._tie), case, error)  # of equal ones the first is kept
            (heapq.heappush if room else heapq.heappushpop)(self._worst, entry)

    def _pictures(self) -> list[Picture]:
        """The worst frame first."""
        out = []
        for mae, _, case, error in sorted(self._worst, key=lambda entry: entry[:2], reverse=True):
            atom = int(error.argmax())
            symbols = [chemical_symbols[z] for z in case.system.numbers]
            worst = Worst(
                name=self._cases.name(case.row),
                row=case.row,
                formula=Formula.from_list(symbols).format("hill"),
                n_atoms=len(symbols),
                mae=mae,
                atom=atom,
                element=symbols[atom],
                max_error=float(error[atom]),
                max_force=float(np.linalg.norm(self._labels(case)[atom])),
            )
            out.append(Picture(worst, case.system, error))
        return out

    def outcome(
        self, model: Model, n_asked: int, complete: bool, rotation: Instability | None
    ) -> Outcome:
        every = self._all.figures()
        assert every is not None
        held = self._free_or_held.figures(1)
        elements = {chemical_symbols[z]: self._elements.figures(z) for z in range(1, 119)}
        pictures = self._pictures()
        result = Evaluation(
            model=model,
            data=Data(
                sources=list(self._cases.sources),
                n_available=len(self._cases),
                n_asked=n_asked,
                n_frames=self.n_frames,
                n_atoms=every.n_atoms,
                refused=self.refused,
            ),
            complete=complete,
            net_force=self._net_forces(),
            all=every,
            free=self._free_or_held.figures(0) if held else None,
            held=held,
            counted="free" if self._settings.free_only else "all",
            by_element={name: figures for name, figures in elements.items() if figures},
            by={
                name: {
                    value or "none stated": figures
                    for g, value in enumerate(values)
                    if (figures := self._by[name].figures(g))
                }
                for name, (values, _) in self._columns.items()
            },
            frames_within=self._within[0] / self._within[1] if self._within[1] else None,
            baseline=_baseline(self._sample),
            energy=self._energies(),
            spread=judge_spread(self._sample),
            rotation=rotation,
            worst=[picture.worst for picture in pictures],
        )
        return Outcome(result, self._sample, pictures)

    def _net_forces(self) -> NetForce:
        """As `_labels` treats the labels, and the evaluators the predictions."""
        mean = self._net_force / self.n_frames
        if self._settings.remove_net_force:
            return NetForce(labels="removed", model="removed", label_per_atom=mean)
        if self._conservative:
            return NetForce(labels="kept", model="kept", label_per_atom=mean)
        return NetForce(labels="kept", model="removed where no atom is held", label_per_atom=mean)

    def _energies(self) -> Energy | None:
        if not self.n_energies:
            return None
        mae, square, per_atom = self._energy / self.n_energies
        return Energy(n_frames=self.n_energies, mae=mae, rmse=square**0.5, mae_per_atom=per_atom)


def _spread(answer: Forces) -> NDArray[np.float64]:
    spread = answer.force_spread
    return np.full(len(answer.forces), np.nan) if spread is None else spread


def _baseline(sample: Sample) -> Baseline:
    labels, held = sample.rows[:, :3], sample.rows[:, 7] > 0.0
    median = np.median(labels, axis=0)
    away = np.abs(labels - median)
    return Baseline(
        median=median.tolist(),
        mae=float(away.mean()),
        mae_free=float(away[~held].mean()) if held.any() and not held.all() else None,
        n_sampled=len(labels),
        exact=sample.complete,
    )
