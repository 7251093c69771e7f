"""The state of a run in its checkpoints: what makes a resumed run the one that was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forcenet_md.errors import DataError
from forcenet_md.training.batches import Position
from forcenet_md.training.checkpoint import load_checkpoint, save_checkpoint
from forcenet_md.training.config import Config
from forcenet_md.training.start import check_settings

if TYPE_CHECKING:
    from forcenet_md.training.loop import Trainer

# Of `training`: how long, on which machine, how often something is looked at or written. All else
# makes a run what it is.
FREE = {
    "steps", "epochs", "seconds", "patience", "validations",
    "threads", "accelerator", "devices", "nodes",
    "checkpoint_seconds", "log_every", "tensorboard",
}  # fmt: skip


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
            "run": _settings(trainer.config),
            "output": trainer.config.output_place,
            "frames": trainer.data.train.fingerprint,
            "validation": trainer.data.validation.fingerprint,
        }
        save_checkpoint(path, common | state)


def resume_run(trainer: Trainer) -> None:
    """Raises DataError when the folder's checkpoint is of another run."""
    state = load_checkpoint(trainer.checkpoint)
    # An older checkpoint lacks some of them.
    before, ours = state.get("run", {}), _settings(trainer.config)
    different = [key for key in before if key in ours and before[key] != ours[key]]
    if different:
        raise DataError(
            f"{trainer.checkpoint} was trained with {_written(before, different)}, and this run"
            f" has {_written(ours, different)}: give the same, or begin from its weights with"
            " --from in another folder."
        )
    for key, frames, name in (
        ("frames", trainer.data.train, "training"),
        # Errors on other frames are no better or worse than the best so far.
        ("validation", trainer.data.validation, "validation"),
    ):
        if key in state and state[key] != frames.fingerprint:
            raise DataError(
                f"{trainer.checkpoint} was trained with other {name} frames: use the same, or"
                " another folder."
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


def _settings(config: Config) -> dict[str, Any]:
    """Those that must be the same when a run goes on, by their keys. Frames and the model are
    compared by what they are."""
    parts = {
        "augmentation": config.augmentation.model_dump(),
        "loss": config.loss.model_dump(),
        "training": config.training.model_dump(exclude={*FREE, "initial"}),
    }
    initial = config.training.initial
    return {
        "seed": config.seed,
        # It decides which weights are trained, and of which forces errors are.
        "data.remove_net_force": config.data.remove_net_force,
        **{f"{part}.{key}": value for part in parts for key, value in parts[part].items()},
        "training.initial": initial.name if initial is not None else None,
    }


def _written(settings: dict[str, Any], keys: Sequence[str]) -> str:
    """As on the command line."""
    values = {key: settings[key] for key in keys}
    return " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
    )
