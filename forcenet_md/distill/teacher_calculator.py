"""A teacher as an ASE calculator, for dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from forcenet_md.data.frames import forces_of
from forcenet_md.data.workers import Crew
from forcenet_md.errors import DataError


class TeacherCalculator(Calculator):
    """Every step is a label, as `forcenet-md label` would give it.

    crew: of one process; when it dies, as teachers do, the next step starts a new one. Raises
    DataError for a structure without a label. fault: why there was none, the last time.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (as ASE has it)

    def __init__(self, crew: Crew) -> None:
        super().__init__()
        self._crew = crew
        self.fault = ""

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("forces",),
        system_changes: Any = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        self._crew.give(0, self.atoms.copy())
        answers: list[tuple[int, Atoms | None, str]] = []
        while not answers:  # the first is that the process is ready
            answers = list(self._crew.answers())
        _, labelled, reason = answers[0]
        if labelled is None:
            self.fault = reason
            raise DataError(reason)
        energy = labelled.calc.results.get("energy")
        self.results = {"forces": forces_of(labelled)}
        if energy is not None:
            self.results["energy"] = energy
