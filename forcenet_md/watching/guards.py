"""Guards: what tells that a run has left what its model knows, long before its temperature does.

Each has two limits. Past the first it warns, and the frame is kept, ready to be labelled; past the
second the engine gets a fault in the place of forces. Set-ups and minimisers are never stopped:
they may come from far away. An engine that does not say what it does is taken to run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ase import Atoms
from ase.data import chemical_symbols

from forcenet_md.errors import EvaluationError, ForceNetError, NotFiniteError
from forcenet_md.graph.frame import Array
from forcenet_md.inference.interface import Capabilities, Kind, Moment, Request
from forcenet_md.system import Contact, Forces, System, largest_force
from forcenet_md.watching.guard_limits import OFF, WARN, Limits

if TYPE_CHECKING:
    from forcenet_md.inference.local import Seen

KEEP_EVERY = 100  # answers of a simulation from one kept frame to the next: neighbours are alike
MOST_KEPT = 200
OPTION = "--guard {}"  # how a user gives one, unless told otherwise
NOT_FINITE = "finite"  # the guard of frames on which the model has failed


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """What the user asked for. texts: see `Limits.changed`, or off alone; keep: see `Guards`.
    option: how the user gives such a text.
    """

    texts: tuple[str, ...] = ()
    keep: Path | None = None
    option: str = OPTION

    def __post_init__(self) -> None:
        """Raises RequestError: before a model is loaded."""
        if self.texts != (OFF,):
            Limits().changed(self.texts)

    def make(self, model: Capabilities, say: Callable[[str], None]) -> Guards | None:
        """None where all are off."""
        if self.texts == (OFF,):
            return None
        return Guards(Limits.of_model(model).changed(self.texts), self.keep, say, self.option)


class Figure(NamedTuple):
    """What a guard looks at, and the words for it."""

    name: str
    value: float
    words: Callable[[], str]


@dataclass(slots=True)
class Course:
    """What guards know of one simulation.

    answers: how many there have been; next_kept: the first of which a frame may be kept again
    last: figures of the last one, and its moment; tripped: how often each guard has warned
    """

    answers: int = 0
    next_kept: int = 0
    last: dict[str, float] = field(default_factory=dict)
    moment: Moment = field(default_factory=Moment)
    tripped: Counter[str] = field(default_factory=Counter)


class Guards:
    """A `Watcher` (inference/watched.py) that warns, keeps frames, and stops.

    keep: extxyz file that frames are appended to, or None; say: takes a line of the log; option:
    see `GuardOptions`
    """

    velocities = False

    def __init__(
        self,
        limits: Limits,
        keep: Path | None,
        say: Callable[[str], None],
        option: str = OPTION,
    ) -> None:
        self.limits = limits
        self._option = option
        self._keep = None if keep is None else keep.absolute()  # as others are to find it
        self._say = say
        self._courses: defaultdict[int, Course] = defaultdict(Course)  # by stream
        self._kept = 0
        self._unwritable = False

    def see(self, request: Request, forces: Forces) -> None:
        """Raises EvaluationError past a limit that stops."""
        self.judge(request.moment, figures(request, forces), lambda: to_atoms(request.system))

    def judge(
        self, moment: Moment, figures: Iterable[Figure], frame: Callable[[], Atoms | None]
    ) -> None:
        """Raises EvaluationError past a limit that stops.

        frame: the atoms; with figures that all ranks know all of them call it, or none, and those
            that have not got the atoms say None.
        """
        course = self._courses[moment.stream]
        if course.answers and not moment.goes_on(course.moment):
            course = self._courses[moment.stream] = Course()
        course.answers += 1
        course.last, course.moment = {}, moment
        runs = moment.kind not in (Kind.SETUP, Kind.MINIMISE)
        for name, value, words in figures:
            course.last[name] = value
            warn, stop = getattr(self.limits, name)
            sign = -1.0 if name == "distance" else 1.0
            fatal = runs and sign * value > sign * stop
            if not (fatal or sign * value > sign * warn):
                continue
            kept = ""
            if fatal or (course.answers >= course.next_kept and self._kept < MOST_KEPT):
                course.next_kept = course.answers + KEEP_EVERY
                kept = self._keep_frame(moment, frame, {"guard": name, "seen": value})
            if fatal:
                relaxes = f"; of a relaxation, {self._option.format(WARN)} stops nothing"
                else_ = relaxes if moment.kind is Kind.UNKNOWN else ""
                raise EvaluationError(
                    f"{words()}: the run has left what the model knows{kept}; start from a better"
                    f" structure or with a smaller timestep, train the model on such frames, or"
                    f" allow it with {self._option.format(f'{name}=off')}{else_}."
                )
            course.tripped[name] += 1
            self._warn(moment, name, f"{words()}{kept}")

    def see_fault(self, request: Request, fault: ForceNetError) -> ForceNetError:
        """See `failed`."""
        return self.failed(request.moment, fault, lambda: to_atoms(request.system))

    def failed(
        self, moment: Moment, fault: ForceNetError, frame: Callable[[], Atoms | None]
    ) -> ForceNetError:
        """What is to be told of a fault of the model itself: of forces that are not finite the
        frame is kept. frame: as `judge` has it"""
        if not isinstance(fault, NotFiniteError):
            return fault
        kept = self._keep_frame(moment, frame, {"guard": NOT_FINITE})
        return NotFiniteError(f"{str(fault).removesuffix('.')}{kept}.") if kept else fault

    def left(self, stream: int) -> None:
        """Nothing is to be said of it then."""

    def figures(self, stream: int) -> dict[str, str]:
        """The last of each, and how often it has warned."""
        course = self._courses.get(stream, Course())
        told = {name: f"{value:.4g}" for name, value in course.last.items()}
        warned = course.tripped.total()
        return told | ({"warned": str(warned)} if warned else {})

    def close(self) -> None:
        """Nothing is open."""

    def _warn(self, moment: Moment, name: str, said: str) -> None:
        """The first time, and then at every tenth, hundredth, … time."""
        course = self._courses[moment.stream]
        times = course.tripped[name]
        if times != 10 ** (len(str(times)) - 1):
            return
        where = f"simulation {moment.stream + 1}, " if moment.stream else ""
        step = course.answers if moment.step is None else moment.step
        often = "" if times == 1 else f" ({times} times by now)"
        self._say(f"guard: {where}step {step}: {said}{often}")

    def _keep_frame(
        self, moment: Moment, frame: Callable[[], Atoms | None], info: dict[str, object]
    ) -> str:
        """What to say of it. info: goes into the file beside the frame and the step"""
        if self._keep is None:
            return ""
        self._kept += 1
        atoms = frame()
        if atoms is None or self._unwritable:
            return ""
        # No forces: they are for a teacher to say.
        atoms.info |= info if moment.step is None else info | {"step": moment.step}
        from ase.io import write  # half a second, of every start, for what is rare

        try:
            # Alone: ASE has all ranks of MPI write together, if not told.
            write(self._keep, atoms, format="extxyz", append=True, parallel=False)
        except OSError as error:
            self._say(f"guard: {self._keep} cannot be written ({error.strerror}): no frame is kept")
            self._unwritable = True
            return ""
        return f" (the frame is kept in {self._keep})"


def guarded(
    guards: Guards | None,
    compute: Callable[[], tuple[Array, Seen]],
    moment: Moment,
    frame: Callable[[], Atoms | None],
) -> tuple[Array, Seen]:
    """The forces on atoms that ranks have apart. Collective; frame: see `Guards.judge`.

    Raises what `compute` raises, and EvaluationError past a limit that stops, on all ranks.
    """
    if guards is None:
        return compute()
    try:
        forces, seen = compute()
    except ForceNetError as fault:
        raise guards.failed(moment, fault, frame) from None
    guards.judge(moment, figures_of_ranks(seen), frame)
    return forces, seen


def figures_of_ranks(seen: Seen) -> list[Figure]:
    """Of atoms that ranks have apart."""
    found = [force_figure(seen.largest, f"atom {seen.on}")]
    found += rigid_figures(seen.net_force, seen.torque_force)
    if seen.contact is not None:
        a, b = (f"atom {i}" for i in (seen.contact.a, seen.contact.b))
        found.append(distance_figure(seen.contact, a, b))
    return found


def to_atoms(system: System) -> Atoms:
    return Atoms(system.numbers, system.positions, cell=system.cell, pbc=system.pbc)


def figures(request: Request, forces: Forces) -> list[Figure]:
    """Of all that this answer has."""
    numbers, ids = request.system.numbers, request.moment.ids

    def atom(row: int) -> str:
        return atom_name(row + 1 if ids is None else ids[row], numbers[row])

    top, largest = largest_force(forces.forces)
    found = [force_figure(largest, atom(top))]
    contact = forces.contact
    if contact is not None:
        found.append(distance_figure(contact, atom(contact.a), atom(contact.b)))
    spread = forces.force_spread
    if spread is not None and len(spread):
        most = int(spread.argmax())
        words = f"the committee is {spread[most]:.3g} eV/Å apart on {atom(most)}"
        found.append(Figure("spread", float(spread[most]), lambda: words))
    return found + rigid_figures(forces.net_force_per_atom, forces.torque_force)


def atom_name(number: int, z: int) -> str:
    """number: from 1, or the engine's own; z: atomic number"""
    return f"atom {number} ({chemical_symbols[z]})"


def force_figure(largest: float, atom: str) -> Figure:
    """largest: the length of the largest force on an atom, eV/Å; atom: its name in a sentence"""
    return Figure("force", largest, lambda: f"the force on {atom} is {largest:.3g} eV/Å")


def distance_figure(contact: Contact, a: str, b: str) -> Figure:
    known = "of training" if contact.trained else "that is usual"
    return Figure(
        "distance",
        contact.ratio,
        lambda: (
            f"{a} and {b} are {contact.distance:.3g} Å apart,"
            f" {contact.ratio:.2f} of the shortest {known}"
        ),
    )


def rigid_figures(net: float, torque: float | None) -> list[Figure]:
    """Of what is taken out of forces, eV/Å per atom; torque: None where none is."""
    found = [Figure("net", net, lambda: f"a net force of {net:.3g} eV/Å per atom was taken out")]
    if torque is not None:
        words = f"a torque with forces of {torque:.3g} eV/Å per atom was taken out"
        found.append(Figure("torque", torque, lambda: words))
    return found
