"""H5MD files as snapshots of a run (de Buyl, Colberg and Höfling, Comput. Phys. Commun. 185,
1546 (2014); https://www.nongnu.org/h5md/h5md.html, version 1.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import units as u
from ase.data import atomic_masses
from numpy.typing import NDArray

from forcenet_md.errors import DataError
from forcenet_md.simulation.snapshot import Snapshot

# One of each in Å, ps, eV and amu, as H5MD's units module writes them, and as MDAnalysis does.
LENGTHS = {"Angstrom": 1.0, "angstrom": 1.0, "A": 1.0, "Å": 1.0, "nm": 10.0, "pm": 0.01}
TIMES = {"ps": 1.0, "fs": 1e-3, "ns": 1e3}
ENERGIES = {"eV": 1.0, "kJ mol-1": u.kJ / u.mol, "kcal mol-1": u.kcal / u.mol}
MASSES = {"u": 1.0, "amu": 1.0, "Da": 1.0, "g mol-1": 1.0}
VELOCITIES = {
    form.format(length, time): a / b
    for length, a in LENGTHS.items()
    for time, b in TIMES.items()
    for form in ("{} {}-1", "{}/{}")
}
ENERGY_NAMES = ("potential_energy", "energy")

Remark = Callable[[str], None]


def read_h5md(path: Path, remark: Remark = lambda sentence: None) -> Iterator[Snapshot]:
    """The frames of the file's group of particles, in order of time.

    remark: told what the file does not say and was assumed. Raises DataError for a file that is
    not H5MD, has no positions or elements, several groups, or units that are not known.
    """
    if not path.stat().st_size:
        raise DataError(f"{path} is empty: there is nothing to analyse.")
    try:
        with h5py.File(path, "r") as file:
            yield from _Reader(file, path, remark)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{path} cannot be read as H5MD ({str(error).splitlines()[0]}): it is damaged, still"
            " being written, or of another format."
        ) from None


def last_word(steps: NDArray[Any]) -> NDArray[np.int64]:
    """The frames whose step no later one has again or is before."""
    later = np.minimum.accumulate(steps[::-1])[::-1]
    return np.flatnonzero(np.append(steps[:-1] < later[1:], True)[: len(steps)])


class _Element:
    """A time-dependent element of H5MD: `value` with `step` and `time`; or a fixed one."""

    def __init__(self, node: Any, factor: float = 1.0) -> None:
        self.fixed = isinstance(node, h5py.Dataset)
        self.value = node if self.fixed else node["value"]
        self.factor = factor
        n = 0 if self.fixed else len(self.value)
        self.steps = np.empty(0) if self.fixed else _counted(node["step"], n)
        timed = not self.fixed and "time" in node
        self.times = _counted(node["time"], n) if timed else np.full(n, np.nan)

    def like(self, others: NDArray[Any]) -> NDArray[np.int64]:
        """[n] rows with the steps of others [n]; −1 where there is none."""
        if np.array_equal(self.steps, others):  # the same steps may come twice, after a restart
            return np.arange(len(others))
        row_of = {int(step): row for row, step in enumerate(self.steps)}
        return np.array([row_of.get(int(step), -1) for step in others], dtype=np.int64)

    def at(self, row: int) -> NDArray[Any] | None:
        """The value in a row, or None if there is none or it is not known (NaN)."""
        if row < 0 and not self.fixed:
            return None
        value = np.asarray(self.value[()] if self.fixed else self.value[row])
        if value.dtype.kind == "f" and np.isnan(value).any():
            return None
        return value * self.factor if self.factor != 1.0 else value


def _counted(node: h5py.Dataset, n: int) -> NDArray[Any]:
    """[n] steps or times: a list of them, or a first one and an increment."""
    if node.shape == ():
        offset = node.attrs.get("offset", 0)
        return np.asarray(offset + node[()] * np.arange(n))
    return np.asarray(node[:n])


class _Reader:
    def __init__(self, file: h5py.File, path: Path, remark: Remark) -> None:
        self.path, self.remark = path, remark
        group = self._group(file)
        if "position" not in group or "species" not in group:
            raise DataError(
                f"{path} has no position or no species of its particles: record both, species as"
                " atomic numbers."
            )
        self.positions = _Element(
            group["position"], self._factor(group["position"], "position", LENGTHS)
        )
        box = group["box"]
        boundary = box.attrs.get("boundary", ["none"] * 3)
        self.pbc = np.array([_text(word) == "periodic" for word in boundary], dtype=bool)
        observables = file.get("observables", {})
        energy = next((name for name in ENERGY_NAMES if name in observables), "")
        self._elements = {
            "species": _Element(group["species"]),
            "image": _Element(group["image"]) if "image" in group else None,
            "velocity": self._element(group, "velocity", VELOCITIES),
            "mass": self._element(group, "mass", MASSES),
            "edges": self._element(box, "edges", LENGTHS),
            "energy": self._element(observables, energy, ENERGIES),
        }
        time = group["position"].get("time")
        runs = "observables/run/value"  # of our own recordings
        self._where = f" ({runs} tells which run each frame is of)" if runs in file else ""
        self.time_factor = 1.0 if time is None else self._factor(time, "time", TIMES)

    def __iter__(self) -> Iterator[Snapshot]:
        if self.positions.fixed:
            raise DataError(f"{self.path} has positions of one moment alone: it is no trajectory.")
        steps = self.positions.steps
        rows = {
            name: element.like(steps) if element is not None else np.full(len(steps), -1)
            for name, element in self._elements.items()
        }

        def value(name: str, k: int) -> NDArray[Any] | None:
            element = self._elements[name]
            return None if element is None else element.at(int(rows[name][k]))

        for k in self._counting(steps):
            numbers = self._required(value("species", k), k, "species").astype(np.int64)
            if len(numbers) and not (numbers.min() > 0 and numbers.max() < len(atomic_masses)):
                raise DataError(f"the species of {self.path} are no atomic numbers.")
            positions = self._required(self.positions.at(k), k, "positions").astype(np.float64)
            cell = np.zeros((3, 3))
            if self._elements["edges"] is not None:
                edges = self._required(value("edges", k), k, "box").astype(np.float64)
                cell = np.diag(edges) if edges.ndim == 1 else edges
            images = value("image", k)
            velocities, masses, energy = (value(n, k) for n in ("velocity", "mass", "energy"))
            time = float(self.positions.times[k]) * self.time_factor
            yield Snapshot(
                numbers=numbers,
                masses=np.asarray(atomic_masses[numbers] if masses is None else masses, float),
                positions=positions if images is None else positions + images @ cell,
                cell=cell,
                pbc=self.pbc,
                velocities=None if velocities is None else velocities.astype(np.float64),
                energy=None if energy is None else float(energy),
                step=int(steps[k]),
                time=None if np.isnan(time) else time,
                unwrapped=images is not None,
            )

    def _counting(self, steps: NDArray[Any]) -> NDArray[np.int64]:
        counting = last_word(steps)
        again = len(steps) - len(counting)
        if again:
            frames = "1 frame" if again == 1 else f"{again} frames"
            were, are = ("was", "is") if again == 1 else ("were", "are")
            self.remark(
                f"{frames} of {self.path} {were} run again from an earlier step and {are} left"
                f" out{self._where}."
            )
        return counting

    def _group(self, file: h5py.File) -> h5py.Group:
        if "h5md" not in file or "particles" not in file:
            raise DataError(
                f"{self.path} is no H5MD file: it has no groups 'h5md' and 'particles'."
            )
        names = list(file["particles"])
        if "all" in names:
            return file["particles/all"]
        if len(names) != 1:
            raise DataError(
                f"{self.path} has the particles {', '.join(names) or 'of no group'}, and none"
                " called 'all': give a file with one group of them."
            )
        return file["particles"][names[0]]

    def _element(self, group: Any, name: str, units: dict[str, float]) -> _Element | None:
        if name not in group:
            return None
        return _Element(group[name], self._factor(group[name], name, units))

    def _factor(self, node: Any, name: str, units: dict[str, float]) -> float:
        """H5MD has the unit on the element's value; some writers put it on the element."""
        value = node if isinstance(node, h5py.Dataset) else node["value"]
        unit = value.attrs.get("unit", node.attrs.get("unit"))
        if unit is None:
            self.remark(f"{self.path} has no unit of {name}: it is taken in {next(iter(units))}.")
            return 1.0
        unit = _text(unit)
        if unit not in units:
            raise DataError(
                f"{self.path} has {name} in {unit!r}, which is not known: write it in"
                f" {next(iter(units))}."
            )
        return units[unit]

    def _required(self, value: NDArray[Any] | None, k: int, what: str) -> NDArray[Any]:
        if value is None:
            raise DataError(f"frame {k} of {self.path} has no {what}: the file is damaged.")
        return value


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)
