"""How the budget is shared out, from the time one call of the teacher takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from forcenet_md.data.visiting import Visit
from forcenet_md.distill.clock import words
from forcenet_md.distill.settings import Settings
from forcenet_md.errors import DataError
from forcenet_md.writing import write_text

# Shares of the budget: exploring; the first training, each later one; dynamics of the model and
# labels for it, in each round. One round and two later ones fit in.
EXPLORE, FIRST, LATER, VISITING, LABELLING = 0.20, 0.28, 0.12, 0.06, 0.03
SLOWEST, PATIENCE = 100.0, 600.0  # a label takes more times the usual, and s: it hangs
FEWEST_CALLS = 300  # of the teacher, for exploring
RUNS = (10, 30)  # trajectories, at least and at most
RUN_CALLS = 600  # a trajectory should have
FRAMES = 2000  # of dynamics, about so many at most
SPACING = (10, 100)  # steps between two frames, at least and at most
OFF_PATH = 0.3  # frames off the path for each of dynamics
HELD_OUT = 5  # every fifth trajectory is for the test
HOT, HOT_EVERY = 1.3, 6  # times the highest temperature, in every sixth: a failing model sees it
LENGTHS = (0.96, 1.06)  # of the cell, smallest and largest
SHEAR = 0.04
PATHS = 6  # of the model in each round, over the range of temperatures
PER_PATH = (8, 24)  # frames of one path that are labelled, at least and at most
PATH_PS, PATH_STEPS = 1.0, 20_000  # ps at least and steps at most of a path


class Run(BaseModel):
    """One trajectory.

    number: its place; temperature: K; scale: of the cell's lengths; shear: largest component of a
    random strain; held_out: for the test
    """

    model_config = ConfigDict(frozen=True)
    number: int
    temperature: float
    scale: float
    shear: float
    seed: int
    held_out: bool = False

    @property
    def name(self) -> str:
        return f"md-{self.number}"


class Plan(BaseModel):
    """Of exploring and of every later question to the teacher.

    seconds_per_call: of one teacher process; steps: of each run; spacing: steps between two of
    its frames; timestep: fs; n_off_path: frames beside dynamics; per_path: frames of one path of
    the model that are labelled
    """

    model_config = ConfigDict(frozen=True)
    seconds_per_call: float
    runs: tuple[Run, ...]
    steps: int
    spacing: int
    timestep: float
    n_off_path: int
    per_path: int

    def dynamics(self, temperature: float, steps: int | None = None) -> Visit:
        """Dynamics of one run, or of a path with so many steps."""
        ps = self.timestep / 1000.0
        time, spacing = (steps or self.steps) * ps, self.spacing * ps
        return Visit(temperature, time, spacing, self.timestep, heat=2.0)

    def timeout(self, settings: Settings) -> float:
        """Seconds a label may take at most."""
        return settings.timeout or max(SLOWEST * self.seconds_per_call, PATIENCE)

    def write(self, folder: Path) -> None:
        write_text(folder / "plan.json", self.model_dump_json(indent=1))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        return cls.model_validate_json((folder / "plan.json").read_bytes())


class VisitPlan(BaseModel):
    """Of the paths of one round.

    best: the member that drives; steps: of each path; nearest: pair in the teacher's dynamics (see
    `nearest_pair`), which is how a path that left physics is known
    """

    model_config = ConfigDict(frozen=True)
    best: int
    steps: int
    nearest: float
    runs: tuple[Run, ...]

    @classmethod
    def read(cls, path: Path) -> VisitPlan:
        return cls.model_validate_json(path.read_bytes())


def make_plan(settings: Settings, seconds_per_call: float) -> Plan:
    """Raises DataError when the budget is too small for the teacher."""
    per_second = settings.workers / seconds_per_call
    calls = EXPLORE * settings.budget * per_second
    if calls < FEWEST_CALLS:
        needed = FEWEST_CALLS / (EXPLORE * per_second)
        raise DataError(
            f"in {words(settings.budget)} there is time for {calls:.0f} calls of the teacher to"
            f" explore with, which takes {seconds_per_call:.2g} s for one: give a --budget of at"
            f" least {words(1.05 * needed)}, more --workers, or fewer --atoms."
        )
    fewest, most = (max(n, settings.workers) for n in RUNS)  # no process without work
    n_runs = int(np.clip(round(calls / RUN_CALLS), fewest, most))
    spacing = int(np.clip(round(calls / FRAMES), *SPACING))
    n_frames = min(FRAMES, int(calls / (spacing + OFF_PATH)))
    labels = LABELLING * settings.budget * per_second / PATHS
    return Plan(
        seconds_per_call=seconds_per_call,
        runs=plan_runs(settings.low, settings.high, n_runs, settings.seed),
        steps=max(1, n_frames // n_runs) * spacing,
        spacing=spacing,
        timestep=settings.timestep,
        n_off_path=round(OFF_PATH * n_frames),
        per_path=int(np.clip(labels, *PER_PATH)),
    )


def plan_runs(low: float, high: float, n_runs: int, seed: int, hot: bool = True) -> tuple[Run, ...]:
    """Trajectories over low…high K, each cell at rest, stretched or sheared.

    Every `HELD_OUT`th is for the test; the temperatures of those, as of the others, are spread
    evenly, so that few runs are a fair test too. With `hot` some of the others are above the range.
    """
    rng = np.random.default_rng(seed)
    even = low + (high - low) * (np.arange(n_runs) + rng.random(n_runs)) / n_runs
    held = [k for k in range(n_runs) if k % HELD_OUT == HELD_OUT - 1]
    places = [int((j + 0.5) * n_runs / len(held)) for j in range(len(held))]
    others = iter(rng.permutation([k for k in range(n_runs) if k not in places]))
    for_test = iter(rng.permutation(places))
    runs = []
    for k in range(n_runs):
        temperature = float(even[next(for_test) if k in held else next(others)])
        if hot and k not in held and k % HOT_EVERY == HOT_EVERY - 1:
            temperature = HOT * high
        run = Run(
            number=k,
            temperature=round(temperature, 1),
            scale=float(rng.uniform(*LENGTHS)) if k % 3 else 1.0,
            shear=SHEAR if k % 3 == 2 else 0.0,
            seed=int(rng.integers(1, 2**31)),
            held_out=k in held,
        )
        runs.append(run)
    return tuple(runs)


def path_steps(settings: Settings, plan: Plan, seconds_per_step: float) -> int:
    """Steps of each path of the model in a round: at least as far as the teacher went."""
    affordable = VISITING * settings.budget * settings.workers / (PATHS * seconds_per_step)
    least = max(plan.steps, 1000.0 * PATH_PS / plan.timestep)
    steps = min(max(affordable, least), max(PATH_STEPS, least))
    return max(1, round(steps / plan.spacing)) * plan.spacing
