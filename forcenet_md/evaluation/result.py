"""What an evaluation found, as it is written to JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

import forcenet_md
from forcenet_md.evaluation.errors import COSINE_FLOOR, THRESHOLD, Figures
from forcenet_md.evaluation.rotation import Instability
from forcenet_md.evaluation.spread import Spread
from forcenet_md.inference.frames import Symmetry

DEFINITIONS = {
    "units": "eV and eV/Angstrom",
    "mae": "mean |dF| over force components; relative: mae / mean |F| over components",
    "cosine": f"mean over atoms whose label is at least {COSINE_FLOOR} eV/Angstrom long",
    "within": f"fraction of atoms whose three components are each within {THRESHOLD} eV/Angstrom",
    "frames_within": "fraction of frames in which every free atom is within: the forces' part of"
    " 'energy and forces within threshold' of the Open Catalyst Project",
    "baseline": "mae of predicting, for every atom, the median of each component of the labels",
    "rotation": "structures turned at random, forces turned back: standard deviation of a"
    " component over the turns, averaged over free atoms (Hu et al. 2021, table 1)",
    "spread": "of a committee: root mean square over its members of the distance of an atom's force"
    " to the mean force; error: length of the error of the mean force",
    "net_force": "label_per_atom: mean length of a frame's net force on its labels / its atoms",
}


class Model(BaseModel):
    """name, sha256: of the card (sha256 None for an ASE calculator); spec: as it was given;
    committee: further models whose forces were averaged with its; frames, align: see
    inference/frames.py."""

    name: str
    spec: str
    committee: list[str] = []
    sha256: str | None
    dtype: str
    frames: int = 1
    align: bool = False

    @property
    def identity(self) -> dict[str, str]:
        """What tells it from others."""
        symmetry = Symmetry(self.frames, self.align)
        return {"model": f"{self.sha256 or self.spec}{symmetry}", "dtype": self.dtype}


class Refused(BaseModel):
    """Frames the model gave no forces for: how many, and the first few with the reason."""

    n_frames: int = 0
    first: list[str] = []


class Data(BaseModel):
    """n_available: frames in the sources; n_asked: frames that were to be evaluated (a limit takes
    them evenly spread); n_frames, n_atoms: that the figures are over."""

    sources: list[str]
    n_available: int
    n_asked: int
    n_frames: int
    n_atoms: int
    refused: Refused


class NetForce(BaseModel):
    """labels: what was done with the labels; model: with the predictions, as on every route
    that serves it; label_per_atom: see DEFINITIONS, eV/Å."""

    labels: Literal["removed", "kept"]
    model: Literal["removed", "kept", "removed where no atom is held"]
    label_per_atom: float


class Baseline(BaseModel):
    """Of the median of each component, eV/Å. n_sampled: atoms it is from; exact if all were."""

    median: list[float]
    mae: float
    mae_free: float | None
    n_sampled: int
    exact: bool


class Energy(BaseModel):
    """Of frames where both model and labels have an energy. eV, and eV per atom."""

    n_frames: int
    mae: float
    rmse: float
    mae_per_atom: float


class Worst(BaseModel):
    """A frame with a large mean error. name: file and number in it; row: number in the data as a
    whole. atom: number (from 0) of the atom with the largest error
    vector, whose length is max_error and whose label is max_force long; eV/Å."""

    name: str
    row: int
    formula: str
    n_atoms: int
    mae: float
    atom: int
    element: str
    max_error: float
    max_force: float


class Evaluation(BaseModel):
    """The whole of it. `format` grows by one when a key changes its meaning or goes.

    complete: False when it was interrupted, and the figures are over the frames before that
    all: over all atoms; free, held: over free and over held atoms, None where no atom was held
    counted: the atoms that by_element, by, worst and the plots are over
    by_element: by symbol; by: by column of the data, then by its value
    frames_within: see DEFINITIONS
    spread: of a committee, None for a single model
    """

    format: Literal[1] = 1
    version: str = forcenet_md.__version__
    model: Model
    data: Data
    complete: bool
    net_force: NetForce
    all: Figures
    free: Figures | None
    held: Figures | None
    counted: Literal["all", "free"]
    by_element: dict[str, Figures]
    by: dict[str, dict[str, Figures]]
    frames_within: float | None
    baseline: Baseline
    energy: Energy | None
    spread: Spread | None = None
    rotation: Instability | None
    worst: list[Worst]
    definitions: dict[str, str] = DEFINITIONS

    @property
    def main(self) -> Figures:
        """What the model is judged by: the free atoms where some are held."""
        return self.free or self.all


def for_card(result: Evaluation) -> dict[str, Any]:
    """The figures for a model's card, under the names that training gives them there."""
    main = result.main
    figures: dict[str, Any] = {
        "held_out": "evaluated",
        "definition": "mean |dF| and mean |F| over components; relative is their quotient",
        "units": "eV/Angstrom",
        "atoms": "free" if result.free else "held" if result.held else "all",
        "sources": [source.rpartition("/")[2] for source in result.data.sources],
        **_card_entry(main),
        "force_rmse": _short(main.rmse),
        "cosine": _short(main.cosine),
        "magnitude_error": _short(main.magnitude_error),
        "within_0.03": _short(main.within),
        "median_baseline_mae": _short(
            result.baseline.mae_free if result.free else result.baseline.mae
        ),
    }
    if result.data.refused.n_frames:
        figures["n_refused"] = result.data.refused.n_frames
    if result.rotation:
        figures["rotation_instability"] = {
            "value": _short(result.rotation.standard_deviation),
            "axis": result.rotation.axis,
            "rotations": result.rotation.n_rotations,
            "n_frames": result.rotation.n_frames,
        }
    figures["by_element"] = {name: _card_entry(f) for name, f in result.by_element.items()}
    for column, groups in result.by.items():
        figures[f"by_{column}"] = {name: _card_entry(f) for name, f in groups.items()}
    return figures


def _card_entry(figures: Figures) -> dict[str, float | int | None]:
    return {
        "force_mae": _short(figures.mae),
        "mean_abs_force": _short(figures.mean_abs_force),
        "relative": _short(figures.relative),
        "n_frames": figures.n_frames,
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
