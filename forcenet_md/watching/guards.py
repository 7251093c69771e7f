"""Guards: what tells that a run has left what its model knows, long before its temperature does.

Each has two limits. Past the first it warns, and the frame is kept, ready to be labelled; past the
second the engine gets a fault in the place of forces. Set-ups and minimisers are never stopped:
they may come from far away. An engine that does not say what it does is taken to run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from forcenet_md.errors import EvaluationError, RequestError
from forcenet_md.inference.contacts import Contact
from forcenet_md.inference.interface import Capabilities, Kind, Moment, Request
from forcenet_md.system import Forces, System, largest_force

if TYPE_CHECKING:
    from forcenet_md.inference.local import Seen

NEVER = "never"
OFF = "off"
WARN = "warn"
KEEP_EVERY = 100  # answers of a simulation from one kept frame to the next: neighbours are alike
MOST_KEPT = 200
IF_IT_RELAXES = "; of a relaxation, --guard warn stops nothing"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is watched: the limit that warns and the one that stops, infinity (0 of a distance)
    where there is none.

    force: eV/Å, the largest on an atom
    distance: of the closest pair, as the ratio to the shortest distance of its elements in the
        training data (inference/contacts.py); trips below
    spread: eV/Å, of a committee, the largest on an atom
    net: eV/Å per atom, the net force that is taken out; means nothing, and is off, where the model
        was trained without it
    """

    force: tuple[float, float] = (50.0, 500.0)
    distance: tuple[float, float] = (0.95, 0.75)
    spread: tuple[float, float] = (0.5, 5.0)
    net: tuple[float, float] = (0.1, inf)

    @classmethod
    def of_model(cls, model: Capabilities) -> Limits:
        """Those of a model by default: from the largest force of its training, if it tells."""
        limits = cls(net=(inf, inf)) if model.net_force_removed else cls()
        if model.training_range is None:
            return limits
        largest = model.training_range.largest_force
        return replace(limits, force=(1.5 * largest, 10.0 * largest))

    def changed(self, texts: Sequence[str]) -> Limits:
        """By NAME=WARN,STOP, where either may be `never`, or NAME=off, or `warn`, after which
        none stops.

        Raises RequestError.
        """
        limits = self
        for text in texts:
            name, _, value = text.partition("=")
            if text == WARN:
                limits = limits.without_stops()
                continue
            if name not in NAMES:
                raise RequestError(
                    f"'{text}' is no guard: give NAME=WARN,STOP or NAME=off, where NAME is one of"
                    f" {', '.join(NAMES)}; warn to stop nothing, or off for none."
                )
            limits = replace(limits, **{name: _pair(name, value)})
        return limits

    def without_stops(self) -> Limits:
        return Limits(**{name: (getattr(self, name)[0], _never(name)) for name in NAMES})


NAMES = tuple(field.name for field in fields(Limits))


def _never(name: str) -> float:
    return 0.0 if name == "distance" else inf


def _pair(name: str, text: str) -> tuple[float, float]:
    never = _never(name)
    words = [NEVER, NEVER] if text == OFF else text.split(",")
    try:
        warn, stop = (never if word == NEVER else float(word) for word in words)
    except ValueError:
        warn = stop = np.nan
    in_order = stop <= warn if name == "distance" else warn <= stop
    if isnan(warn) or isnan(stop) or warn < 0.0 or stop < 0.0 or not (in_order or warn == never):
        first, last = ("0.95", "0.75") if name == "distance" else ("50", "500")
        raise RequestError(
            f"--guard {name}={text} is not understood: give {name}=WARN,STOP as in"
            f" {name}={first},{last} ('never' for either), or {name}=off."
        )
    return warn, stop


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """What the user asked for. texts: see `Limits.changed`, or off alone; keep: see `Guards`."""

    texts: tuple[str, ...] = ()
    keep: Path | None = None

    def __post_init__(self) -> None:
        """Raises RequestError: before a model is loaded."""
        if self.texts != (OFF,):
            Limits().changed(self.texts)

    def make(self, model: Capabilities, say: Callable[[str], None]) -> Guards | None:
        """None where all are off."""
        if self.texts == (OFF,):
            return None
        return Guards(Limits.of_model(model).changed(self.texts), self.keep, say)


class Figure(NamedTuple):
    """What a guard looks at, and the words for it."""

    name: str
    value: float
    words: Callable[[], str]


