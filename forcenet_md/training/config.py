"""The configuration of one training run: what may be set, and what it must be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from ase.data import atomic_numbers
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from forcenet_md.data.hdf5 import is_store
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig
from forcenet_md.writing import plain_name

NOT_STATED = "not stated"


def least_unlike(name: str, known: Sequence[str]) -> list[str]:
    """A few of many, for a message."""
    return get_close_matches(name, known, n=4, cutoff=0.0)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataConfig(_Section):
    """Labelled frames. A file may be given once or as a list.

    validation: files whose frames are watched during training; all of `train` is then trained on,
        and `validation_fraction` and `group_by` are not used
    validation_fraction: without such files, share of the groups (`group_by`, a column of the
        frames) of `train` that is held out and watched; frames without the column are a group each
    validation_frames: at most so many frames are watched
    max_force: frames with a larger |F| (eV/Å) are neither trained on nor watched; none: no limit
    remove_net_force: per-structure mean taken out of labels and predictions, as the server does
    error_by: columns by whose values the test errors are also given
    workers: processes that read frames and build graphs; 0: the training process does it
    """

    train: list[Path] = Field(min_length=1)
    validation: list[Path] = []
    test: list[Path] = []
    validation_fraction: float = Field(default=0.03, ge=0.0, lt=1.0)
    validation_frames: int = Field(default=1000, gt=0)
    group_by: str = "trajectory"
    max_force: float | None = Field(default=60.0, gt=0.0)
    remove_net_force: bool = True
    error_by: list[str] = ["temperature"]
    workers: int = Field(default=0, ge=0)

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value

    @field_validator("validation")
    @classmethod
    def _not_trained_on(cls, value: list[Path], info: ValidationInfo) -> list[Path]:
        for path in _shared(value, info.data.get("train", [])):
            raise ValueError(f"{path} is in data.train too: watch frames that are not learned")
        return value

    @field_validator("test")
    @classmethod
    def _not_seen(cls, value: list[Path], info: ValidationInfo) -> list[Path]:
        for path in _shared(value, info.data.get("train", [])):
            raise ValueError(f"{path} is in data.train too: test on frames that are not learned")
        for path in _shared(value, info.data.get("validation", [])):
            raise ValueError(
                f"{path} is in data.validation too, by which the weights are chosen: leave it out"
                " here, and the figures are given as those of validation"
            )
        return value


def _shared(paths: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    """Those of the paths that are among the others, or that lie in a folder of theirs."""
    there = [path.resolve() for path in others]
    return [path for path in paths if any(_is_read_with(path.resolve(), p) for p in there)]


def _is_read_with(path: Path, other: Path) -> bool:
    """A store is read by its name alone, not with its folder."""
    return path == other or (path.is_relative_to(other) and not is_store(path))


class AugmentationConfig(_Section):
    """What each frame goes through before the network sees it; new in every epoch.

    rotations: so3 (all), z (about z) or none
    inversion: half of the frames are inverted
    noise: standard deviation (Å, per component) of the displacement of the atoms that are not
        fixed; 0: none
    noise_share: share of the frames that are displaced
    restore: eV/Å²; the label of a displaced atom is its force in the frame less restore ×
        displacement, so that the network learns to pull it back (Godwin et al., arXiv 2106.07971)
    """

    rotations: Literal["so3", "z", "none"] = "so3"
    inversion: bool = True
    noise: float = Field(default=0.0, ge=0.0)
    noise_share: float = Field(default=0.5, ge=0.0, le=1.0)
    restore: float = Field(default=0.0, ge=0.0)


class LossConfig(_Section):
    """The loss is Σ w·error / Σ w over the atoms of a batch, on all processes together.

    kind: l1 (mean over components of |ΔF|), l2 (‖ΔF‖ of an atom) or huber (per component)
    huber_delta: eV/Å; quadratic below, linear above
    fixed_weight: weight of an atom that was held in the calculation (the paper: 0.05)
    element_weights: by symbol; 1 for the others
    frame_weight: column of the frames with a weight for each
    """

    kind: Literal["l1", "l2", "huber"] = "l1"
    huber_delta: float = Field(default=0.1, gt=0.0)
    fixed_weight: float = Field(default=1.0, ge=0.0)
    element_weights: dict[str, float] = {}
    frame_weight: str | None = None

    @field_validator("element_weights")
    @classmethod
    def _weights(cls, value: dict[str, float]) -> dict[str, float]:
        for symbol, weight in value.items():
            if symbol not in atomic_numbers or symbol == "X":
                raise ValueError(f"'{symbol}' is no element")
            if not 0.0 <= weight < float("inf"):
                raise ValueError(f"the weight of {symbol} must be a number that is not negative")
        return value


class TrainingConfig(_Section):
    """The recipe.

    steps, epochs, seconds: the budget; give one
    batch: frames of a step, on all processes together; or
    batch_edges: frames are taken until they have so many edges
    optimizer: adam, adamw, or muon: Muon for matrices and AdamW for the rest, at one rate
    schedule: of the learning rate over the budget (training/schedule.py)
    warmup: share of the budget in which the learning rate grows to its value
    average: decay of the weight average that is validated and exported
    clip: largest norm of the gradient
    validations: how often the validation frames are looked at, over the budget
    patience: stop after so many validations without a better one; none: never
    bfloat16: share of the budget, from its start, in which the products over edges are taken in
        bfloat16 (twice their speed on processors with the instructions, slower on others)
    precision: bf16-mixed, 16-mixed: products over edges in that precision throughout
    devices, nodes, accelerator: as in Lightning Fabric; several devices share each batch
    initial: a checkpoint or a model file whose (averaged) weights are the start
    """

    seconds: float | None = Field(default=None, gt=0.0)
    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0.0)
    batch: int | None = Field(default=None, gt=0)
    batch_edges: int | None = Field(default=None, gt=0)
    optimizer: Literal["adam", "adamw", "muon"] = "adam"
    weight_decay: float = Field(default=0.0, ge=0.0)
    learning_rate: float = Field(default=2e-3, gt=0.0)
    final_learning_rate: float = Field(default=5e-5, ge=0.0)
    schedule: Literal["cosine", "constant", "paper"] = "cosine"
    warmup: float = Field(default=0.0, ge=0.0, lt=1.0)
    clip: float = Field(default=10.0, gt=0.0)
    average: float = Field(default=0.999, ge=0.0, lt=1.0)
    validations: int = Field(default=50, gt=0)
    patience: int | None = Field(default=None, gt=0)
    bfloat16: float = Field(default=0.0, ge=0.0, le=1.0)
    threads: int = Field(default=1, gt=0)
    accelerator: Literal["auto", "cpu", "gpu", "cuda"] = "auto"
    devices: int = Field(default=1, gt=0)
    nodes: int = Field(default=1, gt=0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    checkpoint_seconds: float = Field(default=60.0, gt=0.0)
    log_every: int = Field(default=20, gt=0)
    tensorboard: bool = False
    initial: Path | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingConfig:
        if sum(x is not None for x in (self.seconds, self.steps, self.epochs)) != 1:
            raise ValueError("give a budget as one of steps, epochs and seconds")
        if self.batch is not None and self.batch_edges is not None:
            raise ValueError("give either batch (frames) or batch_edges")
        if self.batch is None and self.batch_edges is None:
            self.batch = 2
        if self.weight_decay > 0.0 and self.optimizer == "adam":
            raise ValueError("weight_decay needs optimizer: adamw or muon")
        return self


class CardConfig(_Section):
    """What the model file says of itself and nobody can compute."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    description: str | None = Field(default=None, min_length=1)
    licence: str = Field(default=f"licence {NOT_STATED}", min_length=1)
    citation: str = Field(default=f"citation {NOT_STATED}", min_length=1)
    notes: str = ""


