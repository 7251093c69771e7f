"""The demo: LAMMPS and i-PI move a five-metal alloy on a served model, and the results are judged.

LAMMPS runs the same script with the model and with the potential that the model was trained on;
i-PI starts from the same structure. g(r) of every pair is compared with the potential's, the
temperature of every element with the thermostat.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from forcenet_md.engines.processes import EngineRun, run_ipi, run_lammps, serving
from forcenet_md.errors import DataError
from forcenet_md.simulation.demo_inputs import IPI_INPUT, SCRIPT, Folders, prepare_folders
from forcenet_md.simulation.observables import (
    PairDistribution,
    element_temperatures,
    pair_distribution,
    read_ipi_temperatures,
    read_ipi_trajectory,
    read_lammps_dump,
)
from forcenet_md.simulation.plots import (
    TemperatureCurves,
    plot_pair_distributions,
    plot_temperatures,
)

RANKS = 2
SKIPPED = 0.2  # of the frames, while the lattice warms up
TEACHER_LENGTH = 2  # times as long: less noise, and two parts to compare with one another
TEACHER_SEED = 20241  # not that of the model's run: a path of its own
TOLERANCE = 0.05
R_MAX, N_BINS = 6.0, 40
TIMESTEP, EVERY = 0.002, 20  # ps and steps between frames, as in the inputs

Report = Callable[[str, int, int], None]
"""Told what runs, the step it is at and the number of steps."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How near a model's run is to its teacher's, relative deviations.

    pairs: of g(r), ∫|Δg| / ∫g; noise: the mean of the same between two parts of the teacher's
    own run as long as the model's; temperatures: mean K of each element; target: K
    """

    engine: str
    pairs: dict[str, float]
    noise: float
    temperatures: dict[str, float]
    target: float

    @property
    def mean_pair(self) -> float:
        return float(np.mean(list(self.pairs.values())))

    def temperature_error(self, element: str) -> float:
        return self.temperatures[element] / self.target - 1.0

    @property
    def faults(self) -> list[str]:
        """Why the run is not good enough, in sentences."""
        found = []
        if not self.mean_pair <= TOLERANCE:
            found.append(
                f"{self.engine}: g(r) is off by {self.mean_pair:.1%} on average, more than"
                f" {TOLERANCE:.0%}"
            )
        for element, kelvin in self.temperatures.items():
            error = self.temperature_error(element)
            if not abs(error) <= TOLERANCE:
                found.append(
                    f"{self.engine}: {element} is at {kelvin:.0f} K, {error:+.1%} from"
                    f" {self.target:.0f} K"
                )
        return found


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What a run left. temperatures: [n] K of each element, at times [n] ps."""

    engine: str
    frames: list[Atoms]
    time: np.ndarray
    temperatures: Mapping[str, np.ndarray]

    @property
    def curves(self) -> TemperatureCurves:
        return TemperatureCurves(self.time, self.temperatures, float(self.time[_first(self.time)]))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One verdict for each engine; the runs by what they were; the pictures."""

    verdicts: tuple[Verdict, ...]
    runs: dict[str, EngineRun]
    pictures: tuple[Path, Path]

    @property
    def faults(self) -> list[str]:
        return [fault for verdict in self.verdicts for fault in verdict.faults]


def run_demo(
    out: Path,
    model: str = "alloy",
    steps: int = 1400,
    temperature: float = 1000.0,
    report: Report = lambda what, step, steps: None,
) -> Outcome:
    """Run all, compare, draw; everything is written into the folder out.

    Raises DataError for a folder that cannot be written, ProcessError when a process fails.
    """
    if os.path.isfile(model):
        model = os.path.abspath(model)  # it is served from another folder too
    folders = prepare_folders(out, steps, temperature)
    runs = _run(folders, out, model, steps, temperature, report)
    report("comparing", 0, 0)
    reference = read_lammps_dump(folders.teacher / _dump())
    trajectories = [read_lammps(folders.lammps), read_ipi(folders.ipi)]
    compared = [judge(each, reference, temperature) for each in trajectories]
    curves = {verdict.engine: g for verdict, g, _ in compared} | {"teacher": compared[0][2]}
    pictures = out / "pair-distributions.png", out / "temperatures.png"
    plot_pair_distributions(pictures[0], curves, f"{model}: g(r) at {temperature:.0f} K")
    plot_temperatures(
        pictures[1],
        {each.engine: each.curves for each in trajectories},
        temperature,
        title=f"{model}: temperature of each element",
    )
    return Outcome(tuple(verdict for verdict, _, _ in compared), runs, pictures)


def _run(
    folders: Folders, out: Path, model: str, steps: int, temperature: float, report: Report
) -> dict[str, EngineRun]:
    """LAMMPS and i-PI on the model, LAMMPS on its teacher."""
    settings = {"temperature": temperature, "steps": steps}
    runs = {}
    with tempfile.TemporaryDirectory(prefix="forcenet-demo-") as private:
        address = f"unix:{private}/demo.sock"
        report("loading the model", 0, steps)
        with serving(model, address, out / "server.log"):
            runs[f"LAMMPS on the model, {RANKS} ranks"] = run_lammps(
                folders.lammps / SCRIPT,
                RANKS,
                settings | {"address": address},
                lambda step: report("LAMMPS on the model", step, steps),
            )
    report("i-PI on the model", 0, steps)
    runs["i-PI on the model"] = run_ipi(
        folders.ipi / IPI_INPUT,
        model,
        folders.ipi / _named(".out"),
        lambda step: report("i-PI on the model", step, steps),
    )
    long = TEACHER_LENGTH * steps
    runs[f"LAMMPS on the teacher, {RANKS} ranks"] = run_lammps(
        folders.teacher / SCRIPT,
        RANKS,
        settings | {"steps": long, "seed": TEACHER_SEED},
        lambda step: report("LAMMPS on the teacher", step, long),
    )
    return runs


def read_lammps(folder: Path) -> Trajectory:
    """What LAMMPS has written. Raises DataError."""
    frames = read_lammps_dump(folder / _dump())
    time = np.arange(len(frames), dtype=np.float64) * (TIMESTEP * EVERY)
    return Trajectory("LAMMPS", frames, time, element_temperatures(frames))


def read_ipi(folder: Path) -> Trajectory:
    """What i-PI has written. Raises DataError."""
    frames = read_ipi_trajectory(folder / _named(".pos_0.extxyz"))
    return Trajectory("i-PI", frames, *read_ipi_temperatures(folder / _named(".out")))


def judge(
    run: Trajectory, reference: Sequence[Atoms], target: float
) -> tuple[Verdict, PairDistribution, PairDistribution]:
    """The verdict on a model's run by a teacher's frames, and the two g(r) that were compared.

    reference is TEACHER_LENGTH times as long as the run; the first part of both is left out.
    """
    first = _first(run.frames)
    own, theirs = run.frames[first:], reference[first:]
    if len(own) < 2 or len(theirs) < 2 * len(own):
        raise DataError("the runs are too short to be compared: give more --steps.")
    of_model, of_teacher = _g(own), _g(theirs)
    one, other = _g(theirs[: len(own)]), _g(theirs[-len(own) :])
    start = _first(run.time)
    verdict = Verdict(
        engine=run.engine,
        pairs=of_model.deviation(of_teacher),
        noise=float(np.mean(list(one.deviation(other).values()))),
        temperatures={e: float(t[start:].mean()) for e, t in run.temperatures.items()},
        target=target,
    )
    return verdict, of_model, of_teacher


def _first(values: Sequence[Atoms] | np.ndarray) -> int:
    return int(SKIPPED * len(values))


def _g(frames: Sequence[Atoms]) -> PairDistribution:
    return pair_distribution(frames, R_MAX, N_BINS)


def _dump() -> str:
    return Path(SCRIPT).with_suffix(".dump").name


def _named(ending: str) -> str:
    return Path(IPI_INPUT).stem + ending
