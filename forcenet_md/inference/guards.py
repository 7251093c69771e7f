"""Guards: what tells that a run has left what its model knows, long before its temperature does.

Each has two limits. Past the first it warns, and the frame is kept, ready to be labelled; past the
second the engine gets a fault in the place of forces. Set-ups and minimisers are never stopped:
they may come from far away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import inf, isnan
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from forcenet_md.errors import EvaluationError, RequestError
from forcenet_md.inference.interface import Capabilities, Kind, Request
from forcenet_md.system import Forces

NEVER = "never"
OFF = "off"
KEEP_EVERY = 100  # answers of a simulation from one kept frame to the next: neighbours are alike
MOST_KEPT = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """What is watched: the limit that warns and the one that stops, infinity (0 of a distance)
    where there is none.

    force: eV/Å, the largest on an atom
    distance: of the closest pair, as the ratio to the shortest distance of its elements in the
        training data (inference/contacts.py); trips below
    spread: eV/Å, of a committee, the largest on an atom
    net: eV/Å per atom, the net force that is taken out
    """

    force: tuple[float, float] = (50.0, 500.0)
    distance: tuple[float, float] = (0.95, 0.75)
    spread: tuple[float, float] = (0.5, 5.0)
    net: tuple[float, float] = (0.1, inf)

    @classmethod
    def of_model(cls, model: Capabilities) -> Limits:
        """Those of a model by default: from the largest force of its training, if it tells."""
        if model.training_range is None:
            return cls()
        largest = model.training_range.largest_force
        return cls(force=(1.5 * largest, 10.0 * largest))

    def changed(self, texts: Sequence[str]) -> Limits:
        """By NAME=WARN,STOP, where either may be `never`, or NAME=off.

        Raises RequestError.
        """
        limits = self
        for text in texts:
            name, _, value = text.partition("=")
            if name not in NAMES:
                raise RequestError(
                    f"'{text}' is no guard: give NAME=WARN,STOP or NAME=off, where NAME is one of"
                    f" {', '.join(NAMES)}; or off for none."
                )
            limits = replace(limits, **{name: _pair(name, value)})
        return limits


NAMES = tuple(field.name for field in fields(Limits))


def _pair(name: str, text: str) -> tuple[float, float]:
    never = 0.0 if name == "distance" else inf
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


class Guards:
    """A `Watcher` (inference/watched.py) that warns, keeps frames, and stops.

    keep: extxyz file that frames are appended to, or None; say: takes a line of the log
    """

    velocities = False

    def __init__(
        self, model: Capabilities, limits: Limits, keep: Path | None, say: Callable[[str], None]
    ) -> None:
        measured = model.training_range is not None
        self.limits = limits
        self._known = "of training" if measured else "that is usual"
        self._keep = keep
        self._say = say
        self._seen: Counter[int] = Counter()  # answers, by simulation
        self._tripped: Counter[tuple[int, str]] = Counter()
        self._next_kept: Counter[int] = Counter()
        self._kept = 0

    def see(self, request: Request, forces: Forces) -> None:
        """Raises EvaluationError past a limit that stops."""
        moment = request.moment
        self._seen[moment.stream] += 1
        for name, value, what in self._figures(request, forces):
            warn, stop = getattr(self.limits, name)
            sign = -1.0 if name == "distance" else 1.0
            if not sign * value > sign * warn:
                continue
            fatal = sign * value > sign * stop and moment.kind is Kind.RUN
            kept = self._keep_frame(request, name, value, fatal)
            said = what()
            if fatal:
                raise EvaluationError(
                    f"{said}: the run has left what the model knows{kept}; start from a better"
                    f" structure or with a smaller timestep, train the model on such frames, or"
                    f" allow it with --guard {name}=off."
                )
            self._tripped[moment.stream, name] += 1
            self._warn(request, name, f"{said}{kept}")

    def close(self) -> None:
        """Nothing is open."""

    def _figures(
        self, request: Request, forces: Forces
    ) -> list[tuple[str, float, Callable[[], str]]]:
        """Guard, value, and the words for it, of all that this answer has."""
        system, extras = request.system, forces.extras

        def atom(row: int) -> str:
            ids = request.moment.ids
            name = row + 1 if ids is None else ids[row]
            return f"atom {name} ({chemical_symbols[system.numbers[row]]})"

        squared = np.einsum("ij,ij->i", forces.forces, forces.forces)
        top = int(squared.argmax())
        largest = float(np.sqrt(squared[top]))
        found: list[tuple[str, float, Callable[[], str]]] = [
            ("force", largest, lambda: f"the force on {atom(top)} is {largest:.3g} eV/Å")
        ]
        if (contact := extras.get("contact")) is not None:
            found.append(
                (
                    "distance",
                    contact.ratio,
                    lambda: (
                        f"{atom(contact.a)} and {atom(contact.b)} are {contact.distance:.3g} Å"
                        f" apart, {contact.ratio:.2f} of the shortest {self._known}"
                    ),
                )
            )
        if (spread := forces.force_spread) is not None and len(spread):
            most = int(spread.argmax())
            found.append(
                (
                    "spread",
                    float(spread[most]),
                    lambda: f"the committee is {spread[most]:.3g} eV/Å apart on {atom(most)}",
                )
            )
        net = forces.net_force_per_atom
        found.append(("net", net, lambda: f"a net force of {net:.3g} eV/Å per atom was taken out"))
        return found

    def _warn(self, request: Request, name: str, said: str) -> None:
        """The first time, and then at every tenth, hundredth, … time."""
        moment = request.moment
        times = self._tripped[moment.stream, name]
        if times != 10 ** (len(str(times)) - 1):
            return
        where = f"simulation {moment.stream + 1}, " if moment.stream else ""
        step = self._seen[moment.stream] if moment.step is None else moment.step
        often = "" if times == 1 else f" ({times} times by now)"
        self._say(f"guard: {where}step {step}: {said}{often}")

    def _keep_frame(self, request: Request, name: str, value: float, fatal: bool) -> str:
        """What to say of it."""
        stream = request.moment.stream
        if self._keep is None:
            return ""
        due = self._seen[stream] >= self._next_kept[stream] and self._kept < MOST_KEPT
        if not (due or fatal):
            return ""
        self._next_kept[stream] = self._seen[stream] + KEEP_EVERY
        self._kept += 1
        try:
            ase.io.write(self._keep, frame(request, name, value), append=True)
        except OSError as error:
            self._say(f"guard: {self._keep} cannot be written ({error.strerror}): no frame is kept")
            self._keep = None
            return ""
        return f" (the frame is kept in {self._keep})"


def frame(request: Request, name: str, value: float) -> Atoms:
    """Positions and cell, with the guard that tripped, its value, and the step: no forces, which
    are for a teacher to say."""
    info: dict[str, object] = {"guard": name, "seen": value}
    if request.moment.step is not None:
        info["step"] = request.moment.step
    system = request.system
    return Atoms(system.numbers, system.positions, cell=system.cell, pbc=system.pbc, info=info)
