"""The end of a run: errors on the test frames and the model file with its card."""

from __future__ import annotations

from typing import Any

from forcenet_md.artifact.card import Card
from forcenet_md.artifact.export import export_model
from forcenet_md.data.frames import check_output
from forcenet_md.data.store import Frames
from forcenet_md.errors import DataError
from forcenet_md.force_error import ForceError, pool
from forcenet_md.training.checkpoint import load_checkpoint
from forcenet_md.training.config import Config
from forcenet_md.training.graphs import GraphDataset
from forcenet_md.training.loop import Trainer
from forcenet_md.training.metrics import errors_by, frame_errors
from forcenet_md.training.survey import open_frames, training_range


def check_outputs(config: Config, resume: bool = False) -> None:
    """See before a run that its checkpoint and its model file can be written, and that no model is
    replaced but a resumed run's own. Raises DataError."""
    data = config.data
    named = [*data.train, *data.validation, *data.test]
    read = [*named, config.training.initial, config.checkpoint, config.best_checkpoint]
    if config.output.resolve() in [path.resolve() for path in read if path is not None]:
        raise DataError(f"output={config.output} would replace what the run reads: give another.")
    check_output(config.checkpoint)
    check_output(config.output)
    if not config.output.exists():
        return
    if resume:
        ours = load_checkpoint(config.checkpoint).get("output") == config.output_place
    else:
        ours = config.checkpoint.is_file()  # the folder is told of by its own message
    if not ours:
        raise DataError(
            f"the model {config.output} is there already: give output=OTHER.pt, or remove it."
        )


def choose_weights(trainer: Trainer) -> str:
    """Put into `trainer.average` what is to be exported; returns what that is, for the card."""
    best = trainer.config.best_checkpoint
    if trainer.config.export == "best" and trainer.best is not None:
        state = load_checkpoint(best)
        trainer.average.load_state_dict(state["average"])
        return f"Weights of the best validation, at step {state['step']}."
    return "Weights of the last step."


def held_out_errors(trainer: Trainer) -> dict[str, Any]:
    """Figures of the averaged weights on the test frames, or on the validation frames when the
    configuration names no test file; for the card."""
    data = trainer.config.data
    frames: Frames = trainer.data.validation
    kind = "validation"
    if data.test:
        frames, kind = open_frames(data.test, trainer.config.folder), "test"
    if len(frames) == 0:
        return {"held_out": "none"}
    graphs = GraphDataset(frames, trainer.model.cutoff, trainer.model.config.neighbour_cap)
    rows = range(len(frames))
    errors = frame_errors(trainer.watched, graphs, rows, trainer.fabric.device)
    if pool(errors).n_components == 0:  # every atom is held
        return {"held_out": "none"}
    figures: dict[str, Any] = {
        "held_out": kind,
        "definition": "mean |dF| and mean |F| over components of free atoms; relative is their"
        " quotient",
        "units": "eV/Angstrom",
        **_card_entry(pool(errors)),
    }
    for column in data.error_by:
        if column in frames.columns:
            values = frames.column(column).tolist()
            groups = errors_by(errors, values)
            if groups:
                figures[f"by_{column}"] = {name: _card_entry(e) for name, e in groups.items()}
    return figures


def _card_entry(error: ForceError) -> dict[str, float]:
    """Without `relative` where no label has a force."""
    return {name: round(value, 6) for name, value in error.as_dict().items() if value == value}


def export(trainer: Trainer) -> Card:
    """Write the model file. Raises ModelFileError for a card with a gap."""
    config = trainer.config
    chosen = choose_weights(trainer)
    steps = trainer.earlier_steps + trainer.step
    start = config.training.initial
    notes = [
        config.card.notes,
        f"Trained on {len(trainer.data.train)} frames, {steps} steps of {_batch(config)}.",
        f"Started from {start.name}." if start is not None else "",
        chosen,
    ]
    check_output(config.output)
    return export_model(
        trainer.average,
        config.output,
        name=config.card_name,
        numbers=trainer.data.elements,
        augmentation=config.augmentation.rotations,
        training_data={
            "description": config.card_description,
            "licence": config.card.licence,
            "citation": config.card.citation,
        },
        test_errors=held_out_errors(trainer),
        training_range=training_range(trainer.data.train),
        notes=" ".join(note for note in notes if note),
        net_force_removed=config.data.remove_net_force,
    )


def _batch(config: Config) -> str:
    edges, frames = config.training.batch_edges, config.training.batch
    if edges is not None:
        return f"{edges} edges"
    return "1 frame" if frames == 1 else f"{frames} frames"
