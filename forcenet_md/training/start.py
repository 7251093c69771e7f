"""The weights a run starts from: of a checkpoint, or of an exported model file (fine-tuning)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from forcenet_md.artifact.find import model_path
from forcenet_md.artifact.trainable import read_trainable
from forcenet_md.errors import DataError
from forcenet_md.models.forcenet import ForceNet
from forcenet_md.training.checkpoint import load_checkpoint


@dataclass(frozen=True)
class Start:
    """settings: of ForceNetConfig; state: of ForceNet; steps: of the earlier runs,
    where the file knows them (a checkpoint does)."""

    path: Path
    settings: dict[str, Any]
    state: dict[str, Tensor]
    steps: int

    def fill(self, model: ForceNet) -> None:
        """Raises DataError when the weights do not fit the model."""
        model_keys = model.state_dict().keys()
        state = {k: v for k, v in self.state.items() if k in model_keys}
        try:
            model.load_state_dict(state)
        except RuntimeError:
            raise DataError(
                f"the weights of {self.path} do not fit its settings: it is damaged, or of another"
                " version; train from the start."
            ) from None


def read_start(path: Path) -> Start:
    """Averaged weights of a checkpoint, or the weights of a model file (m.pt, or the name of a
    shipped one).

    Raises DataError or ModelFileError.
    """
    path = model_path(str(path))
    if _is_model_file(path):
        model = read_trainable(path)
        return Start(path, {**vars(model.config)}, model.state_dict(), steps=0)
    state = load_checkpoint(path)
    return Start(path, state["settings"], state["average"], state["earlier_steps"] + state["step"])


def _is_model_file(path: Path) -> bool:
    """torch.save writes a zip too; a model file has TorchScript code in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def check_settings(theirs: Mapping[str, Any], ours: Mapping[str, Any], path: Path) -> None:
    """Raises DataError when a setting of the model that we name differs from that of the file."""
    different = sorted(key for key in ours if theirs.get(key) != ours[key])
    if different:
        raise DataError(
            f"{path} has other settings of the model ({', '.join(different)}): give those,"
            " or train from the start."
        )
