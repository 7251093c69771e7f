"""The alloy model from nothing: make_model.py FOLDER [--frames N] [key=value…].

Samples structures with the teacher, labels them, trains, then lets the model run dynamics, labels
what it visits and trains on: at least once, and until its error on a fresh trajectory is at most
1.5 times the test error. FOLDER/alloy.pt is the model. key=value goes to every `forcenet-md train`.
What is already in FOLDER is not made again, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path

from forcenet_md.artifact.export import read_card
from forcenet_md.data.frames import read_frames
from forcenet_md.data.visiting import path_errors
from forcenet_md.distill.rounds import LIMIT
from forcenet_md.force_error import times_worse

HERE = Path(__file__).resolve().parent
SEED = 11
MIN_ROUNDS, MAX_ROUNDS = 1, 4
TRAIN_ON = (
    "training.steps=12000",
    "training.learning_rate=1.5e-3",
    "training.final_learning_rate=2e-5",
)


def main(folder: Path, n_frames: int, overrides: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "train.extxyz").is_file():
        run(folder, "python", HERE / "sample.py", ".", n_frames, SEED)
    for name in ("train", "test"):
        label(folder, name)
    train(folder, "run", "alloy-0.pt", overrides)
    visited: list[str] = []
    for k in range(MAX_ROUNDS + 1):
        model, name = f"alloy-{k}.pt", f"visited-{k}"
        if not (folder / f"{name}.extxyz").is_file():
            run(folder, "python", HERE / "visit.py", model, f"{name}.extxyz", 100 + k, 3, 2.0)
        label(folder, name)
        ratio = report(folder, k)
        if (ratio <= LIMIT and k >= MIN_ROUNDS) or k == MAX_ROUNDS:
            (folder / "alloy.pt").write_bytes((folder / model).read_bytes())
            break
        visited.append(f"{name}-labelled.extxyz")
        start = ("--from", model)
        frames = f"data.train=[{', '.join(['train-labelled.extxyz', *visited])}]"
        seed = f"seed={k + 2}"
        train(
            folder,
            f"run-{k + 1}",
            f"alloy-{k + 1}.pt",
            [frames, seed, *TRAIN_ON, *overrides],
            start,
        )


def label(folder: Path, name: str) -> None:
    out = f"{name}-labelled.extxyz"
    if not (folder / out).is_file():
        elements = ("--elements", "Ag,Au,Cu,Pd,Pt")
        run(
            folder, "forcenet-md", "label", f"{name}.extxyz", "-t", "zhou2004", *elements, "-o", out
        )


def train(
    folder: Path, run_folder: str, output: str, overrides: list[str], start: tuple[str, ...] = ()
) -> None:
    if (folder / output).is_file():
        return
    resume = ["--resume"] if (folder / run_folder / "checkpoint.pt").is_file() else []
    settings = [f"folder={run_folder}", f"output={output}", *overrides]
    run(folder, "forcenet-md", "train", HERE / "config.yaml", *settings, *start, *resume)


def report(folder: Path, k: int) -> float:
    """Error along the path of model k over its test error; the figures go to path-k.json."""
    test = read_card(folder / f"alloy-{k}.pt").test_errors
    frames = read_frames(folder / f"visited-{k}-labelled.extxyz", labelled=True)
    frames.sort(key=lambda atoms: atoms.info["temperature"])
    figures = {"test": test, "path": path_errors(frames)}
    for temperature, group in groupby(frames, key=lambda atoms: atoms.info["temperature"]):
        figures[f"path {temperature:g} K"] = path_errors(list(group))
    (folder / f"path-{k}.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    ratio = times_worse(figures["path"], test)
    for name, error in figures.items():
        print(f"round {k}, {name}: {100 * error['relative']:.2f} % of mean |F|")
    print(f"round {k}: error along the path is {ratio:.2f} of the test error", flush=True)
    return ratio


def run(folder: Path, *command: object) -> None:
    words = [str(word) for word in command]
    print("$", *words, flush=True)
    # The commands of the environment that runs this script.
    program = Path(sys.executable).with_name(words[0])
    subprocess.run([str(program), *words[1:]], cwd=folder, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the alloy model from nothing.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=14400, help="training structures")
    parser.add_argument("override", nargs="*", help="key=value for every training")
    given = parser.parse_intermixed_args()
    main(given.folder, given.frames, given.override)
