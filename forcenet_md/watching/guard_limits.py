"""The limits of guards (guards.py): those of a model by default, and how a user changes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import inf, isnan, nan

from forcenet_md.errors import RequestError
from forcenet_md.inference.interface import Capabilities

NEVER = "never"
OFF = "off"
WARN = "warn"


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
    torque: eV/Å per atom, the forces that are taken out of isolated molecules with the torque,
        which no training leaves free
    """

    force: tuple[float, float] = (50.0, 500.0)
    distance: tuple[float, float] = (0.95, 0.75)
    spread: tuple[float, float] = (0.5, 5.0)
    net: tuple[float, float] = (0.1, inf)
    torque: tuple[float, float] = (0.2, inf)

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
        warn = stop = nan
    in_order = stop <= warn if name == "distance" else warn <= stop
    if isnan(warn) or isnan(stop) or warn < 0.0 or stop < 0.0 or not (in_order or warn == never):
        first, last = ("0.95", "0.75") if name == "distance" else ("50", "500")
        raise RequestError(
            f"--guard {name}={text} is not understood: give {name}=WARN,STOP as in"
            f" {name}={first},{last} ('never' for either), or {name}=off."
        )
    return warn, stop
