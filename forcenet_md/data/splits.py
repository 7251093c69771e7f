"""Parts of a data set that share no group: a trajectory, a composition, a value of a column.

Neighbouring frames of a trajectory are nearly the same: an error on frames that were picked one by
one says little. So that is done only where it is asked for by name, and warned of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forcenet_md.data.compiling import Progress, describe_source
from forcenet_md.data.store import Frames, StoreWriter, as_words
from forcenet_md.errors import DataError

PARTS = ("train", "validation", "test")
BY_FRAME = "frame"


@dataclass(frozen=True)
class Split:
    """rows: of each part, ascending; groups: how many groups each has; warnings: sentences."""

    rows: dict[str, NDArray[np.int64]]
    groups: dict[str, int]
    warnings: list[str] = field(default_factory=list)


def split_by(
    frames: Frames, by: str, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> Split:
    """Whole groups for training, validation and test; the same ones for the same seed, whatever
    the order of the frames.

    by: a column, as `trajectory` or `composition`; `frame`: frame by frame, with a warning
    fractions: of the frames in each part, as near as whole groups come
    Raises DataError: no such column, frames without a value in it, fewer groups than parts.
    """
    wanted = _parts(fractions)
    names = _groups(frames, by)
    groups, member, sizes = np.unique(names, return_inverse=True, return_counts=True)
    filled = [part for part in PARTS if wanted[part] > 0.0]
    if len(groups) < len(filled):
        raise DataError(
            f"'{by}' has {len(groups)} different values in these frames, too few for"
            f" {len(filled)} parts: split by another column, or give the frames of a part in a file"
            " of their own."
        )
    order = sorted(range(len(groups)), key=lambda g: _draw(seed, str(groups[g])))
    place = np.zeros(len(groups), dtype=np.int64)
    for part in ("test", "validation"):
        free = [g for g in order if place[g] == 0]
        later = filled[: filled.index(part)] if part in filled else filled
        for g in _fill(free, sizes, wanted[part] * len(names), len(free) - len(later)):
            place[g] = PARTS.index(part)
    warnings = []
    if by == BY_FRAME:
        warnings.append(
            "frames were picked one by one: where they come from trajectories, the test frames are"
            " nearly in the training set and their error says little of new structures; split by a"
            " column."
        )
    elif len(groups) == len(names) > len(PARTS):
        warnings.append(
            f"every frame has another value of '{by}': this is a split frame by frame, whose test"
            " error says little where frames come from trajectories."
        )
    return _split(place[member], member, warnings)


def split_by_values(
    frames: Frames, by: str, test: Collection[str], validation: Collection[str] = ()
) -> Split:
    """Frames whose column has the values named are held out, all others are for training.

    Numbers are given as they are written, as "600". Raises DataError: a value that no frame has,
    one that is named for both parts, no frame left for training.
    """
    names = _groups(frames, by)
    both = sorted(set(test) & set(validation))
    if both:
        raise DataError(f"'{both[0]}' is named for two parts: name it for one.")
    place = np.zeros(len(names), dtype=np.int64)
    for part, values in (("test", test), ("validation", validation)):
        for value in values:
            found = names == value
            if not found.any():
                raise DataError(f"no frame has the value '{value}' of '{by}'; {_some(names)}.")
            place[found] = PARTS.index(part)
    if not (place == 0).any():
        raise DataError(f"no frame is left to train on: hold out fewer values of '{by}'.")
    return _split(place, np.unique(names, return_inverse=True)[1], [])


def write_part(frames: Frames, out: Path, progress: Progress | None = None) -> None:
    """A store of some frames, with all they have. Raises DataError."""
    _check_not_read(frames, out)
    with StoreWriter(out) as writer:
        for row in range(len(frames)):
            writer.append(frames.atoms(row))
            if progress is not None:
                progress(out.name, row + 1, row + 1, len(frames))
        writer.survey.sources += [describe_source(store.path) for store in frames.stores]
        writer.survey.units = frames.stores[0].manifest.units


def write_parts(
    frames: Frames,
    rows: Mapping[str, NDArray[np.int64]],
    folder: Path,
    progress: Progress | None = None,
) -> None:
    """A store for each part that has frames. Parts of an earlier split stay until all new ones are
    whole, and then all go: parts of two splits share groups. Raises DataError."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: give --out a folder, which is made if needed.")
    paths = {name: folder / f"{name}.h5" for name in rows}
    for path in paths.values():
        _check_not_read(frames, path)
    new = {name: folder / f"{name}.h5.new" for name in rows if len(rows[name])}
    try:
        for name, path in new.items():
            write_part(frames.subset(rows[name]), path, progress)
        for path in paths.values():
            path.unlink(missing_ok=True)
        for name, path in new.items():
            path.replace(paths[name])
    finally:
        for path in new.values():
            path.unlink(missing_ok=True)


def _check_not_read(frames: Frames, out: Path) -> None:
    if any(store.path.resolve() == out.resolve() for store in frames.stores):
        raise DataError(f"{out} would replace what is read: give another path.")


def _parts(fractions: Sequence[float]) -> Mapping[str, float]:
    if (
        len(fractions) != len(PARTS)
        or min(fractions) < 0.0
        or fractions[0] <= 0.0
        or not np.isclose(sum(fractions), 1.0)
    ):
        raise DataError(
            "the fractions of training, validation and test frames must be three numbers that add"
            " up to 1, as 0.8,0.1,0.1."
        )
    return dict(zip(PARTS, fractions, strict=True))


def _groups(frames: Frames, by: str) -> NDArray[np.object_]:
    """[n_frames] the name of each frame's group."""
    if by == BY_FRAME:
        return np.array([str(row) for row in frames.rows], dtype=object)
    names = as_words(frames.column(by))
    empty = np.flatnonzero(names == "")
    if len(empty):
        raise DataError(
            f"{len(empty)} frames have no '{by}' (the first: {frames.name(int(empty[0]))}): split"
            " by a column that every frame has."
        )
    return names


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _fill(order: Sequence[int], sizes: NDArray[np.intp], wanted: float, most: int) -> list[int]:
    """Groups, in their order, that come nearest to so many frames; at least one if any, and at
    most `most`, so that some are left for the other parts."""
    if wanted <= 0.0:
        return []
    out: list[int] = []
    count = 0
    for g in order:
        if len(out) < most and count + sizes[g] / 2 <= wanted:
            out.append(g)
            count += int(sizes[g])
    return out or [min(order, key=lambda g: sizes[g])]


def _split(place: NDArray[np.int64], member: NDArray[np.intp], warnings: list[str]) -> Split:
    rows = {part: np.flatnonzero(place == k) for k, part in enumerate(PARTS)}
    groups = {part: len(np.unique(member[rows[part]])) for part in PARTS}
    return Split(rows, groups, warnings)


def _some(names: NDArray[np.object_]) -> str:
    known = np.unique(names)
    return f"there are {', '.join(map(str, known[:20]))}{', …' if len(known) > 20 else ''}"
