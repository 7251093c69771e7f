"""IS2RS, from the initial to the relaxed structure: how near a model's relaxations come to those of
its teacher.

The task and its two metrics are of the Open Catalyst Project (Chanussot et al., ACS Catal. 11,
6059, 2021), the protocol (L-BFGS, 0.01 eV/Å, 200 steps) of ForceNet (Hu et al. 2021, appendix H),
the longest step and the memory of L-BFGS those of the Open Catalyst Project's configurations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike
from pydantic import BaseModel

import forcenet_md
from forcenet_md.data.compiling import sha256
from forcenet_md.data.labelling import label_frames
from forcenet_md.data.teachers import find_teacher
from forcenet_md.errors import DataError, EvaluationError
from forcenet_md.evaluation.cases import evenly
from forcenet_md.evaluation.result import Model
from forcenet_md.evaluation.trajectories import Ends, read_ends
from forcenet_md.inference.interface import Evaluator
from forcenet_md.relaxation.batch import BATCH_ATOMS
from forcenet_md.relaxation.course import FAILED, Settings
from forcenet_md.relaxation.part_file import Ended, PartFile
from forcenet_md.relaxation.run import relax_into

PROTOCOL = Settings("lbfgs", fmax=0.01, steps=200, maxstep=0.04, memory=50)
DISTANCES = np.arange(0.01, 0.5, 0.001)  # Å, as the Open Catalyst Project's evaluator has them
FORCES = np.arange(0.01, 0.4, 0.001)  # eV/Å
Progress = Callable[[str, int, int], None]
RELAXED = 0.05  # eV/Å: FbT's threshold; OC20's relaxations were to end below it

DEFINITIONS = {
    "distance": "mean distance of a system's free atoms from the relaxed structure of the data, to"
    " the nearest image, Angstrom",
    "adwt": "average distance within threshold: fraction of systems whose distance is below a"
    " threshold, averaged over thresholds 0.01, 0.011 ... 0.499 Angstrom; a system that could not"
    " be evaluated is within none",
    "afbt": "average force below threshold: fraction of systems whose largest force on a free atom"
    " (length of the vector), by the teacher and where the model's relaxation ended, is below a"
    " threshold, averaged over thresholds 0.01, 0.011 ... 0.399 eV/Angstrom; a system without such"
    " forces is below none",
    "fbt": f"the same at {RELAXED} eV/Angstrom",
    "improved": "fraction of systems that end nearer to the relaxed structure than they began",
    "unrelaxed": f"relaxed structures of the data whose own labels are above {RELAXED} eV/Angstrom;"
    " None where one has no forces",
}


@dataclass(frozen=True, slots=True)
class Task:
    """What is relaxed, and how.

    sources, names: as of `read_ends`; limit: at most so many systems, evenly spread
    teacher: labels what was reached, as `label_frames` does; None: there is no AFbT
    part: keeps what was reached, for the same task to go on from; to be removed by whoever has made
        use of a complete result. None: a stop loses it
    """

    sources: Sequence[Path]
    names: str = "sid"
    limit: int | None = None
    settings: Settings = PROTOCOL
    batch_atoms: int = BATCH_ATOMS
    teacher: str | None = None
    part: Path | None = None


class Relaxed(BaseModel):
    """One system. initial, distance: Å, see DEFINITIONS; ending, reason: as of `relaxation.course`;
    force: the teacher's largest one on a free atom, eV/Å. None: there is none."""

    name: str
    n_atoms: int
    n_free: int
    initial: float
    distance: float | None
    ending: str
    reason: str
    steps: int
    fmax: float | None
    force: float | None = None


class Afbt(BaseModel):
    """teacher: whose forces; n_unlabelled: systems it had none for"""

    teacher: str
    afbt: float
    fbt: float
    n_unlabelled: int


class Is2rs(BaseModel):
    """The whole of it. `format` grows by one when a key changes its meaning or goes.

    complete: False when it was interrupted, and the figures are over the systems that had ended
    n_asked: systems that were to be relaxed; n_single: names that had one frame alone
    """

    format: Literal[1] = 1
    task: Literal["is2rs"] = "is2rs"
    version: str = forcenet_md.__version__
    model: Model
    sources: list[str]
    protocol: dict[str, Any]
    complete: bool
    n_asked: int
    n_single: int
    n_systems: int
    unrelaxed: int | None
    endings: dict[str, int]
    mean_steps: float
    adwt: float
    adwt_initial: float
    mean_distance: float | None
    mean_initial: float
    improved: float
    afbt: Afbt | None = None
    systems: list[Relaxed]
    definitions: dict[str, str] = DEFINITIONS


def share_below(values: ArrayLike, thresholds: ArrayLike) -> float:
    """ADwT of distances, AFbT of forces: the fraction of values below a threshold, averaged over
    the thresholds. NaN is below none."""
    return float((np.asarray(values)[:, None] < np.asarray(thresholds)).mean())


