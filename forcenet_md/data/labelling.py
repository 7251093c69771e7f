"""Many frames labelled by separate processes; what fails costs one frame, not the run.

    for outcome in label_frames(frames, "chgnet", workers=4):
        if outcome.atoms is None:
            print(outcome.number, outcome.reason)

is all that exploring programs need; the command `label` adds a file that can be gone on with.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from forcenet_md.data.provenance import describe_teacher
from forcenet_md.data.vasp import CONVERGED
from forcenet_md.data.workers import Crew
from forcenet_md.errors import DataError

DEATHS = 5  # processes that may die before anything was labelled: then it is the teacher's fault


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one frame: a labelled copy with its provenance in `info`, or the reason why there is none.

    number: place of the frame among those given, from 0
    """

    number: int
    given: Atoms
    atoms: Atoms | None
    reason: str = ""


def label_frames(
    frames: Iterable[Atoms] | Iterable[tuple[int, Atoms]],
    spec: str | Path,
    elements: Sequence[str] = (),
    workers: int = 1,
    timeout: float | None = None,
) -> Generator[Outcome, None, None]:
    """Outcomes as they come, which is not in order; close the generator to end it early.

    frames: taken only as they are needed; (number, frame) to give numbers of one's own
    spec, elements: as of `open_teacher`
    workers: processes, with one thread each; timeout: seconds a frame may take at most
    Raises DataError when the teacher itself is at fault: unknown, not installed, not to be started.
    """
    provenance = describe_teacher(spec, elements)
    waiting = (item if isinstance(item, tuple) else (k, item) for k, item in enumerate(frames))
    given: dict[int, Atoms] = {}
    labelled = False
    with Crew(str(spec), elements, workers, timeout) as crew:
        while True:
            while len(given) < workers and (item := next(waiting, None)) is not None:
                number, atoms = item
                given[number] = atoms
                crew.give(number, atoms.copy())  # its calculator need not be one to be sent
            if not given:
                return
            for number, out, reason in crew.answers():
                if out is not None:
                    labelled = True
                    out.info.pop(CONVERGED, None)  # of the labels before
                    out.info.update(provenance)
                elif crew.deaths >= DEATHS and not labelled:
                    raise DataError(f"{reason} So did {DEATHS - 1} more: try it on one frame.")
                yield Outcome(number, given.pop(number), out, reason)
