"""The temperatures of a run of i-PI, which sends no velocities: from the properties that it prints,
as `temperature(Cu){kelvin}`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import isfinite
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from forcenet_md.blocking import with_error
from forcenet_md.engines.ipi_input import DYNAMICS, IpiInput
from forcenet_md.engines.ipi_xml import entries
from forcenet_md.inference.interface import Request
from forcenet_md.system import Forces
from forcenet_md.watching.heat import TOLD_EVERY
from forcenet_md.watching.running import LateMean

LOOK = 1.0  # s between two looks at the file
# Of an element or an atom by its label, or of all atoms; of all beads.
COLUMN = re.compile(r"temperature(?:\((?:atom=)?([A-Za-z]+)\))?(?:\{(kelvin)?\})?")
HEADER = re.compile(r"# column +(\d+) +--> (\S+)")
KELVIN = 1.0 / 3.1668152e-6  # per Hartree: i-PI's own units, where it is told none
ALL = "all"


def printed(ipi: IpiInput) -> dict[str, Path]:
    """The file that has the temperature of each element, by its symbol, or of `all` atoms.

    None of several systems, whose files are more than one.
    """
    output = ipi.simulation.find("output")
    if output is None or len(ipi.systems) != 1:
        return {}
    prefix = output.get("prefix", "i-pi").strip()
    found: dict[str, Path] = {}
    for properties in output.findall("properties"):
        name = properties.get("filename", "out").strip()
        path = Path(f"{prefix}.{name}" if prefix else name)
        for word in entries(properties):
            if match := COLUMN.fullmatch(word.replace(" ", "")):
                found.setdefault(match[1] or ALL, path)
    return found


def advice(ipi: IpiInput, numbers: Iterable[int]) -> str:
    """How to let i-PI print the temperature of each element, which a thermostat may not hold though
    it holds the mean (Bigi, Langer, Ceriotti, arXiv:2412.11569); "" where it does, or they are all
    one. numbers: of its atoms"""
    symbols = sorted({chemical_symbols[n] for n in numbers})
    missing = [symbol for symbol in symbols if symbol not in printed(ipi)]
    moves = any(m.get("mode") in DYNAMICS for system in ipi.systems for m in system.motions)
    if not missing or not moves or len(symbols) < 2 or len(ipi.systems) > 1:
        return ""
    columns = ", ".join(f"temperature({symbol}){{kelvin}}" for symbol in missing)
    return (
        f"{ipi.path} prints no temperature of each element, which may differ where forces are no"
        f" gradient: write {columns} into its <properties>, and they are told here"
    )


class IpiTemperatures:
    """A `Watcher` (inference/watched.py) that reads what i-PI has printed, now and then."""

    velocities = False

    def __init__(self, path: Path, goes_on: bool, say: Callable[[str], None]) -> None:
        """path: of the properties; goes_on: i-PI appends to it; say: takes a line of the log."""
        self._path = path
        self._say = say
        self._earlier = path.stat() if path.exists() else None  # i-PI will put it aside
        self._skipped = self._earlier.st_size if goes_on and self._earlier else 0
        self._goes_on = goes_on
        self._read = 0  # bytes
        self._columns: dict[str, tuple[int, float]] = {}  # place, and K of one unit
        self._figures: LateMean | None = None
        self._now = np.zeros(0)
        self._looked = self._told = time.monotonic()

    def see(self, request: Request, forces: Forces) -> None:
        """Looks at the file, if it has not for a while."""
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked = now
            self._look()
        if now - self._told >= TOLD_EVERY:
            self._told = now
            self._tell()

    def left(self, stream: int) -> None:
        """Nothing is to be said of it then."""

    def figures(self, stream: int) -> dict[str, str]:
        """The last ones."""
        if stream or not len(self._now):
            return {}
        pairs = zip(self._columns, self._now, strict=True)
        return {"temperature": " ".join(f"{name} {value:.4g}" for name, value in pairs)}

    def close(self) -> None:
        """Tells the last means."""
        self._look()
        self._tell()

    def _look(self) -> None:
        """A file that cannot be read is not this run's fault."""
        with suppress(OSError), self._path.open("rb") as file:
            aside = self._earlier if not self._goes_on else None
            if aside is not None and self._path.stat().st_ino == aside.st_ino:
                return  # i-PI has not yet begun
            file.seek(self._read)
            text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            for line in whole.decode(errors="replace").splitlines(keepends=True):
                self._read += len(line.encode())
                self._take(line, self._read > self._skipped)

    def _take(self, line: str, is_new: bool) -> None:
        if header := HEADER.match(line):
            if match := COLUMN.fullmatch(header[2]):
                unit = 1.0 if match[2] else KELVIN
                self._columns.setdefault(match[1] or ALL, (int(header[1]) - 1, unit))
            return
        if not is_new or line.startswith("#") or not self._columns:
            return
        words = line.split()
        try:
            values = np.array([float(words[k]) * unit for k, unit in self._columns.values()])
        except (ValueError, IndexError):
            return
        if self._figures is None:
            self._figures = LateMean(len(values))
        self._figures.add(values)
        self._now = values

    def _tell(self) -> None:
        if self._figures is None:
            return
        late = self._figures.late
        means = zip(self._columns, late.mean, late.error, strict=True)
        temperatures = " ".join(
            f"{name} {with_error(float(mean), float(error))}"
            for name, mean, error in means
            if isfinite(mean)
        )
        self._say(
            f"heat: mean of the last {late.count} of {self._figures.total} lines of {self._path}:"
            f" temperatures in K {temperatures}"
        )
