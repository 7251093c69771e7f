"""What a run must know of its frames before the first step: the split, elements, edges."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from forcenet_md.artifact.card import TrainingRange
from forcenet_md.data.compiling import open_data
from forcenet_md.data.store import Frames
from forcenet_md.errors import DataError, StructureError
from forcenet_md.training.config import DataConfig
from forcenet_md.training.graphs import edges_of

SAMPLE = 200  # frames whose neighbours are counted
# Up to so many frames are looked at one by one; of more, edges are estimated from the sample, and
# elements are those of the stores.
COUNTED = 20_000
CLOSE = 4.0  # Å: two elements that never came so near are not known to have a shortest distance


@dataclass
class Split:
    """Frames to train on and to watch; elements: atomic numbers of the training frames; notes:
    what the user should know of the split."""

    train: Frames
    validation: Frames
    elements: frozenset[int]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Survey:
    """mean_neighbours: edges per atom; costs: [n_frames] edges of each, or 1."""

    mean_neighbours: float
    costs: NDArray[np.int64]


def open_frames(paths: Sequence[Path], folder: Path) -> Frames:
    """Every labelled frame of the files; what is no store is compiled into the run's folder.

    Raises DataError when a file cannot be read or has no labels.
    """
    return Frames(open_data(paths, folder / "data"))


def open_split(config: DataConfig, folder: Path) -> Split:
    """The frames of a run, without those with larger forces than max_force.

    Raises DataError when a file cannot be read or has no labels, and when no frame is left to
    train on or in the validation files.
    """
    frames = open_frames(config.train, folder)
    rows, notes = usable(frames, config.max_force, "frames")
    if config.validation:
        others = open_frames(config.validation, folder)
        watched, more = usable(others, config.max_force, "validation frames")
        if len(watched) == 0:
            raise DataError("no frame of data.validation is left: raise data.max_force.")
    else:
        others = frames
        rows, watched, more = _divide(frames, rows, config)
    train = frames.subset(rows)
    if len(train) == 0:
        raise DataError(
            "no training frame is left: raise data.max_force, lower data.validation_fraction, or"
            " add frames."
        )
    if len(watched) > config.validation_frames:
        watched = watched[np.linspace(0, len(watched) - 1, config.validation_frames).astype(int)]
    validation = others.subset(watched)
    if len(validation) and all(frame.fixed.all() for frame in validation):
        validation = others.subset(watched[:0])
        more = [*more, "every atom of the validation frames is held: there is no error to watch"]
    elements = elements_of(train)
    return Split(train, validation, elements, [*notes, *more, *_unknown(validation, elements)])


def usable(
    frames: Frames, max_force: float | None, what: str
) -> tuple[NDArray[np.int64], list[str]]:
    """Rows of the frames without larger forces, and a note on how many are left out."""
    rows = np.arange(len(frames))
    if max_force is None:
        return rows, []
    rows = rows[largest_forces(frames, max_force) <= max_force]
    left = len(frames) - len(rows)
    note = f"{left} {what} with a force above {max_force:g} eV/Å are left out"
    return rows, [note] if left else []


def _divide(
    frames: Frames, rows: NDArray[np.int64], config: DataConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Rows to train on, rows to watch, and notes, where no validation files are given."""
    if config.validation_fraction == 0.0:
        return rows, rows[:0], []
    notes: list[str] = []
    if config.group_by not in frames.columns and "group_by" in config.model_fields_set:
        raise DataError(
            f"data.group_by: the frames have no column '{config.group_by}' (they have"
            f" {', '.join(sorted(frames.columns)) or 'none'}): name the one that tells their"
            " trajectories apart."
        )
    held = held_out(frames, rows, config.validation_fraction, config.group_by)
    if config.group_by not in frames.columns:
        notes.append(
            f"the frames have no column '{config.group_by}': frames are held out one by one,"
            " so that a frame and the next of its trajectory may be on both sides; set"
            " data.group_by"
        )
    if not held.any():
        notes.append(
            "no frame is held out for validation: with so few, raise data.validation_fraction,"
            " or give files as data.validation (of `data split`: validation.h5)"
        )
    return rows[~held], rows[held], notes


def _unknown(validation: Frames, elements: frozenset[int]) -> list[str]:
    """A note on elements that are watched and never trained on."""
    if missing := sorted(elements_of(validation) - elements):
        names = ", ".join(chemical_symbols[number] for number in missing)
        return [
            f"validation frames have {names}, which no training frame has: the validation error"
            " tells less of the others"
        ]
    return []


