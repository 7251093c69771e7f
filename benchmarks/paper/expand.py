"""studies.yaml into runs: what is trained, on which part of the data, from which seed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from forcenet_md.errors import DataError
from forcenet_md.training.config import Config
from forcenet_md.training.config_file import load_config

STUDIES = Path(__file__).with_name("studies.yaml")


@dataclass(frozen=True)
class Run:
    """One training and its evaluation. Studies that ask for the same run share it.

    settings: `key=value` over the packaged configuration `base`
    first_frames: of each system, that are used at all
    train_frames, test_frames: of each system, at most, evenly spread over those
    turns: of each of at most turned_frames of a system, for the rotation instability
    """

    base: str
    settings: tuple[str, ...]
    split: str
    n_folds: int
    fold: int
    seed: int
    first_frames: int
    train_frames: int
    test_frames: int
    turns: int
    turned_frames: int

    @property
    def cell(self) -> tuple[str, int, int]:
        """What is the same for the runs that are compared with each other."""
        return self.split, self.fold, self.seed

    def name(self, data: str) -> str:
        """Of its folder; data: hash of the data file. Of all settings too, so that a run is made
        again when the packaged configuration is another."""
        text = json.dumps([asdict(self), _all_settings(self), data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def config(self, data: Path, folder: Path) -> Config:
        """Raises DataError for a setting that is none."""
        places = {
            "seed": self.seed,
            "folder": str(folder),
            "output": str(folder / "m.pt"),
            "export": "last",
            "data.train": str(data),
            "data.validation_fraction": 0.0,
            "data.workers": 0,
            "card.name": "paper-study",
            "card.description": f"a part of {data.name}",
        }
        own = [f"{key}={json.dumps(value)}" for key, value in places.items()]
        return load_config(self.base, [*self.settings, *own])


@cache
def _all_settings(run: Run) -> dict[str, Any]:
    return run.config(Path("data"), Path("run")).model_dump(mode="json")


@dataclass(frozen=True)
class Variant:
    """One row of a study's table. against: the variant it is compared with, None for none; paper:
    the paper's figures by metric."""

    name: str
    against: str | None
    paper: dict[str, float]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Study:
    """hours: of processor time that its runs may take, those shared with other studies counted;
    metrics: mae, instability."""

    name: str
    title: str
    hours: float
    metrics: tuple[str, ...]
    variants: tuple[Variant, ...]
    splits: tuple[str, ...] = field(default=("time", "system"))

    @property
    def runs(self) -> list[Run]:
        """Each once; whole sets of variants that can be compared come one after the other."""
        runs = dict.fromkeys(run for variant in self.variants for run in variant.runs)
        places = {split: k for k, split in enumerate(self.splits)}
        return sorted(runs, key=lambda r: (r.seed, r.fold, places[r.split]))


def load_studies(path: Path = STUDIES) -> dict[str, Study]:
    """Every study of the file. Raises DataError with the name of what is wrong."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {name: _study(name, own, tree["common"]) for name, own in tree["studies"].items()}
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    except KeyError as error:
        raise DataError(f"{path}: {error} is missing: give it.") from None


def _study(name: str, own: dict[str, Any], common: dict[str, Any]) -> Study:
    first = next(iter(own["variants"]))
    variants = []
    for title, variant in own["variants"].items():
        against = variant.get("against", None if title == first else first)
        if against is not None and against not in own["variants"]:
            raise DataError(f"{name}: '{title}' is compared with '{against}', which is none of it.")
        runs = tuple(_runs(variant, common))
        variants.append(Variant(title, against, variant.get("paper", {}), runs))
    return Study(
        name,
        own["title"],
        own["hours"],
        tuple(own.get("metrics", ["mae"])),
        tuple(variants),
        tuple(common["splits"]),
    )


def _runs(variant: dict[str, Any], common: dict[str, Any]) -> list[Run]:
    settings = {**common["settings"], **variant.get("settings", {})}
    evaluation = common["evaluation"]
    return [
        Run(
            base=common["base"],
            settings=tuple(f"{key}={json.dumps(settings[key])}" for key in sorted(settings)),
            split=split,
            n_folds=place["folds"],
            fold=fold,
            seed=seed,
            first_frames=common["first_frames"],
            train_frames=variant.get("train_frames", common["train_frames"]),
            test_frames=evaluation["frames"],
            turns=evaluation["turns"],
            turned_frames=evaluation["turned_frames"],
        )
        for split, place in common["splits"].items()
        for fold in range(place["folds"])
        for seed in place["seeds"]
    ]
