"""The frames of a run beside their graphs, and the split into training and validation."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ase import Atoms
from torch_geometric.data import Data

from forcenet_md.data.frames import largest_force, read_frames
from forcenet_md.errors import StructureError
from forcenet_md.training.graphs import to_graph


@dataclass
class Dataset:
    """Frames and their graphs, side by side; labels name where a frame comes from."""

    frames: list[Atoms] = field(default_factory=list)
    graphs: list[Data] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, paths: Sequence[Path], max_force: float = math.inf) -> Dataset:
        """Every labelled frame of the files whose largest force is at most max_force.

        Raises DataError when a file cannot be read or has no labels.
        """
        out = cls()
        for path in paths:
            for k, atoms in enumerate(read_frames(path, labelled=True)):
                if largest_force(atoms) <= max_force:
                    out.frames.append(atoms)
                    out.labels.append(f"frame {k} of {path}")
        return out

    def build_graphs(self, cutoff: float) -> None:
        """Raises StructureError, with the frame's name, where it has no graph."""
        self.graphs = []
        for atoms, label in zip(self.frames, self.labels, strict=True):
            try:
                self.graphs.append(to_graph(atoms, cutoff))
            except StructureError as error:
                raise StructureError(f"{label}: {error}") from None

    def split(self, fraction: float, column: str) -> tuple[Dataset, Dataset]:
        """(rest, held out): whole groups of frames that share a value of the column.

        A group's name alone decides, so that a run with more frames holds out the same groups.
        """
        groups = [str(a.info.get(column, f"frame-{k}")) for k, a in enumerate(self.frames)]
        out = [zlib.crc32(name.encode()) < fraction * 2**32 for name in groups]
        return self._pick([not held for held in out]), self._pick(out)

    def _pick(self, keep: Sequence[bool]) -> Dataset:
        return Dataset(
            [a for a, k in zip(self.frames, keep, strict=True) if k],
            [],
            [a for a, k in zip(self.labels, keep, strict=True) if k],
        )
