"""The configuration of one training run: a YAML file, checked key by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from forcenet_md.errors import DataError
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataConfig(_Section):
    """Labelled frames. A file may be given once or as a list.

    validation_fraction: share of the groups (`group_by`, a column of info) that is held out and
        watched during training; frames without the column are a group each
    max_force: frames with a larger |F| (eV/Å) are left out of the training
    remove_net_force: per-structure mean taken out of labels and predictions, as the server does
    error_by: columns by whose values the test errors are also given
    """

    train: list[Path] = Field(min_length=1)
    test: list[Path] = []
    validation_fraction: float = Field(0.03, ge=0.0, lt=1.0)
    group_by: str = "trajectory"
    max_force: float = Field(60.0, gt=0.0)
    remove_net_force: bool = True
    error_by: list[str] = ["temperature"]

    @field_validator("train", "test", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value


class TrainingConfig(_Section):
    """The recipe.

    seconds, steps: the budget; give one. The learning rate falls along a cosine from
        learning_rate to final_learning_rate over it.
    average: decay of the weight average that is exported
    rotations: so3 (all, with inversion), z (about z) or none
    bfloat16: share of the budget, from its start, in which the products over edges are taken in
        bfloat16 (twice their speed on processors with the instructions, slower on others)
    initial: a checkpoint whose averaged weights are the start (warm start)
    """

    seconds: float | None = Field(None, gt=0.0)
    steps: int | None = Field(None, gt=0)
    batch: int = Field(2, gt=0)
    learning_rate: float = Field(2e-3, gt=0.0)
    final_learning_rate: float = Field(5e-5, ge=0.0)
    clip: float = Field(10.0, gt=0.0)
    average: float = Field(0.999, ge=0.0, lt=1.0)
    rotations: Literal["so3", "z", "none"] = "so3"
    bfloat16: float = Field(0.0, ge=0.0, le=1.0)
    threads: int = Field(1, gt=0)
    checkpoint_seconds: float = Field(60.0, gt=0.0)
    initial: Path | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingConfig:
        if (self.seconds is None) == (self.steps is None):
            raise ValueError("give a budget as either seconds or steps")
        return self


class CardConfig(_Section):
    """What the model file says of itself and nobody can compute."""

    name: str = Field("model", pattern=r"^[A-Za-z0-9._-]+$")
    description: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    citation: str = Field(min_length=1)
    notes: str = ""


class Config(_Section):
    """One training run.

    model: settings of ForceNetConfig
    folder: where the checkpoint and the log go
    output: the model file
    card: of the training data, for the model file
    """

    seed: int = 1
    folder: Path
    output: Path = Path("m.pt")
    data: DataConfig
    model: dict[str, Any] = {}
    training: TrainingConfig
    card: CardConfig

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @field_validator("model")
    @classmethod
    def _known_settings(cls, value: dict[str, Any]) -> dict[str, Any]:
        known = {f.name for f in fields(ForceNetConfig)}
        for key in value:
            if key not in known:
                raise ValueError(f"'{key}' is no setting of the model ({', '.join(sorted(known))})")
        try:
            ForceNet(ForceNetConfig(**value))
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"a setting is of the wrong kind ({error})") from None
        return value


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file; overrides are `section.key=value` with a YAML value.

    Raises DataError that names the key that is wrong.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give a YAML file.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text: give the YAML file of the run.") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path} must be a mapping with the keys data, model and training.")
    for override in overrides:
        _override(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = "there is no such setting"
        raise DataError(f"{path}: {key}: {reason}.") from None


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise DataError(f"'{override}' is no override: write key=value, as training.steps=100.")
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise DataError(f"'{override}': {section} is no section of the configuration.")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise DataError(f"'{override}' is no override: its value is no YAML.") from None
