"""The trainable weights inside a model file, for fine-tuning.

Folding cannot be undone: F_b and the first Linear of F_e are one product in the folded network,
and the embedding is a table of known species. So the file also holds the weights as they were
trained, as one member: a line of JSON with [name, dtype, shape] of each array, then their bytes
in that order, little-endian. Its hash is in the card like that of every member; torch.jit does
not look at it, and reading it unpickles nothing. (No .npz: a zip inside the zip would make a
file that is cut short look like another one.)
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from forcenet_md.artifact import archive
from forcenet_md.artifact.archive import TRAINABLE
from forcenet_md.errors import ModelFileError
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig

DTYPES = ("<f4", "<f8", "<i8")


def pack(model: ForceNet) -> bytes:
    """The state of a model; the same state gives the same bytes."""
    arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    header = [[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()]
    return json.dumps(header).encode() + b"\n" + b"".join(a.tobytes() for a in arrays.values())


def unpack(data: bytes) -> dict[str, Tensor]:
    """Raises ValueError when it is not of this form."""
    line, _, body = data.partition(b"\n")
    state, start = {}, 0
    for name, dtype, shape in json.loads(line):
        if dtype not in DTYPES:
            raise ValueError(f"an array of kind {dtype}")
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(body, np.dtype(dtype), count, start).reshape(shape)
        state[str(name)] = torch.from_numpy(array.copy())
        start += array.nbytes
    if start != len(body):
        raise ValueError("bytes are left over")
    return state


def read_trainable(path: str | Path) -> ForceNet:
    """The trainable ForceNet of a model file, in eval mode.

    Raises ModelFileError when the file is damaged, or was exported without its weights.
    """
    found = archive.read(Path(path))
    if TRAINABLE not in found.members:
        raise ModelFileError(
            f"{path} was exported without its trainable weights: give the checkpoint.pt of its"
            " run, or export it again."
        )
    try:
        model = ForceNet(ForceNetConfig(**found.card.settings))
        model.load_state_dict(unpack(found.members[TRAINABLE]))
    except (TypeError, ValueError, RuntimeError):
        raise ModelFileError(
            f"the trainable weights of {path} do not fit its card: export the model again."
        ) from None
    return model.eval()
