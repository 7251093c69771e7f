"""The training loop: from labelled frames to averaged weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_geometric.loader import DataLoader

from forcenet_md.errors import DataError
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig
from forcenet_md.training.augment import random_rotation, rotate
from forcenet_md.training.checkpoint import load_checkpoint, save_checkpoint
from forcenet_md.training.config import Config
from forcenet_md.training.dataset import Dataset
from forcenet_md.training.graphs import EpochOrder, mean_neighbours
from forcenet_md.training.loss import l1_loss, without_net_force
from forcenet_md.training.metrics import ForceError, frame_errors, pool, predict


@dataclass(frozen=True)
class Progress:
    """What an observer is told: after every step, and with an error after a validation."""

    step: int
    fraction: float
    loss: float
    learning_rate: float
    seconds: float
    validation: ForceError | None = None


class Trainer:
    """One run. `run` trains until the budget is used or `stop` is set.

    The exported weights are the running average of the weights (`average`). earlier_steps: those
    of the runs it started from.
    """

    def __init__(self, config: Config) -> None:
        torch.set_num_threads(config.training.threads)
        self.config = config
        data = config.data
        everything = Dataset.read(data.train, data.max_force)
        self.train, self.validation = everything.split(data.validation_fraction, data.group_by)
        if not self.train.frames:
            raise DataError("no training frame is left: raise data.max_force or add frames.")
        settings = dict(config.model)
        cutoff = float(settings.get("cutoff", ForceNetConfig.cutoff))
        self.train.build_graphs(cutoff)
        self.validation.build_graphs(cutoff)
        neighbours = mean_neighbours(self.train.graphs)
        if neighbours == 0.0:
            raise DataError("no two atoms of a training frame are within model.cutoff: raise it.")
        settings.setdefault("mean_neighbours", max(0.1, round(neighbours, 1)))
        torch.manual_seed(config.seed)
        self.model = ForceNet(ForceNetConfig(**settings))
        self.average = copy.deepcopy(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.step = 0
        self.seconds = 0.0
        self.earlier_steps = 0
        self.stop = False
        if config.training.initial is not None:
            self._start_from(load_checkpoint(config.training.initial))

    @property
    def checkpoint(self) -> Path:
        return self.config.checkpoint

    @property
    def fraction(self) -> float:
        """Share of the budget that is used, 0…1."""
        training = self.config.training
        used = (
            self.step / training.steps
            if training.steps is not None
            else self.seconds / (training.seconds or math.inf)
        )
        return min(1.0, used)

    def learning_rate(self) -> float:
        training = self.config.training
        low, high = training.final_learning_rate, training.learning_rate
        return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * self.fraction))

    def run(self, observe: Callable[[Progress], None] = lambda _: None) -> bool:
        """Train on; True when the budget is used, False when stopped before.

        Either way the checkpoint holds the last whole step. Raises DataError when the loss is
        not finite; the checkpoint then holds the last good step.
        """
        training = self.config.training
        order = EpochOrder(len(self.train.graphs), training.batch, self.config.seed, self.step)
        batches = iter(order)
        saved = time.monotonic()
        self.model.train()
        try:
            while self.fraction < 1.0 and not self.stop:
                started = time.monotonic()
                loss = self._train_step(next(batches))
                self.step += 1
                self.seconds += time.monotonic() - started
                observe(self._progress(loss))
                if time.monotonic() - saved > training.checkpoint_seconds:
                    self.save()
                    if self.validation.graphs:
                        observe(self._progress(loss, self.validate()))
                    saved = time.monotonic()
        finally:
            self.save()
        return self.fraction >= 1.0

    def validate(self) -> ForceError:
        """Error of the averaged weights on the validation frames."""
        remove = self.config.data.remove_net_force
        return pool(frame_errors(self.average, self.validation.graphs, remove))

    def save(self) -> None:
        save_checkpoint(
            self.checkpoint,
            {
                "settings": {**vars(self.model.config)},
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "earlier_steps": self.earlier_steps,
                "seed": self.config.seed,
            },
        )

    def resume(self) -> None:
        """Go on from the folder's checkpoint. Raises DataError when it is of another run."""
        state = load_checkpoint(self.checkpoint)
        if state["seed"] != self.config.seed:
            raise DataError(
                f"{self.checkpoint} was trained with seed {state['seed']}, the configuration says"
                f" {self.config.seed}: use the same, or another folder."
            )
        self._check_settings(state, self.checkpoint)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.earlier_steps = state["earlier_steps"]

    def _start_from(self, state: dict[str, Any]) -> None:
        assert self.config.training.initial is not None
        self._check_settings(state, self.config.training.initial)
        self.model.load_state_dict(state["average"])
        self.average.load_state_dict(state["average"])
        self.earlier_steps = state["earlier_steps"] + state["step"]

    def _check_settings(self, state: dict[str, Any], path: Path) -> None:
        theirs, ours = state["settings"], vars(self.model.config)
        different = sorted(key for key in ours if theirs.get(key) != ours[key])
        if different:
            raise DataError(
                f"{path} has other settings of the model ({', '.join(different)}): give those,"
                " or train from the start."
            )

    def _train_step(self, rows: list[int]) -> float:
        """One step of Adam on the frames of these rows; their loss in eV/Å."""
        training = self.config.training
        rng = np.random.default_rng([self.config.seed, 1, self.step])
        turned = [
            rotate(self.train.graphs[row], random_rotation(training.rotations, rng)) for row in rows
        ]
        batch = next(iter(DataLoader(turned, batch_size=len(turned))))
        labels = batch.forces
        if self.config.data.remove_net_force:
            labels = without_net_force(labels, batch.batch, batch.num_graphs)
        half = self.fraction < training.bfloat16
        remove = self.config.data.remove_net_force
        loss = l1_loss(predict(self.model, batch, remove, half), labels)
        value = loss.item()
        if not math.isfinite(value):
            names = "; ".join(self.train.labels[row] for row in rows)
            raise DataError(
                f"the loss is not finite at step {self.step} on {names}: look at these frames,"
                " or lower training.learning_rate."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), training.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self._update_average()
        return value

    @torch.no_grad()
    def _update_average(self) -> None:
        # A short memory at first, so that the average does not carry the random start.
        decay = min(self.config.training.average, (1.0 + self.step) / (10.0 + self.step))
        theirs = [*self.model.parameters(), *self.model.buffers()]
        ours = [*self.average.parameters(), *self.average.buffers()]
        for mine, new in zip(ours, theirs, strict=True):
            if mine.is_floating_point():
                mine.lerp_(new, 1.0 - decay)
            else:
                mine.copy_(new)

    def _progress(self, loss: float, validation: ForceError | None = None) -> Progress:
        return Progress(
            self.step, self.fraction, loss, self.learning_rate(), self.seconds, validation
        )
