"""A model as verbs load it that ask it for forces themselves, from the options they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forcenet_md.evaluation.result import Model
    from forcenet_md.inference.interface import Evaluator


def load(
    model: str,
    committee: Sequence[str],
    device: str,
    threads: int,
    dtype: str,
    trust: bool,
    frames: int,
    align: bool,
) -> tuple[Evaluator, Model]:
    """The evaluator, and what is said of it beside its figures. Raises ModelFileError."""
    from forcenet_md.evaluation.result import Model
    from forcenet_md.inference.frames import Symmetry
    from forcenet_md.inference.load import load_evaluator

    evaluator = load_evaluator(
        model,
        device=device,
        threads=threads,
        dtype=dtype,
        trust=trust,
        committee=committee,
        symmetry=Symmetry(frames, align),
    )
    known = evaluator.capabilities
    return evaluator, Model(
        name=known.name,
        spec=model,
        committee=list(committee),
        sha256=known.sha256,
        dtype=dtype,
        frames=frames,
        align=align,
    )


def atoms_at_once(asked: int | None, device: str) -> int:
    """Of a batch."""
    return asked or (20_000 if device.startswith("cuda") else 1000)
