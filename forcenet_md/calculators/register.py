"""The register of ASE calculators: what `--model ase:NAME` serves and `--teacher NAME` labels with.

Both are written NAME[,key=value…]. A calculator without a known cutoff teaches but is not served.
One's own calculators join by an entry point of the group `forcenet_md.teachers`, or as
`module:function`: a function that returns an ASE calculator.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from math import isfinite
from typing import Any, Literal

from ase.calculators import emt, lj
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers, chemical_symbols

from forcenet_md.calculators import foreign
from forcenet_md.errors import DataError

GROUP = "forcenet_md.teachers"
ALL_NUMBERS = frozenset(range(1, len(chemical_symbols)))


@dataclass(frozen=True, slots=True)
class Registered:
    """A calculator that can be named.

    parameters: its options and their defaults; text is taken where the default is text. None if
        they are not known here: then any option is handed on
    numbers: elements it knows; cutoff: that of its neighbour list in Å, None if it cannot be served
    packages: distributions it needs, whose versions are kept with its labels
    periodic: the structures it treats as they are; others it would silently take as periodic
    """

    make: Callable[..., Calculator]
    parameters: dict[str, Any] | None = None
    numbers: frozenset[int] = ALL_NUMBERS
    cutoff: Callable[[Calculator], float] | None = None
    packages: tuple[str, ...] = ("ase",)
    periodic: Literal["any", "all", "all or none"] = "any"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A registered calculator with the options of one specification."""

    name: str
    entry: Registered
    options: dict[str, Any] = field(default_factory=dict)

    def make(self) -> Calculator:
        """A new calculator. Raises DataError."""
        try:
            return self.entry.make(**self.options)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self.name} cannot be made: {error}.") from error

    @property
    def all_options(self) -> dict[str, Any]:
        """The options with the defaults of those not given."""
        return {**(self.entry.parameters or {}), **self.options}


def _defaults(make: Callable[..., Any]) -> dict[str, Any]:
    return {key: value.default for key, value in inspect.signature(make).parameters.items()}


REGISTER: dict[str, Registered] = {
    "emt": Registered(
        make=emt.EMT,
        parameters=emt.EMT.default_parameters,
        numbers=frozenset(atomic_numbers[symbol] for symbol in emt.parameters),
        cutoff=lambda _: 6.0,
    ),
    "lj": Registered(
        make=lj.LennardJones,
        parameters=lj.LennardJones.default_parameters,
        cutoff=lambda calculator: calculator.parameters.rc,
    ),
    "tblite": Registered(
        make=foreign.tblite,
        parameters=_defaults(foreign.tblite),
        packages=("tblite", "ase"),
        periodic="all or none",
    ),
    "chgnet": Registered(
        make=foreign.chgnet,
        parameters=_defaults(foreign.chgnet),
        packages=("chgnet", "torch"),
        periodic="all",
    ),
    "mace": Registered(
        make=foreign.mace,
        parameters=_defaults(foreign.mace),
        packages=("mace-torch", "torch"),
    ),
}


def served() -> list[str]:
    """Names that `--model ase:NAME` takes."""
    return [name for name, entry in REGISTER.items() if entry.cutoff is not None]


def known() -> list[str]:
    """Every name that `choose` takes, those of entry points included."""
    return [*REGISTER, *(name for name in _own() if name not in REGISTER)]


def choose(spec: str) -> Chosen | None:
    """The calculator of NAME[,key=value…], None for an unknown name; imports nothing heavy.

    Raises DataError for an unknown option and for a package that is not there.
    """
    name, settings = split(spec)
    if name in REGISTER:
        entry = REGISTER[name]
    elif ":" in name:
        # One's own module may lie where one works, which a console script does not look at.
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        entry = Registered(make=partial(_call, name), packages=())
    elif (point := _own().get(name)) is not None:
        packages = (point.dist.name,) if point.dist else ()
        entry = Registered(make=partial(_call, point.value), packages=packages)
    else:
        return None
    for package in entry.packages:
        _require(name, package)
    return Chosen(name, entry, options_of(name, entry, settings))


def split(spec: str) -> tuple[str, list[str]]:
    """(name, settings) of `[ase:]NAME[,key=value…]`."""
    name, *settings = spec.removeprefix("ase:").split(",")
    return name, settings


def _call(target: str, **options: Any) -> Calculator:
    module, _, name = target.partition(":")
    try:
        make = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"the teacher {target} cannot be imported ({error}): give module:function of a function"
            " that returns an ASE calculator."
        ) from None
    calculator = make(**options)
    if not hasattr(calculator, "get_forces"):
        raise DataError(f"{target} returned no ASE calculator but {type(calculator).__name__}.")
    return calculator


def _own() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _require(name: str, package: str) -> None:
    try:
        version(package)
    except PackageNotFoundError:
        raise DataError(
            f"the teacher {name} needs the package {package}, which is not installed: pip install"
            f" {package}, or 'forcenet-md[teachers]' for all of them."
        ) from None


def options_of(name: str, entry: Registered, settings: list[str]) -> dict[str, Any]:
    """The values of key=value settings. Raises DataError for a key it does not have."""
    options = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if entry.parameters is None:
            options[key] = _as_it_looks(text)
            continue
        if key not in entry.parameters:
            known = ", ".join(entry.parameters)
            raise DataError(f"{name} has no parameter {key!r}: it has {known}.")
        options[key] = text if isinstance(entry.parameters[key], str) else _number(key, text)
    return options


def _number(key: str, text: str) -> float | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise DataError(f"the value of {key} is {text!r}: give a number, true or false.")
    return value


def _as_it_looks(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