class Config(_Section):
    """One training run.

    model: settings of ForceNetConfig
    folder: where checkpoints, logs and compiled data go
    output: the model file
    export: the weights of the best validation, or the last; the last where there is no validation
    card: of the training data, for the model file
    """

    seed: int = Field(default=1, ge=0)
    folder: Path = Path("run")
    output: Path = Path("m.pt")
    export: Literal["best", "last"] = "best"
    data: DataConfig
    model: dict[str, Any] = {}
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig
    card: CardConfig = CardConfig()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def best_checkpoint(self) -> Path:
        return self.folder / "best.pt"

    @property
    def output_place(self) -> str:
        """The model file as seen from the folder: both may be moved together."""
        return os.path.relpath(self.output.resolve(), self.folder.resolve())

    @field_validator("model")
    @classmethod
    def _known_settings(cls, value: dict[str, Any]) -> dict[str, Any]:
        known = [f.name for f in fields(ForceNetConfig)]
        for key in value:
            if key not in known:
                take = ", ".join(least_unlike(key, known))
                raise ValueError(f"'{key}' is no setting of the model; take one as {take}")
        try:
            # One layer of width 8 shows what fits together; the paper's size would take a second.
            ForceNetConfig(**value)
            ForceNet(ForceNetConfig(**{**value, "hidden": 8, "n_layers": 1}))
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"a setting is of the wrong kind ({error})") from None
        return value

    @property
    def card_name(self) -> str:
        return self.card.name or plain_name(self.output.stem, "model")

    @property
    def card_description(self) -> str:
        names = ", ".join(path.name for path in self.data.train)
        return self.card.description or f"trained on {names}, not described further"
