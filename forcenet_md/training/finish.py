"""The end of a run: errors on the test frames and the model file with its card."""

from __future__ import annotations

from typing import Any

import numpy as np

from forcenet_md.artifact.card import Card
from forcenet_md.artifact.export import export_model
from forcenet_md.data.frames import check_output
from forcenet_md.errors import DataError
from forcenet_md.training.config import Config
from forcenet_md.training.dataset import Dataset
from forcenet_md.training.loop import Trainer
from forcenet_md.training.metrics import errors_by, frame_errors, pool


def check_outputs(config: Config) -> None:
    """See before a run that its checkpoint and its model file can be written. Raises DataError."""
    read = [*config.data.train, *config.data.test, config.training.initial, config.checkpoint]
    if config.output.resolve() in [path.resolve() for path in read if path is not None]:
        raise DataError(f"output={config.output} would replace what the run reads: give another.")
    check_output(config.checkpoint)
    check_output(config.output)


def held_out_errors(trainer: Trainer) -> dict[str, Any]:
    """Figures of the averaged weights on the test frames, or on the validation frames when the
    configuration names no test file; for the card."""
    data = trainer.config.data
    if data.test:
        held_out, kind = Dataset.read(data.test), "test"
        held_out.build_graphs(trainer.model.cutoff)
    else:
        held_out, kind = trainer.validation, "validation"
    if not held_out.frames:
        return {"held_out": "none"}
    errors = frame_errors(trainer.average, held_out.graphs, data.remove_net_force)
    figures: dict[str, Any] = {
        "held_out": kind,
        "definition": "mean |dF| and mean |F| over components; relative is their quotient",
        "units": "eV/Angstrom",
        **pool(errors).as_dict(),
    }
    for column in data.error_by:
        groups = errors_by(errors, held_out.frames, column)
        if groups:
            figures[f"by_{column}"] = {name: error.as_dict() for name, error in groups.items()}
    return figures


def export(trainer: Trainer) -> Card:
    """Write the model file of the averaged weights. Raises ModelFileError for a card with a gap."""
    config = trainer.config
    card = config.card
    numbers = {int(z) for atoms in trainer.train.frames for z in np.unique(atoms.numbers)}
    steps = trainer.earlier_steps + trainer.step
    notes = (
        f"{card.notes} Trained on {len(trainer.train.frames)} frames, {steps} steps of"
        f" {config.training.batch}."
    ).strip()
    check_output(config.output)
    return export_model(
        trainer.average,
        config.output,
        name=card.name,
        numbers=numbers,
        augmentation=config.training.rotations,
        training_data={
            "description": card.description,
            "licence": card.licence,
            "citation": card.citation,
        },
        test_errors=held_out_errors(trainer),
        notes=notes,
        net_force_removed=config.data.remove_net_force,
    )
