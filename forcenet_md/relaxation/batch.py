"""Many structures relaxed side by side: one evaluation for all of them, then each its own step.

for atoms in relax(load_evaluator("alloy"), structures):
    print(atoms.info["converged"], atoms.info["steps"], atoms.info["fmax"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ase import Atoms

from forcenet_md.errors import ForceNetError
from forcenet_md.inference.interface import Evaluator, Request
from forcenet_md.relaxation.course import Course, Settings
from forcenet_md.system import Forces

BATCH_ATOMS = 1000
USUAL = Settings()


class Batch:
    """Structures that are evaluated together. One that has ended leaves, and the next come in.

    courses: in the order in which they come in; each is taken when there is room
    batch_atoms: at most so many atoms at once, or one structure
    """

    def __init__(self, evaluator: Evaluator, courses: Iterable[Course], batch_atoms: int) -> None:
        self._evaluator = evaluator
        self._waiting = iter(courses)
        self._next = next(self._waiting, None)
        self._batch_atoms = batch_atoms
        self.under_way: list[Course] = []

    def rounds(self) -> Iterator[list[Course]]:
        """Evaluate, and move each by its forces; those that ended in this round, which are no
        longer under way."""
        while self._fill():
            for course, answer in zip(self.under_way, self._ask(), strict=True):
                try:
                    course.take(answer)
                except BaseException:
                    self.under_way.remove(course)  # it may be half a step on
                    raise
            ended = [course for course in self.under_way if course.ending]
            self.under_way = [course for course in self.under_way if not course.ending]
            yield ended

    def _fill(self) -> bool:
        """Take in what there is room for; whether anything is under way."""
        n_atoms = sum(len(course.atoms) for course in self.under_way)
        while self._next is not None:
            n_atoms += len(self._next.atoms)
            if self.under_way and n_atoms > self._batch_atoms:
                break
            self._next.session = self._evaluator.new_session()
            self.under_way.append(self._next)
            self._next = next(self._waiting, None)
        return bool(self.under_way)

    def _ask(self) -> list[Forces | ForceNetError]:
        """One answer for each that is under way."""
        requests: list[Request] = []
        answers: list[Forces | ForceNetError | None] = []
        for course in self.under_way:
            try:
                requests.append(course.request())
                answers.append(None)
            except ForceNetError as fault:
                answers.append(fault)
        given = iter(self._evaluator.evaluate(requests))
        return [next(given) if answer is None else answer for answer in answers]


def relax(
    evaluator: Evaluator,
    structures: Iterable[Atoms],
    settings: Settings = USUAL,
    batch_atoms: int = BATCH_ATOMS,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Course]:
    """Each as it ends, which is not in order: how in its `ending`, where by its `result()`.

    stopped: asked after every round of steps; those that are then under way are not given
    """
    cutoff = evaluator.capabilities.cutoff
    courses = (Course(k, atoms, settings, cutoff) for k, atoms in enumerate(structures))
    for ended in Batch(evaluator, courses, batch_atoms).rounds():
        yield from ended
        if stopped():
            return
