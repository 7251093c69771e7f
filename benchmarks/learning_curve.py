"""Test error against the number of training frames, and against the number of training steps.

    python -m benchmarks.learning_curve CONFIG.yaml --folder DATA --work WORK
        --out FILE.md [--frames 225 900 3600] [--steps 1000 2500 8000] [--against adam 2e-3]
        [--also m.pt …]

CONFIG is a configuration of `forcenet-md train` whose data files lie in DATA. Each point is a
training of its own with the whole schedule, from nothing; sets of frames are trained on for the
second number of steps. A smaller set has at least so many frames, as whole trajectories out of the
larger ones. --against repeats the series of steps with another optimiser at a rate of its own.
--also adds the test errors of finished models, from their cards. The same command goes on after a
stop.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure

from benchmarks.hardware import hardware
from forcenet_md.artifact.card import Card
from forcenet_md.artifact.export import read_card
from forcenet_md.data.frames import read_frames, write_frames
from forcenet_md.figures import save_figure
from forcenet_md.training.config_file import load_config
from forcenet_md.writing import write_text

SEED = 1
TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 50, 100)


How = tuple[str, float]  # optimiser and its learning rate


@dataclass(frozen=True)
class Point:
    frames: int
    steps: int
    optimizer: str
    rate: float

    @property
    def name(self) -> str:
        return f"{self.frames}-frames-{self.steps}-{self.optimizer}-{self.rate:g}"


Series = dict[str, list[list[Point]]]  # lines of points, by the field that varies


def series(n: int, frames: Sequence[int], steps: Sequence[int], how: Sequence[How]) -> Series:
    """What is trained. n: frames there are; frames: of the smaller sets, which are trained on for
    the second of `steps` in the first way of `how`, the whole set in every way for each of them."""
    sizes = [*(size for size in frames if size < n), n]
    return {
        "frames": [[Point(size, steps[1], *how[0]) for size in sizes]],
        "steps": [[Point(n, k, *one) for k in steps] for one in how],
    }


def nested(frames: Sequence[Atoms], size: int) -> list[Atoms]:
    """Whole trajectories in one random order, until there are `size` frames."""
    groups = [list(g) for _, g in groupby(frames, key=lambda a: a.info["trajectory"])]
    chosen: list[Atoms] = []
    for k in np.random.default_rng(SEED).permutation(len(groups)):
        if len(chosen) >= size:
            break
        chosen += groups[k]
    return chosen


def train(config: Path, source: Path, test: Path, model: Path, point: Point) -> None:
    """The model file of a point, unless it is there; the run's folder lies beside it."""
    if model.is_file():
        return
    run = model.with_suffix("")
    command = [sys.executable, "-m", "forcenet_md", "train", str(config)]
    command += [f"data.train={source}", f"data.test={test}", f"training.steps={point.steps}"]
    command += [f"training.optimizer={point.optimizer}", f"training.learning_rate={point.rate}"]
    command += [f"folder={run}", f"output={model}"]
    if (run / "checkpoint.pt").is_file():
        command.append("--resume")
    print(point.name, flush=True)
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def plot(path: Path, errors: Mapping[Point, float], curves: Series) -> None:
    """One panel for each series, which is named after the field that varies."""
    figure = Figure(figsize=(3.4 * len(curves), 3.2), layout="constrained")
    axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for ax, (field, lines) in zip(axes, curves.items(), strict=True):
        for points in lines:
            x = [getattr(p, field) for p in points]
            ax.loglog(x, [100 * errors[p] for p in points], "o-", label=points[0].optimizer)
            ax.set_xticks(x, [f"{n}" for n in x], rotation=40)
        ax.minorticks_off()
        ax.set_xlabel(f"training {field}")
        ax.legend(frameon=False, fontsize=8)
    low, high = 100 * min(errors.values()), 100 * max(errors.values())
    ticks = [t for t in TICKS if low / 1.5 < t < high * 1.5]
    axes[0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes[0].set_ylabel("test error, % of mean |F|")
    save_figure(figure, path)


def row(words: Sequence[object], test: dict[str, Any]) -> str:
    errors = f"{1000 * test['force_mae']:.1f}", f"{100 * test['relative']:.2f} %"
    return f"| {' | '.join(map(str, (*words, *errors)))} |"


def page(
    config: Path, cards: Mapping[Point, Card], also: Sequence[Path], picture: str
) -> list[str]:
    """Lines of the table's page."""
    lines = [
        "# Learning curve",
        "",
        f"`{config}`, by `python -m benchmarks.learning_curve`. {hardware()}; one thread.",
        "Each row is a training of its own with the whole schedule of its steps; a smaller set has",
        "at least so many frames, as whole trajectories out of the larger ones. One seed.",
        "",
        "| optimiser, rate | frames | steps | test error, meV/Å | of mean \\|F\\| |",
        "|---|---|---|---|---|",
    ]
    for p, card in cards.items():
        lines.append(row((f"{p.optimizer}, {p.rate:g}", p.frames, p.steps), card.test_errors))
    for path in also:
        lines.append(row((f"`{path.name}`", "", ""), read_card(path).test_errors))
    return [*lines, "", f"![]({picture})", ""]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, nargs="*", default=[225, 900, 3600])
    parser.add_argument("--steps", type=int, nargs="*", default=[1000, 2500, 8000])
    parser.add_argument("--against", nargs=2, metavar=("OPTIMIZER", "RATE"))
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    given = parser.parse_args(words)
    if len(given.steps) < 2:
        parser.error("--steps needs two numbers: sets of frames are trained on for the second.")
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)

    settings = load_config(str(given.config), [])
    (everything,) = [given.folder.resolve() / path for path in settings.data.train]
    (test,) = [given.folder.resolve() / path for path in settings.data.test]
    labelled = read_frames(everything, labelled=True)
    how = [(settings.training.optimizer, settings.training.learning_rate)]
    how += [(given.against[0], float(given.against[1]))] if given.against else []

    curves = series(len(labelled), given.frames, given.steps, how)
    cards = {}
    # One that is in several series is trained once.
    for point in dict.fromkeys(p for lines in curves.values() for line in lines for p in line):
        source, model = everything, work / f"{point.name}.pt"
        if point.frames < len(labelled):
            source = work / f"{point.frames}.extxyz"
            if not source.is_file():
                write_frames(source, nested(labelled, point.frames))
        train(given.config.resolve(), source, test, model, point)
        cards[point] = read_card(model)

    picture = given.out.with_suffix(".svg")
    plot(picture, {p: float(c.test_errors["relative"]) for p, c in cards.items()}, curves)
    lines = page(given.config, cards, given.also, picture.name)
    write_text(given.out, "\n".join(lines))
    print("\n".join(lines[6:-2]))


if __name__ == "__main__":
    main()
