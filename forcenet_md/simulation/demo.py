"""The demo: LAMMPS moves a five-metal alloy on a served model, and the result is judged.

The same script runs with the model and with the potential that the model was trained on; g(r) of
every pair is compared with the potential's, the temperature of every element with the thermostat.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from forcenet_md.data.eam import write_setfl
from forcenet_md.engines.processes import LammpsRun, run_lammps, serving
from forcenet_md.errors import DataError
from forcenet_md.simulation.observables import (
    PairDistribution,
    element_temperatures,
    pair_distribution,
    read_lammps_dump,
)
from forcenet_md.simulation.plots import plot_pair_distributions, plot_temperatures

SCRIPT = "alloy-nvt.in"
ELEMENTS = ("Ag", "Au", "Cu", "Pd", "Pt")
RANKS = 2
SKIPPED = 0.2  # of the frames, while the lattice warms up
TEACHER_LENGTH = 2  # times as long: less noise, and two parts to compare with one another
TOLERANCE = 0.05
R_MAX, N_BINS = 6.0, 40
TIMESTEP, EVERY = 0.002, 20  # ps and steps between frames, as in the script

Report = Callable[[str, int, int], None]
"""Told what runs, the step it is at and the number of steps."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How near a model's run is to its teacher's, relative deviations.

    pairs: of g(r), ∫|Δg| / ∫g; noise: the mean of the same between two parts of the teacher's
    own run as long as the model's; temperatures: mean K of each element; target: K
    """

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
                f"g(r) is off by {self.mean_pair:.1%} on average, more than {TOLERANCE:.0%}"
            )
        for element, kelvin in self.temperatures.items():
            error = self.temperature_error(element)
            if not abs(error) <= TOLERANCE:
                found.append(
                    f"{element} is at {kelvin:.0f} K, {error:+.1%} from {self.target:.0f} K"
                )
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """verdict; what LAMMPS said with the model and with the teacher; the pictures."""

    verdict: Verdict
    model_run: LammpsRun
    teacher_run: LammpsRun
    pictures: tuple[Path, Path]


def run_demo(
    out: Path,
    model: str = "alloy",
    steps: int = 2000,
    temperature: float = 1000.0,
    report: Report = lambda what, step, steps: None,
) -> Outcome:
    """Run both, compare, draw; everything is written into the folder out.

    Raises DataError for a folder that cannot be written, ProcessError when a process fails.
    """
    settings = {"temperature": temperature, "steps": steps}
    here, there = _prepare_folders(out)
    with tempfile.TemporaryDirectory(prefix="forcenet-demo-") as private:
        address = f"unix:{private}/demo.sock"
        report("loading the model", 0, steps)
        with serving(model, address, out / "server.log"):
            model_run = run_lammps(
                here / SCRIPT,
                RANKS,
                settings | {"address": address},
                lambda step: report("LAMMPS on the model", step, steps),
            )
    long = TEACHER_LENGTH * steps
    teacher_run = run_lammps(
        there / SCRIPT,
        RANKS,
        settings | {"steps": long},
        lambda step: report("LAMMPS on the teacher", step, long),
    )
    report("comparing", 0, 0)
    dump = Path(SCRIPT).with_suffix(".dump").name
    frames, reference = read_lammps_dump(here / dump), read_lammps_dump(there / dump)
    verdict, curves = judge(frames, reference, temperature)
    pictures = out / "pair-distributions.png", out / "temperatures.png"
    plot_pair_distributions(pictures[0], curves, f"{model}: g(r) at {temperature:.0f} K")
    time = np.arange(len(frames), dtype=np.float64) * (TIMESTEP * EVERY)
    plot_temperatures(
        pictures[1],
        time,
        element_temperatures(frames),
        temperature,
        averaged_from=float(time[_first(frames)]),
        title=f"{model}: temperature of each element",
    )
    return Outcome(verdict, model_run, teacher_run, pictures)


def judge(
    frames: Sequence[Atoms], reference: Sequence[Atoms], target: float
) -> tuple[Verdict, dict[str, PairDistribution]]:
    """The verdict on a model's frames by a teacher's, and the curves that were compared.

    reference is TEACHER_LENGTH times as long as frames; the first part of both is left out.
    """
    first = _first(frames)
    own, theirs = frames[first:], reference[first:]
    if len(own) < 2 or len(theirs) < 2 * len(own):
        raise DataError("the runs are too short to be compared: give more --steps.")
    of_model, of_teacher = _g(own), _g(theirs)
    one, other = _g(theirs[: len(own)]), _g(theirs[-len(own) :])
    verdict = Verdict(
        pairs=of_model.deviation(of_teacher),
        noise=float(np.mean(list(one.deviation(other).values()))),
        temperatures={e: float(t.mean()) for e, t in element_temperatures(own).items()},
        target=target,
    )
    return verdict, {"model": of_model, "teacher": of_teacher}


def _first(frames: Sequence[Atoms]) -> int:
    return int(SKIPPED * len(frames))


def _g(frames: Sequence[Atoms]) -> PairDistribution:
    return pair_distribution(frames, R_MAX, N_BINS)


def _prepare_folders(out: Path) -> tuple[Path, Path]:
    """Folders with the script and its structure, for the model and for the teacher."""
    inputs = inputs_folder() / "lammps"
    here, there = out / "model", out / "teacher"
    try:
        for folder in (here, there):
            folder.mkdir(parents=True, exist_ok=True)
            for name in (SCRIPT, "alloy.data"):
                shutil.copyfile(inputs / name, folder / name)
        table = write_setfl(ELEMENTS, there / "teacher.eam.alloy")
        script = teacher_script((inputs / SCRIPT).read_text(encoding="utf-8"), table.name)
        (there / SCRIPT).write_text(script, encoding="utf-8")
    except OSError as error:
        # not error.filename, which is the source when there is no room for a copy
        raise DataError(
            f"the folder {out} cannot be written to ({error.strerror}): make room or give another"
            " --out."
        ) from None
    return here, there


def teacher_script(script: str, table: str) -> str:
    """The script with the potential in the place of the server."""
    kept = [
        line
        for line in script.splitlines()
        if line.split()[:1] not in (["forcenet"], ["comm_modify"])
        and line.split()[:2] != ["fix", "ext"]
    ]
    at = next(k for k, line in enumerate(kept) if line.startswith("read_data")) + 1
    pair = ["pair_style eam/alloy", f"pair_coeff * * {table} {' '.join(ELEMENTS)}"]
    return "\n".join([*kept[:at], *pair, *kept[at:]]) + "\n"


def inputs_folder() -> Path:
    """The folder inputs: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_inputs"
    return inside if inside.is_dir() else package.parent / "inputs"
