"""Every `torch.jit` call of the package, and its deprecation warnings.

The user's format is TorchScript; what stands beside it one day (AOTInductor) begins here.
"""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from forcenet_md.models.interface import FLOOR_STAGE, STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # torch deprecates torch.jit in favour of torch.export; the format is a decision.
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*")
        yield


def script_bytes(module: nn.Module) -> bytes:
    """Script a module (unfrozen, so that `.to(dtype)` still works) and save it."""
    with _quiet():
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(module.eval()), buffer)
    return buffer.getvalue()


def load_bytes(data: bytes, device: torch.device, dtype: torch.dtype) -> torch.jit.ScriptModule:
    """Load, cast, then freeze: a frozen module has no parameters left to cast.

    The caller has checked the bytes (artifact/check.py): loading runs code in the file.
    """
    with _quiet():
        module = _load(data, device, dtype)
        kept = [*STAGES, "n_layers"]
        if hasattr(module, FLOOR_STAGE):  # files from before there was one have none
            kept.append(FLOOR_STAGE)
        return torch.jit.freeze(module, preserved_attrs=kept)


def weights(data: bytes, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """By name, of checked bytes: a frozen module has none left."""
    with _quiet():
        return _load(data, device, dtype).state_dict()


def _load(data: bytes, device: torch.device, dtype: torch.dtype) -> torch.jit.ScriptModule:
    module = torch.jit.load(io.BytesIO(data), map_location=device)
    return module.to(device=device, dtype=dtype).eval()