def evaluate_is2rs(
    evaluator: Evaluator,
    model: Model,
    task: Task,
    progress: Progress = lambda what, done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Is2rs, list[Atoms]]:
    """The figures, and the structures that were reached.

    progress(what, systems done, in all); stopped: asked after every step
    Raises EvaluationError when no system ended, DataError for data without relaxations, a teacher
    that there is not, and a part file of another task.
    """
    if task.teacher is not None:
        find_teacher(task.teacher)  # before the work
    whole, n_single = read_ends(task.sources, task.names)
    ends = [whole[k] for k in evenly(len(whole), task.limit)]
    structures = [each.first for each in ends]

    def relaxing(done: int, _steps: int) -> None:
        progress("relaxing", done, len(ends))

    with PartFile(task.part, _header(model, task)) as part:
        asked = (part, structures, task.settings, evaluator, task.batch_atoms)
        complete = relax_into(*asked, relaxing, stopped)
        reached = {found.number: (_relaxed(ends, found), found.atoms) for found in part.ended()}
    if not reached:
        goes_on = "; the same command goes on" * bool(task.part)
        raise EvaluationError(f"no relaxation had ended when it was stopped: no figures{goes_on}.")
    numbers = sorted(reached)
    systems = [reached[k][0] for k in numbers]
    afbt = None
    if task.teacher is not None and complete:
        afbt = _afbt(ends, reached, task.teacher, progress)
    distances = np.array([np.nan if s.distance is None else s.distance for s in systems])
    initial = np.array([system.initial for system in systems])
    there = distances[~np.isnan(distances)]
    result = Is2rs(
        model=model,
        sources=[str(source) for source in task.sources],
        protocol=asdict(task.settings),
        complete=complete,
        n_asked=len(ends),
        n_single=n_single,
        n_systems=len(systems),
        unrelaxed=_unrelaxed([ends[k] for k in numbers]),
        endings=dict(Counter(system.ending for system in systems)),
        mean_steps=float(np.mean([system.steps for system in systems])),
        adwt=share_below(distances, DISTANCES),
        adwt_initial=share_below(initial, DISTANCES),
        mean_distance=float(there.mean()) if len(there) else None,
        mean_initial=float(initial.mean()),
        improved=float((distances < initial).mean()),
        afbt=afbt,
        systems=systems,
    )
    return result, [reached[k][1] for k in numbers]


def _header(model: Model, task: Task) -> dict[str, Any]:
    """What must be the same to go on."""
    return {
        "task": "is2rs",
        "structures": [sha256(source) for source in task.sources],
        "names": task.names,
        "limit": task.limit,
        **model.identity,
        **asdict(task.settings),
    }


def _relaxed(ends: Sequence[Ends], found: Ended) -> Relaxed:
    system = ends[found.number]
    return Relaxed(
        name=system.name,
        n_atoms=len(system.free),
        n_free=int(system.free.sum()),
        initial=system.distance(system.first),
        distance=None if found.ending == FAILED else system.distance(found.atoms),
        ending=found.ending,
        reason=found.reason,
        steps=found.steps,
        fmax=found.atoms.info.get("fmax"),
    )


def _afbt(
    ends: Sequence[Ends],
    reached: Mapping[int, tuple[Relaxed, Atoms]],
    teacher: str,
    progress: Progress,
) -> Afbt:
    """The teacher's forces where the relaxations ended; also put into those systems."""
    frames = [(k, atoms) for k, (system, atoms) in reached.items() if system.ending != FAILED]
    elements = sorted({symbol for _, atoms in frames for symbol in atoms.get_chemical_symbols()})
    for done, outcome in enumerate(label_frames(frames, teacher, elements), 1):
        if outcome.atoms is not None:
            force = ends[outcome.number].largest_force(outcome.atoms)
            reached[outcome.number][0].force = force
        progress("labelling", done, len(frames))
    forces = [np.nan if s.force is None else s.force for s, _ in reached.values()]
    return Afbt(
        teacher=teacher,
        afbt=share_below(forces, FORCES),
        fbt=share_below(forces, [RELAXED]),
        n_unlabelled=int(np.isnan(forces).sum()),
    )


def _unrelaxed(ends: Sequence[Ends]) -> int | None:
    try:
        return sum(each.largest_force(each.last) > RELAXED for each in ends)
    except DataError:
        return None


def sentences(result: Is2rs) -> Iterator[str]:
    """The figures for a person."""
    protocol = result.protocol
    if not result.complete:
        yield (
            f"INTERRUPTED: the figures are over the {result.n_systems} of {result.n_asked} systems"
            " that had ended."
        )
    yield (
        f"IS2RS, {result.model.name}: {result.n_systems} systems, {protocol['optimizer']} to"
        f" {protocol['fmax']:g} eV/Å, at most {protocol['steps']} steps of {protocol['maxstep']:g}"
        f" Å; {_endings(result)}; {result.mean_steps:.0f} steps on average."
    )
    mean = "–" if result.mean_distance is None else f"{result.mean_distance:.3f}"
    yield (
        f"ADwT: {100 * result.adwt:.2f} %, of the initial structures"
        f" {100 * result.adwt_initial:.2f} %. Mean distance of free atoms from the relaxed"
        f" structure: {mean} Å, in the beginning {result.mean_initial:.3f} Å."
    )
    yield f"Nearer than in the beginning: {100 * result.improved:.1f} % of the systems."
    if result.afbt:
        afbt = result.afbt
        missing = f"; no forces for {afbt.n_unlabelled}, counted as above" * bool(afbt.n_unlabelled)
        yield (
            f"AFbT by {afbt.teacher}: {100 * afbt.afbt:.2f} %; below {RELAXED} eV/Å:"
            f" {100 * afbt.fbt:.2f} %{missing}."
        )
    elif result.complete:
        yield (
            "AFbT is not computed: it needs forces of the reference where the relaxations ended;"
            " name what computes them with --teacher."
        )
    if result.unrelaxed:
        yield (
            f"{result.unrelaxed} of the data's own relaxed structures have a force above"
            f" {RELAXED} eV/Å by their labels: are these whole relaxations?"
        )
    if result.n_single:
        yield f"{result.n_single} names had one frame alone and are left out."


def _endings(result: Is2rs) -> str:
    return ", ".join(f"{n} {ending}" for ending, n in sorted(result.endings.items()))
