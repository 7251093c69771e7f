"""Writing and loading model files."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols

from forcenet_md.artifact import archive, torchscript
from forcenet_md.artifact.card import Card, TrainingRange, make_card
from forcenet_md.artifact.check import check_program
from forcenet_md.artifact.fold import LAYOUT, fold
from forcenet_md.artifact.trainable import pack
from forcenet_md.errors import ModelFileError
from forcenet_md.models.elements import check_elements
from forcenet_md.models.forcenet import ForceNet

log = logging.getLogger(__name__)


def export_model(
    model: ForceNet,
    path: str | Path,
    *,
    name: str,
    numbers: Iterable[int],
    augmentation: str,
    training_data: dict[str, str],
    test_errors: dict[str, Any],
    notes: str = "",
    net_force_removed: bool = False,
    training_range: TrainingRange | None = None,
) -> Card:
    """Fold, script and write a ForceNet with its card, and its trainable weights beside it.

    numbers: the atomic numbers it was trained on (others are refused when it is used)
    training_data: description, licence, citation
    test_errors: figures on held-out data, units in the names
    net_force_removed: the mean force of each structure was taken out in training

    Raises ModelFileError for an incomplete card, UnknownElementError for an element without
    atomic properties.
    """
    z = sorted(set(numbers))
    config = model.config
    if config.node_features == "properties" or config.ablation != "no_radii":
        check_elements(z)
    card = make_card(
        {
            "layout_version": LAYOUT,
            "name": name,
            "architecture": "forcenet",
            "settings": asdict(config),
            "elements": [chemical_symbols[n] for n in z],
            "cutoff": config.cutoff,
            "n_layers": config.n_layers,
            "n_exchanges": config.n_layers - 1,
            "neighbour_cap": config.neighbour_cap,
            "precision": "float64",
            "energy": False,
            "stress": False,
            "conservative": False,
            "net_force_removed": net_force_removed,
            "staged": True,
            "pair_floor": config.floor != "none",
            "augmentation": augmentation,
            "training_data": training_data,
            "test_errors": test_errors,
            "training_range": training_range,
            "notes": notes,
        }
    )
    members = archive.strip(torchscript.script_bytes(fold(model, z)))
    check_program(members, str(path))
    return archive.write(Path(path), members | {archive.TRAINABLE: pack(model)}, card)


def read_card(path: str | Path) -> Card:
    """The card of a model file whose hash fits; runs nothing. Raises ModelFileError."""
    return archive.read(Path(path)).card


def load_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    trust: bool = False,
    sha256: str | None = None,
) -> tuple[torch.jit.ScriptModule, Card]:
    """Check a model file and load it, frozen for one device and precision.

    sha256 pins the file; trust skips the check of its program (never that of its hash).
    Raises ModelFileError, before anything in the file runs.
    """
    data, card = _checked(Path(path), trust, sha256)
    try:
        return torchscript.load_bytes(data, torch.device(device), dtype), card
    except RuntimeError as e:
        raise _not_loaded(path, e) from None


def load_weights(
    path: str | Path,
    device: str | torch.device,
    dtype: torch.dtype,
    *,
    trust: bool = False,
    sha256: str | None = None,
) -> dict[str, torch.Tensor]:
    """The folded weights of a model file by name, which its card's layout version fixes.

    Checks and raises as `load_model` does.
    """
    data, _ = _checked(Path(path), trust, sha256)
    try:
        return torchscript.weights(data, torch.device(device), dtype)
    except RuntimeError as e:
        raise _not_loaded(path, e) from None


def _checked(path: Path, trust: bool, sha256: str | None) -> tuple[bytes, Card]:
    """What was checked is what is loaded: the archive is built anew from the checked members."""
    found = archive.read(path)
    if sha256 is not None and sha256.lower() != found.card.sha256:
        raise ModelFileError(
            f"{path} has sha256 {found.card.sha256}, not {sha256}: it is another model than the"
            " one asked for."
        )
    program = {name: data for name, data in found.members.items() if name != archive.TRAINABLE}
    if not trust:
        check_program(program, str(path))
    return archive.to_zip(program), found.card


def _not_loaded(path: str | Path, error: RuntimeError) -> ModelFileError:
    return ModelFileError(
        f"{path} cannot be loaded by this torch ({torch.__version__}): {str(error).splitlines()[0]}"
    )
