"""The card: what a model file says of itself, as JSON inside the archive."""

from __future__ import annotations

from typing import Any, Literal

from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from forcenet_md.errors import ModelFileError

FORMAT_VERSION = 1


class TrainingData(BaseModel):
    """What the weights were fitted to."""

    model_config = ConfigDict(extra="forbid")
    description: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    citation: str = Field(min_length=1)


class TrainingRange(BaseModel):
    """How far the training frames went, for guards to warn of what lies beyond.

    shortest: Å, the smallest distance of each pair of elements, as "Ag-Au" in alphabetical order
    largest_force: eV/Å, of an atom
    """

    model_config = ConfigDict(extra="forbid")
    shortest: dict[str, float]
    largest_force: float = Field(gt=0)

    @field_validator("shortest")
    @classmethod
    def _pairs(cls, shortest: dict[str, float]) -> dict[str, float]:
        for pair, distance in shortest.items():
            symbols = pair.split("-")
            if len(symbols) != 2 or not all(s in atomic_numbers for s in symbols):
                raise ValueError(f"{pair} is no pair of elements")
            if not distance > 0.0:
                raise ValueError(f"{pair} at {distance} Å is no distance")
        return shortest


class Card(BaseModel):
    """Capabilities and provenance of a model.

    cutoff: Å
    n_exchanges: exchanges of ghost rows per step on many ranks (layers − 1); 0 if not staged
    neighbour_cap: at most so many nearest sources per target, or None
    precision: of the stored weights; both float32 and float64 can be computed
    net_force_removed: trained with the mean force of each structure taken out, so that it is taken
        out always; else only where no atom is held
    pair_floor: its program adds a repulsive pair force to the network's (models/floor.py); files
        from before there was one have no such stage
    staged: has the stages of models/interface.py; else it is served on one domain
    augmentation: rotations the training saw
    test_errors: figures on held-out data, each with its unit in its name
    training_range: of the training frames; files from before it was noted have none
    sha256: over every other member of the archive, filled in by export
    """

    model_config = ConfigDict(extra="forbid")
    format_version: int = FORMAT_VERSION
    layout_version: int
    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    architecture: str = Field(min_length=1)
    settings: dict[str, Any]
    elements: list[str] = Field(min_length=1)
    cutoff: float = Field(gt=0)
    n_layers: int = Field(ge=1)
    n_exchanges: int = Field(ge=0)
    neighbour_cap: int | None
    precision: Literal["float32", "float64"]
    energy: bool
    stress: bool
    conservative: bool
    net_force_removed: bool
    staged: bool
    augmentation: Literal["so3", "z", "none"]
    training_data: TrainingData
    test_errors: dict[str, Any]
    training_range: TrainingRange | None = None
    pair_floor: bool = False
    notes: str = ""
    sha256: str = ""

    @field_validator("elements")
    @classmethod
    def _known(cls, elements: list[str]) -> list[str]:
        bad = [e for e in elements if e not in atomic_numbers or e == "X"]
        if bad:
            raise ValueError(f"{', '.join(bad)} is no element")
        return elements

    @property
    def numbers(self) -> frozenset[int]:
        return frozenset(atomic_numbers[e] for e in self.elements)


def make_card(fields: dict[str, Any]) -> Card:
    """Raise ModelFileError naming the first missing or wrong field."""
    try:
        return Card(**fields)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ModelFileError(
            f"the model card's {where!r} is incomplete or wrong ({first['msg']}): every field"
            " must be given before a model is exported or loaded."
        ) from None