class Guards:
    """A `Watcher` (inference/watched.py) that warns, keeps frames, and stops.

    keep: extxyz file that frames are appended to, or None; say: takes a line of the log
    """

    velocities = False

    def __init__(self, limits: Limits, keep: Path | None, say: Callable[[str], None]) -> None:
        self.limits = limits
        self._keep = None if keep is None else keep.absolute()  # as others are to find it
        self._say = say
        self._seen: Counter[int] = Counter()  # answers, by simulation
        self._tripped: Counter[tuple[int, str]] = Counter()
        self._next_kept: Counter[int] = Counter()
        self._last: dict[int, dict[str, float]] = {}
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
        self._seen[moment.stream] += 1
        last: dict[str, float] = {}
        self._last[moment.stream] = last
        runs = moment.kind not in (Kind.SETUP, Kind.MINIMISE)
        for name, value, words in figures:
            last[name] = value
            warn, stop = getattr(self.limits, name)
            sign = -1.0 if name == "distance" else 1.0
            fatal = runs and sign * value > sign * stop
            if not (fatal or sign * value > sign * warn):
                continue
            kept = self._keep_frame(moment, name, value, fatal, frame)
            said = words()
            if fatal:
                else_ = IF_IT_RELAXES if moment.kind is Kind.UNKNOWN else ""
                raise EvaluationError(
                    f"{said}: the run has left what the model knows{kept}; start from a better"
                    f" structure or with a smaller timestep, train the model on such frames, or"
                    f" allow it with --guard {name}=off{else_}."
                )
            self._tripped[moment.stream, name] += 1
            self._warn(moment, name, f"{said}{kept}")

    def figures(self, stream: int) -> dict[str, str]:
        """The last of each, and how often it has warned."""
        told = {name: f"{value:.4g}" for name, value in self._last.get(stream, {}).items()}
        warned = sum(n for (of, _), n in self._tripped.items() if of == stream)
        return told | ({"warned": str(warned)} if warned else {})

    def close(self) -> None:
        """Nothing is open."""

    def _warn(self, moment: Moment, name: str, said: str) -> None:
        """The first time, and then at every tenth, hundredth, … time."""
        times = self._tripped[moment.stream, name]
        if times != 10 ** (len(str(times)) - 1):
            return
        where = f"simulation {moment.stream + 1}, " if moment.stream else ""
        step = self._seen[moment.stream] if moment.step is None else moment.step
        often = "" if times == 1 else f" ({times} times by now)"
        self._say(f"guard: {where}step {step}: {said}{often}")

    def _keep_frame(
        self,
        moment: Moment,
        name: str,
        value: float,
        fatal: bool,
        frame: Callable[[], Atoms | None],
    ) -> str:
        """What to say of it."""
        stream = moment.stream
        due = self._seen[stream] >= self._next_kept[stream] and self._kept < MOST_KEPT
        if self._keep is None or not (due or fatal):
            return ""
        self._next_kept[stream] = self._seen[stream] + KEEP_EVERY
        self._kept += 1
        atoms = frame()
        if atoms is None or self._unwritable:
            return ""
        # No forces: they are for a teacher to say.
        atoms.info |= {"guard": name, "seen": value}
        if moment.step is not None:
            atoms.info["step"] = moment.step
        try:
            # Alone: ASE has all ranks of MPI write together, if not told.
            ase.io.write(self._keep, atoms, format="extxyz", append=True, parallel=False)
        except OSError as error:
            self._say(f"guard: {self._keep} cannot be written ({error.strerror}): no frame is kept")
            self._unwritable = True
            return ""
        return f" (the frame is kept in {self._keep})"


def figures_of_ranks(seen: Seen) -> list[Figure]:
    """Of atoms that ranks have apart."""
    found = [force_figure(seen.largest, f"atom {seen.on}"), net_figure(seen.net_force)]
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
        name = row + 1 if ids is None else ids[row]
        return f"atom {name} ({chemical_symbols[numbers[row]]})"

    top, largest = largest_force(forces.forces)
    found = [force_figure(largest, atom(top))]
    contact = forces.extras.get("contact")
    if contact is not None:
        found.append(distance_figure(contact, atom(contact.a), atom(contact.b)))
    spread = forces.force_spread
    if spread is not None and len(spread):
        most = int(spread.argmax())
        words = f"the committee is {spread[most]:.3g} eV/Å apart on {atom(most)}"
        found.append(Figure("spread", float(spread[most]), lambda: words))
    return [*found, net_figure(forces.net_force_per_atom)]


def force_figure(largest: float, atom: str) -> Figure:
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


def net_figure(net: float) -> Figure:
    return Figure("net", net, lambda: f"a net force of {net:.3g} eV/Å per atom was taken out")