def held_out(
    frames: Frames, rows: NDArray[np.int64], fraction: float, column: str
) -> NDArray[np.bool_]:
    """[n_rows]: whole groups of frames that share a value of the column.

    A group's name alone decides, so that a run with more frames holds out the same groups. Frames
    without a value are a group each.
    """
    values = frames.column(column)[rows] if column in frames.columns else [""] * len(rows)
    names = [_group(value, row) for value, row in zip(values, rows, strict=True)]
    return np.array([zlib.crc32(name.encode()) < fraction * 2**32 for name in names], dtype=bool)


def _group(value: object, row: int) -> str:
    if value == "" or value != value:
        return f"frame-{row}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def largest_forces(frames: Frames, limit: float) -> NDArray[np.float64]:
    """[n_frames] eV/Å: length of the largest force of each; 0 in stores that have none above the
    limit, which need not be read."""
    found = np.zeros(len(frames))
    if any(f.largest > limit for store in frames.stores for f in store.manifest.forces.values()):
        for row in range(len(frames)):
            found[row] = frames[row].largest_force
    return found


def elements_of(frames: Frames) -> frozenset[int]:
    """Atomic numbers that occur."""
    if len(frames) > COUNTED:
        symbols = {symbol for store in frames.stores for symbol in store.manifest.elements}
        return frozenset(atomic_numbers[symbol] for symbol in symbols)
    found: set[int] = set()
    for row in range(len(frames)):
        found.update(np.unique(frames[row].numbers).tolist())
    return frozenset(found)


def check_weights(frames: Frames, column: str) -> None:
    """Raises DataError when the column is not there or holds no weight for each frame."""
    for row, value in enumerate(frames.column(column).tolist()):
        if not isinstance(value, float) or not 0.0 <= value < float("inf"):
            raise DataError(
                f"loss.frame_weight={column}: {frames.name(row)} has '{value}' there, and each"
                " frame needs a number that is not negative."
            )


def survey(frames: Frames, cutoff: float, cap: int | None, by_edges: bool) -> Survey:
    """Raises StructureError, with the frame's name, where a frame has no neighbour list, and
    DataError where no two atoms are neighbours."""
    n = len(frames)
    counted = n if by_edges and n <= COUNTED else min(n, SAMPLE)
    rows = np.unique(np.linspace(0, n - 1, counted).astype(np.int64))
    edges = np.array([_n_edges(frames, int(row), cutoff, cap) for row in rows])
    mean = float(edges.sum() / frames.n_atoms[rows].sum())
    if mean == 0.0:
        raise DataError("no two atoms of a training frame are within model.cutoff: raise it.")
    if not by_edges:
        return Survey(mean, np.ones(n, dtype=np.int64))
    if len(rows) == n:
        return Survey(mean, edges)
    return Survey(mean, np.ceil(mean * frames.n_atoms).astype(np.int64))


def training_range(frames: Frames) -> TrainingRange | None:
    """How close atoms come and how large forces are, in at most COUNTED frames, evenly spread;
    None where there is no force."""
    n = len(frames)
    shortest = np.full((119, 119), np.inf)
    largest = 0.0
    for row in np.unique(np.linspace(0, n - 1, min(n, COUNTED)).astype(np.int64)).tolist():
        frame = frames[row]
        largest = max(largest, frame.largest_force)
        try:
            edges = edges_of(frame, CLOSE, None)
        except StructureError:
            continue  # the training has told of it
        z = frame.numbers
        lengths = np.linalg.norm(edges.vector, axis=1)
        np.minimum.at(shortest, (z[edges.source], z[edges.target]), lengths)
    pairs = {}
    for a, b in np.argwhere(np.isfinite(shortest)).tolist():
        names = sorted((chemical_symbols[a], chemical_symbols[b]))
        pairs["-".join(names)] = round(float(shortest[a, b]), 4)
    return TrainingRange(shortest=pairs, largest_force=round(largest, 4)) if largest else None


def _n_edges(frames: Frames, row: int, cutoff: float, cap: int | None) -> int:
    try:
        return edges_of(frames[row], cutoff, cap).n_edges
    except StructureError as error:
        raise StructureError(f"{frames.name(row)}: {error}") from None
