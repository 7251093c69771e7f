"""The training loop: from labelled frames to averaged weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from forcenet_md.errors import DataError, ForceNetError
from forcenet_md.force_error import ForceError, pool
from forcenet_md.graph.capacity import many_neighbours
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig
from forcenet_md.training.average import update_average
from forcenet_md.training.batches import Batches, Position, ShareSampler, Step
from forcenet_md.training.config import Config
from forcenet_md.training.devices import FACTORS, make_fabric
from forcenet_md.training.graphs import Failed, GraphDataset, begin_worker, collate
from forcenet_md.training.loss import atom_errors, without_net_force
from forcenet_md.training.metrics import frame_errors
from forcenet_md.training.network import Network, freeze_idle
from forcenet_md.training.norm import join_batch_norms
from forcenet_md.training.optimizer import make_optimizer
from forcenet_md.training.run_state import resume_run, save_best, save_run
from forcenet_md.training.schedule import learning_rate
from forcenet_md.training.start import Start, check_settings, read_start
from forcenet_md.training.survey import Split, check_weights, open_split, survey


@dataclass(frozen=True)
class Progress:
    """What an observer is told: after every step, and with an error after a validation."""

    step: int
    epochs: float
    fraction: float
    loss: float
    learning_rate: float
    seconds: float
    remaining: float
    validation: ForceError | None = None


class Trainer:
    """One run. `run` trains until the budget is used or `stop` is set.

    On several devices every process has its own Trainer and all go through the same steps.
    The validated and exported weights are the running average of the weights (`average`).
    earlier_steps: those of the runs it started from. best: error of the best validation.
    tell: what the user should know before a step that takes long.
    """

    def __init__(self, config: Config, tell: Callable[[str], None] = lambda _: None) -> None:
        torch.set_num_threads(config.training.threads)
        self.config = config
        self.fabric = make_fabric(config.training, config.folder)
        start = read_start(config.training.initial) if config.training.initial else None
        settings = _settings(config, start)
        cutoff = float(settings.get("cutoff", ForceNetConfig.cutoff))
        cap = settings.get("neighbour_cap", ForceNetConfig.neighbour_cap)
        self.data = self._open_data()
        if self.fabric.is_global_zero and cap is None:
            first = self.data.train[0]
            if crowd := many_neighbours(len(first.numbers), first.cell, cutoff):
                tell(crowd)
        if config.loss.frame_weight is not None:
            check_weights(self.data.train, config.loss.frame_weight)
        found = survey(self.data.train, cutoff, cap, config.training.batch_edges is not None)
        settings.setdefault("mean_neighbours", max(0.1, round(found.mean_neighbours, 1)))
        torch.manual_seed(config.seed)
        self.model = ForceNet(ForceNetConfig(**settings))
        self.earlier_steps = 0
        if start is not None:
            start.fill(self.model)
            self.earlier_steps = start.steps
        freeze_idle(self.model, config.data.remove_net_force)
        self.average = copy.deepcopy(self.model)
        self._set_up(cutoff, cap, found.costs)
        self.step = 0
        self.position = Position()
        self.seconds = 0.0
        self.best: float | None = None
        self.since_best = 0
        self.stop = False

    def _open_data(self) -> Split:
        """The first process compiles what has to be; its error is that of all."""
        config, split, error = self.config, None, ""
        if self.fabric.is_global_zero:
            try:
                split = open_split(config.data, config.folder)
            except ForceNetError as fault:
                error = str(fault)
        if error := self.fabric.broadcast(error):
            raise DataError(error)
        return split or open_split(config.data, config.folder)

    def _set_up(self, cutoff: float, cap: int | None, costs: Any) -> None:
        """Everything that holds no state of the run."""
        config, training = self.config, self.config.training
        join_batch_norms(self.model)
        optimizer = make_optimizer(self.model, training)
        remove = config.data.remove_net_force
        self.network, self.optimizer = self.fabric.setup(Network(self.model, remove), optimizer)
        self.watched = Network(self.average.to(self.fabric.device), remove)
        self.batches = Batches(costs, training.batch_edges or training.batch or 1, config.seed)
        self.graphs = GraphDataset(
            self.data.train,
            cutoff,
            cap,
            seed=config.seed,
            augmentation=config.augmentation,
            loss=config.loss,
        )
        self.validation_graphs = GraphDataset(self.data.validation, cutoff, cap)

    @property
    def checkpoint(self) -> Path:
        return self.config.checkpoint

    @property
    def fraction(self) -> float:
        """Share of the budget that is used, 0…1."""
        training = self.config.training
        if training.steps is not None:
            used = self.step / training.steps
        elif training.epochs is not None:
            used = self.batches.epochs_at(self.position) / training.epochs
        else:
            used = self.seconds / (training.seconds or math.inf)
        return min(1.0, used)

    @property
    def stopped_early(self) -> bool:
        """Has the validation error not fallen for `patience` validations?"""
        patience = self.config.training.patience
        return patience is not None and self.since_best >= patience

    @property
    def done(self) -> bool:
        return self.fraction >= 1.0 or self.stopped_early

    def learning_rate(self) -> float:
        t = self.config.training
        return learning_rate(
            t.schedule, self.fraction, t.learning_rate, t.final_learning_rate, t.warmup
        )

    def run(self, observe: Callable[[Progress], None] = lambda _: None) -> bool:
        """Train on; True when the budget is used or the early stop came, False when stopped
        before.

        Either way the checkpoint holds the last whole step. Raises DataError when a frame has no
        graph or the loss is not finite; the checkpoint then holds the last good step.
        """
        training = self.config.training
        steps = self.batches.start_at(self.position)
        batches: Iterator[Any] = iter(()) if self.done else iter(self._loader())
        saved = clock = time.monotonic()
        self.model.train()
        stop = False
        try:
            while not (self.done or stop):
                before = math.floor(self.fraction * training.validations)
                step = next(steps)
                batch = self._checked(next(batches))
                now = time.monotonic()
                own = [now - clock, float(self.stop)]
                clock = now
                rate = self.learning_rate()
                loss, (seconds, stops) = self._train_step(step, batch, rate, own)
                stop = stops > 0.0
                self.step += 1
                self.position = step.after
                self.seconds += seconds / self.fabric.world_size
                self._tell(loss, rate, observe)
                if math.floor(self.fraction * training.validations) > before:
                    self._validate(loss, rate, observe)
                    clock = time.monotonic()
                if time.monotonic() - saved > training.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
        finally:
            self.save()
        return self.done

    def _loader(self) -> DataLoader[Any]:
        fabric = self.fabric
        return DataLoader(
            self.graphs,
            batch_sampler=ShareSampler(
                self.batches, self.position, fabric.global_rank, fabric.world_size
            ),
            num_workers=self.config.data.workers,
            collate_fn=collate,
            worker_init_fn=begin_worker,
            pin_memory=fabric.device.type == "cuda",
            # It would draw from the generator that the run's own numbers come from.
            generator=torch.Generator().manual_seed(self.config.seed),
        )

    def _checked(self, batch: Batch | Failed) -> Batch:
        if isinstance(batch, Failed):
            raise DataError(batch.reason)
        return batch.to(self.fabric.device, non_blocking=True)

    def _train_step(
        self, step: Step, batch: Batch, rate: float, own: list[float]
    ) -> tuple[float, list[float]]:
        """One step of the optimiser on this process's share of the batch.

        Returns the loss of the whole batch and the sums of `own` over the processes.
        """
        training = self.config.training
        labels = batch.forces
        if self.config.data.remove_net_force:
            labels = without_net_force(labels, batch.batch, batch.num_graphs)
        factors = FACTORS.get(training.precision)
        if self.fraction < training.bfloat16:
            factors = torch.bfloat16
        predicted = self.network(
            batch.species, batch.edge_index, batch.vector, batch.batch, batch.num_graphs, factors
        )
        error = (batch.weight * atom_errors(self.config.loss, predicted, labels)).sum()
        total, weight, *others = self._sum([error.item(), batch.weight.sum().item(), *own])
        if weight == 0.0 or not math.isfinite(total / weight):
            raise DataError(f"{self._fault(weight)} at step {self.step} on {self._names(step)}.")
        self.optimizer.zero_grad(set_to_none=True)
        # Data-parallel training takes the mean of the gradients over the processes.
        self.fabric.backward(error * (self.fabric.world_size / weight))
        self.fabric.clip_gradients(
            self.network, self.optimizer, max_norm=training.clip, error_if_nonfinite=False
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        update_average(self.average, self.model, training.average, self.step)
        return total / weight, others

    def _sum(self, values: list[float]) -> list[float]:
        """Each value summed over the processes."""
        if self.fabric.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        total = self.fabric.all_reduce(tensor, reduce_op="sum")
        assert isinstance(total, torch.Tensor)
        return total.tolist()

    def _fault(self, weight: float) -> str:
        if weight == 0.0:
            return "every atom has weight 0 in the loss (raise loss.fixed_weight or the batch)"
        return "the loss is not finite (look at these frames, or lower training.learning_rate)"

    def _names(self, step: Step) -> str:
        names = [self.data.train.name(int(row)) for row in step.rows]
        more = [f"{len(names) - 12} more"] if len(names) > 12 else []
        return "; ".join([*names[:12], *more])

    def _validate(self, loss: float, rate: float, observe: Callable[[Progress], None]) -> None:
        """Look at the validation frames; keep the weights when they are the best so far."""
        if len(self.data.validation) == 0:
            return
        error = self.validate()
        if self.best is None or error.mae < self.best:
            self.best, self.since_best = error.mae, 0
            save_best(self)
        else:
            self.since_best += 1
        figures = {"validation_mae": error.mae, "validation_relative": error.relative}
        self.fabric.log_dict(figures, step=self.step)
        observe(self._progress(loss, rate, error))

    def validate(self) -> ForceError:
        """Error of the averaged weights on the validation frames, on all processes together."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        rows = range(rank, len(self.data.validation), world)
        errors = frame_errors(self.watched, self.validation_graphs, rows, self.fabric.device)
        off, size, components, frames = self._sum([float(x) for x in pool(errors)])
        return ForceError(off, size, int(components), int(frames))

    def _tell(self, loss: float, rate: float, observe: Callable[[Progress], None]) -> None:
        progress = self._progress(loss, rate)
        if self.step % self.config.training.log_every == 0:
            figures = {
                "loss": loss,
                "learning_rate": rate,
                "epochs": progress.epochs,
                "seconds": self.seconds,
            }
            self.fabric.log_dict(figures, step=self.step)
        observe(progress)

    def _progress(self, loss: float, rate: float, validation: ForceError | None = None) -> Progress:
        epochs = self.batches.epochs_at(self.position)
        fraction = self.fraction
        remaining = self.seconds * (1.0 / fraction - 1.0) if fraction > 0.0 else math.inf
        return Progress(
            self.step, epochs, fraction, loss, rate, self.seconds, remaining, validation
        )

    def save(self) -> None:
        """Write the checkpoint."""
        save_run(self)

    def resume(self) -> None:
        """Go on from the folder's checkpoint. Raises DataError when it is of another run."""
        resume_run(self)


def _settings(config: Config, start: Start | None) -> dict[str, Any]:
    """Of the model: those of the start, where there is one, which the configuration's must fit."""
    if start is None:
        return dict(config.model)
    check_settings(start.settings, config.model, start.path)
    return dict(start.settings)
