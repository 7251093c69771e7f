"""Test error against the number of training frames, and against the number of training steps.

    .venv/bin/python benchmarks/learning_curve.py CONFIG.yaml --folder DATA --work WORK
        --out FILE.md [--frames 225 900 3600] [--frame-steps 8000] [--steps 2000 8000 32000]
        [--also m.pt …]

CONFIG is a configuration of `forcenet-md train` whose data files lie in DATA. Each point is a
training of its own with the whole schedule, from nothing. The frames of smaller sets are whole
trajectories and are all in the larger sets. --also adds the test error of finished models, as it
stands on their cards. The same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from ase import Atoms
from hardware import hardware
from matplotlib.figure import Figure

from forcenet_md.artifact.export import read_card
from forcenet_md.data.frames import read_frames, write_frames
from forcenet_md.training.config_file import load_config

SEED = 1


@dataclass(frozen=True, order=True)
class Point:
    frames: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.frames}-frames-{self.steps}-steps"


def nested(frames: Sequence[Atoms], size: int) -> list[Atoms]:
    """Whole trajectories in one random order, until there are `size` frames."""
    groups = [list(g) for _, g in groupby(frames, key=lambda a: a.info["trajectory"])]
    chosen: list[Atoms] = []
    for k in np.random.default_rng(SEED).permutation(len(groups)):
        if len(chosen) >= size:
            break
        chosen += groups[k]
    return chosen


def train(config: Path, source: Path, test: Path, model: Path, steps: int) -> None:
    """The model file of a point, unless it is there; the run's folder lies beside it."""
    if model.is_file():
        return
    run = model.with_suffix("")
    command = [sys.executable, "-m", "forcenet_md", "train", str(config)]
    command += [f"data.train={source}", f"data.test={test}", f"training.steps={steps}"]
    command += [f"folder={run}", f"output={model}"]
    if (run / "checkpoint.pt").is_file():
        command.append("--resume")
    print(model.stem, flush=True)
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def plot(path: Path, series: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> None:
    figure = Figure(figsize=(3.2 * len(series), 3.0), layout="constrained")
    axes = figure.subplots(1, len(series), sharey=True, squeeze=False)[0]
    for ax, (label, points) in zip(axes, series, strict=True):
        ax.loglog([x for x, _ in points], [100 * y for _, y in points], "o-")
        ax.set_xlabel(label)
        ax.set_xticks([x for x, _ in points], [f"{x}" for x, _ in points], rotation=40)
        ax.minorticks_off()
    values = [100 * y for _, points in series for _, y in points]
    ticks = [t for t in (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32) if min(values) / 1.5 < t]
    ticks = [t for t in ticks if t < max(values) * 1.5]
    axes[0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes[0].set_ylabel("test error, % of mean |F|")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, nargs="*", default=[225, 900, 3600])
    parser.add_argument("--frame-steps", type=int, default=8000)
    parser.add_argument("--steps", type=int, nargs="*", default=[2000, 8000, 32000])
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    config = given.config.resolve()

    settings = load_config(str(config), [])
    (everything,) = [given.folder.resolve() / path for path in settings.data.train]
    (test,) = [given.folder.resolve() / path for path in settings.data.test]
    labelled = read_frames(everything, labelled=True)

    by_frames = [Point(n, given.frame_steps) for n in given.frames]
    by_frames.append(Point(len(labelled), given.frame_steps))
    by_steps = [Point(len(labelled), n) for n in given.steps]
    cards = {}
    for point in dict.fromkeys([*by_frames, *by_steps]):  # one that is in both is trained once
        source, model = everything, work / f"{point.name}.pt"
        if point.frames < len(labelled):
            source = work / f"{point.frames}.extxyz"
            if not source.is_file():
                write_frames(source, nested(labelled, point.frames))
        train(config, source, test, model, point.steps)
        cards[point] = read_card(model)

    rows = [(f"{p.frames}", f"{p.steps}", c) for p, c in sorted(cards.items())]
    rows += [(path.name, "", read_card(path)) for path in given.also]
    lines = ["| frames | steps | test error, meV/Å | of mean \\|F\\| |", "|---|---|---|---|"]
    for n_frames, steps, card in rows:
        errors = card.test_errors
        lines.append(
            f"| {n_frames} | {steps} | {1000 * errors['force_mae']:.1f}"
            f" | {100 * errors['relative']:.2f} % |"
        )
    relative = {p: float(c.test_errors["relative"]) for p, c in cards.items()}
    frames = [(p.frames, relative[p]) for p in by_frames]
    steps_of = [(p.steps, relative[p]) for p in by_steps]
    picture = given.out.with_suffix(".svg")
    plot(
        picture,
        [
            (f"training frames, {given.frame_steps} steps each", frames),
            ("training steps, all frames", steps_of),
        ],
    )
    head = [
        "# Learning curve",
        "",
        f"`{given.config}`, by `python benchmarks/learning_curve.py`. {hardware()}; one thread.",
        "Each row is a training of its own with the whole schedule of its steps; a smaller set has",
        "at least so many frames, as whole trajectories out of the larger ones. One seed.",
    ]
    given.out.write_text("\n".join([*head, "", *lines, "", f"![]({picture.name})", ""]), "utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
