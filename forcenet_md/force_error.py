"""How far forces are off: the sums, and the figures, that training, visits and evaluation share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ForceError(NamedTuple):
    """Sums over force components, eV/Å: off = Σ|ΔF|, size = Σ|F| of the labels."""

    off: float
    size: float
    n_components: int
    n_frames: int = 1

    @property
    def mae(self) -> float:
        """Mean |ΔF| over components, eV/Å."""
        return self.off / max(1, self.n_components)

    @property
    def mean_force(self) -> float:
        """Mean |F| over components of the labels, eV/Å."""
        return self.size / max(1, self.n_components)

    @property
    def relative(self) -> float:
        """mae / mean_force; NaN where no label has a force."""
        return self.mae / self.mean_force if self.size > 0.0 else float("nan")

    def as_dict(self) -> dict[str, float]:
        """Under the names they have in cards."""
        return {
            "force_mae": self.mae,
            "mean_abs_force": self.mean_force,
            "relative": self.relative,
            "n_frames": self.n_frames,
        }


def force_error(labels: NDArray[np.floating], predicted: NDArray[np.floating]) -> ForceError:
    """Of one frame or some of its atoms, [n_atoms, 3] each, eV/Å."""
    labels = labels.astype(np.float64)
    off = np.abs(predicted - labels).sum()
    return ForceError(float(off), float(np.abs(labels).sum()), labels.size)


def pool(errors: Iterable[ForceError]) -> ForceError:
    """The error over several frames, each component with the same weight."""
    rows = list(errors)
    return ForceError(
        sum(row.off for row in rows),
        sum(row.size for row in rows),
        sum(row.n_components for row in rows),
        sum(row.n_frames for row in rows),
    )


def times_worse(path: Mapping[str, float], test: Mapping[str, float]) -> float:
    """How many times the error along a path is that on test frames: in eV/Å or as a share of each
    set's own mean |F|, whichever is more. Both are figures as of `ForceError.as_dict`.

    Either alone flatters. A model that wanders to structures with larger forces than those of the
    test raises the mean its relative error is divided by; on a calmer path the error in eV/Å is
    small, and may still be a larger share of the forces. Where both sets have the same mean, the
    two agree.
    """
    absolute = path["force_mae"] / test["force_mae"]
    return max(absolute, absolute * test["mean_abs_force"] / path["mean_abs_force"])
