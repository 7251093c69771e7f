"""Where everything of a distillation lies: what is there is not made again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from forcenet_md.data.frames import read_frames
from forcenet_md.distill.plan import Plan, Run


@dataclass(frozen=True)
class Round:
    """Files of one round; number 0 trains from nothing, the others from the one before."""

    folder: Path
    number: int

    def training(self, member: int) -> Path:
        return self.folder / f"member-{member}"

    def model(self, member: int) -> Path:
        return self.folder / f"member-{member}.pt"

    def path(self, number: int) -> Path:
        return self.folder / f"path-{number}.extxyz"

    def path_figures(self, number: int) -> Path:
        return self.folder / f"path-{number}.json"

    @property
    def training_plan(self) -> Path:
        return self.folder / "training.json"

    @property
    def visit_plan(self) -> Path:
        return self.folder / "visit.json"

    @property
    def visited(self) -> Path:
        return self.folder / "visited.extxyz"

    @property
    def labelled(self) -> Path:
        return self.folder / "visited-labelled.extxyz"

    @property
    def figures(self) -> Path:
        return self.folder / "figures.json"

    def result(self) -> dict[str, Any] | None:
        """What was found at its end, None before."""
        return json.loads(self.figures.read_text("utf-8")) if self.figures.is_file() else None


@dataclass(frozen=True)
class Files:
    """Of the folder `--out`."""

    folder: Path

    @property
    def start(self) -> Path:
        return self.folder / "start.extxyz"

    @property
    def screening(self) -> Path:
        return self.folder / "screening.json"

    @property
    def off_path_given(self) -> Path:
        return self.folder / "explore" / "off-path.extxyz"

    @property
    def off_path(self) -> Path:
        return self.folder / "explore" / "off-path-labelled.extxyz"

    @property
    def taught(self) -> Path:
        """Frames of the teacher's dynamics that are trained on."""
        return self.folder / "taught.extxyz"

    @property
    def watched(self) -> Path:
        """Those that are looked at while training; the file may have none."""
        return self.folder / "watched.extxyz"

    @property
    def test(self) -> Path:
        return self.folder / "test.extxyz"

    @property
    def model(self) -> Path:
        return self.folder / "m.pt"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def trajectory(self, run: Run) -> Path:
        return self.folder / "explore" / f"{run.name}.extxyz"

    def other_model(self, place: int) -> Path:
        """Of the committee beside `model`, from 2."""
        return self.folder / f"m-{place}.pt"

    def round(self, number: int) -> Round:
        return Round(self.folder / f"round-{number}", number)

    def rounds(self) -> list[Round]:
        """Those that are whole."""
        found: list[Round] = []
        while (one := self.round(len(found))).figures.is_file():
            found.append(one)
        return found

    def trajectories(self, plan: Plan, held_out: bool) -> list[list[Atoms]]:
        """The teacher's, those for the test or the others."""
        return [read_some(self.trajectory(run)) for run in plan.runs if run.held_out == held_out]

    def training_files(self, number: int) -> list[Path]:
        """What the round of that number learns from."""
        visited = [self.round(k).labelled for k in range(number)]
        return [path for path in [self.taught, self.off_path, *visited] if not has_no_frames(path)]


def has_no_frames(path: Path) -> bool:
    """A path or trajectory that ended before its first frame leaves an empty file."""
    return path.stat().st_size == 0


def read_some(path: Path) -> list[Atoms]:
    """The frames of a file, which may have none."""
    return [] if has_no_frames(path) else read_frames(path)
