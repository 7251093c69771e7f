"""Processes, devices and precision of a run: Lightning Fabric, set up once."""

from __future__ import annotations

import logging
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException

from forcenet_md.errors import DataError
from forcenet_md.training.config import TrainingConfig

# Factors of the products over edges; sums stay in single precision.
FACTORS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def make_fabric(config: TrainingConfig, folder: Path) -> Fabric:
    """A launched Fabric: on several devices each process goes on from here by itself.

    Raises DataError when the devices are not there.
    """
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    several = config.devices * config.nodes > 1
    try:
        fabric = _quiet_fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            precision=config.precision,
            strategy=_joint() if several else "auto",
            plugins=[_environment(several)],
            loggers=_loggers(config, folder),
        )
        if fabric.strategy.precision.precision != config.precision:
            raise ValueError("this precision needs a GPU")
        fabric.launch()
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        # Its first sentence says what is missing.
        raise DataError(
            f"training.devices={config.devices} with training.accelerator={config.accelerator} and"
            f" training.precision={config.precision} cannot be had: {str(error).split('. ')[0]}."
        ) from None
    return fabric


def _quiet_fabric(**settings: Any) -> Fabric:
    with warnings.catch_warnings():
        # Fabric takes another precision then, with a warning; we refuse.
        warnings.filterwarnings("ignore", message=".*AMP with fp16 is not supported on CPU")
        return Fabric(**settings)


def _joint() -> DDPStrategy:
    # Buffers are the same everywhere without being sent (norm.py). The others wait while the
    # first process compiles the training set, which may take hours.
    return DDPStrategy(forward_sync_buffers=False, timeout=timedelta(hours=12))


def _environment(several: bool) -> ClusterEnvironment:
    """Who started the processes. Fabric's own choice would start MPI to ask it."""
    if several and TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if several and SLURMEnvironment.detect():
        return SLURMEnvironment()
    return LightningEnvironment()


def _loggers(config: TrainingConfig, folder: Path) -> list[Any]:
    loggers: list[Any] = [CSVLogger(root_dir=folder, name="log", flush_logs_every_n_steps=1)]
    if config.tensorboard:
        from lightning.fabric.loggers import TensorBoardLogger

        try:
            loggers.append(TensorBoardLogger(root_dir=folder, name="tensorboard"))
        except ModuleNotFoundError:
            raise DataError(
                "training.tensorboard needs the package tensorboard: pip install tensorboard."
            ) from None
    return loggers
