"""The state of a run in its checkpoints: what makes a resumed run the one that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from forcenet_md.errors import DataError
from forcenet_md.training.batches import Position
from forcenet_md.training.checkpoint import load_checkpoint, save_checkpoint
from forcenet_md.training.start import check_settings

if TYPE_CHECKING:
    from forcenet_md.training.loop import Trainer


def save_run(trainer: Trainer) -> None:
    """Everything a run needs to go on. Processes are alike, so the first one writes."""
    state = {
        "model": trainer.model.state_dict(),
        "average": trainer.average.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "precision": trainer.fabric.strategy.precision.state_dict(),
        "position": list(trainer.position),
        "seconds": trainer.seconds,
        "best": trainer.best,
        "since_best": trainer.since_best,
    }
    _save(trainer, trainer.checkpoint, state)


def save_best(trainer: Trainer) -> None:
    """The averaged weights of the best validation so far."""
    state = {"average": trainer.average.state_dict(), "best": trainer.best}
    _save(trainer, trainer.config.best_checkpoint, state)


def _save(trainer: Trainer, path: Path, state: dict[str, Any]) -> None:
    if trainer.fabric.is_global_zero:
        common = {
            "settings": {**vars(trainer.model.config)},
            "step": trainer.step,
            "earlier_steps": trainer.earlier_steps,
            "seed": trainer.config.seed,
            "optimizer_kind": trainer.config.training.optimizer,
            "remove_net_force": trainer.config.data.remove_net_force,
            "n_frames": len(trainer.data.train),
            "n_validation": len(trainer.data.validation),
            "frames": trainer.data.train.fingerprint,
            "validation": trainer.data.validation.fingerprint,
        }
        save_checkpoint(path, common | state)


def resume_run(trainer: Trainer) -> None:
    """Raises DataError when the folder's checkpoint is of another run."""
    state = load_checkpoint(trainer.checkpoint)
    for key, ours, name in (
        ("seed", trainer.config.seed, "seed"),
        ("optimizer_kind", trainer.config.training.optimizer, "optimizer"),
        # It decides which weights are trained, and of which forces errors are.
        ("remove_net_force", trainer.config.data.remove_net_force, "data.remove_net_force"),
        ("n_frames", len(trainer.data.train), "number of training frames"),
        # Errors on other frames are no better or worse than the best so far.
        ("n_validation", len(trainer.data.validation), "number of validation frames"),
    ):
        # Older checkpoints lack some of them.
        if state.get(key, ours) != ours:
            raise DataError(
                f"{trainer.checkpoint} was trained with {name} {state[key]}, this run has {ours}:"
                " use the same, or another folder."
            )
    for key, frames, name in (
        ("frames", trainer.data.train, "training"),
        ("validation", trainer.data.validation, "validation"),
    ):
        if key in state and state[key] != frames.fingerprint:
            raise DataError(
                f"{trainer.checkpoint} was trained with other {name} frames, as many as these:"
                " use the same, or another folder."
            )
    check_settings(state["settings"], {**vars(trainer.model.config)}, trainer.checkpoint)
    trainer.model.load_state_dict(state["model"])
    trainer.average.load_state_dict(state["average"])
    try:
        trainer.optimizer.load_state_dict(state["optimizer"])
    except ValueError:
        raise DataError(
            f"{trainer.checkpoint} was written by another version of forcenet-md, whose optimiser"
            " does not fit: go on with that version, or begin from its weights with --from."
        ) from None
    trainer.fabric.strategy.precision.load_state_dict(state["precision"])
    trainer.step, trainer.seconds = state["step"], state["seconds"]
    trainer.position = Position(*state["position"])
    trainer.best, trainer.since_best = state["best"], state["since_best"]
    trainer.earlier_steps = state["earlier_steps"]
