"""Files of H5MD 1.1 (https://www.nongnu.org/h5md/h5md.html), as MDAnalysis and h5py read them.

Three kinds of one layout: a segment holds its frames; an index is made of virtual datasets over
segments, and opens as if it held theirs; a merged file holds the frames of many segments. A chunk
is one frame's vectors, so that merging copies compressed bytes. What some frames lack is NaN.

Forces are in kJ mol-1 Angstrom-1: MDAnalysis opens no file that has them in eV Angstrom-1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from forcenet_md import __version__
from forcenet_md.recording.frame import LEVEL, VECTORS, Frame
from forcenet_md.recording.layout import (
    EDGES,
    FORMAT,
    OURS,
    REMOVED,
    Column,
    Head,
    Part,
    columns,
)


def segment(head: Head, number: int, frames: Sequence[Frame]) -> bytes:
    """The file of these frames."""
    vectors, scalars = _names(frames)

    def make(file: h5py.File, column: Column) -> h5py.Dataset:
        name = column.path.split("/")[-2]
        if column.is_vector:
            dataset = _chunked(file, column, len(frames))
            for row, frame in enumerate(frames):
                if name in frame.vectors:
                    dataset.id.write_direct_chunk((row, 0, 0), frame.vectors[name])
            return dataset
        values: list[Any]
        match column.path.removeprefix(f"{EDGES}/"):
            case "step":
                values = [frame.step for frame in frames]
            case "time":
                values = [frame.time for frame in frames]
            case "value":
                values = [frame.cell for frame in frames]
            case _:
                values = [frame.scalars.get(name, np.nan) for frame in frames]
        return file.create_dataset(column.path, data=np.array(values, dtype=column.dtype))

    return _image(head, number, number, vectors, scalars, make)


def index(head: Head, parts: Sequence[Part], folder: Path) -> bytes:
    """A file beside `folder`, where the parts are, that opens as if it held their frames."""
    vectors, scalars = _union(parts)
    n_frames = sum(part.n_frames for part in parts)

    def make(file: h5py.File, column: Column) -> h5py.Dataset:
        layout = h5py.VirtualLayout((n_frames, *column.shape), column.dtype)
        row = 0
        for part in parts:
            if _has(part, column):
                source = f"{folder.name}/{part.path.name}"
                shape = (part.n_frames, *column.shape)
                layout[row : row + part.n_frames] = h5py.VirtualSource(source, column.path, shape)
            row += part.n_frames
        return file.create_virtual_dataset(column.path, layout, fillvalue=column.fill)

    return _image(head, parts[0].first, parts[-1].last, vectors, scalars, make)


def merge(head: Head, parts: Sequence[Part], path: Path) -> Generator[None]:
    """Write one file with the frames of all parts; yields after each chunk."""
    vectors, scalars = _union(parts)
    n_frames = sum(part.n_frames for part in parts)
    made: list[tuple[Column, h5py.Dataset]] = []

    def make(file: h5py.File, column: Column) -> h5py.Dataset:
        if column.is_vector:
            dataset = _chunked(file, column, n_frames)
        else:
            shape = (n_frames, *column.shape)
            dataset = file.create_dataset(column.path, shape, column.dtype, fillvalue=column.fill)
        made.append((column, dataset))
        return dataset

    with h5py.File(path, "w") as file:
        _write(file, head, parts[0].first, parts[-1].last, vectors, scalars, make)
        row = 0
        for part in parts:
            with h5py.File(part.path, "r") as source:
                for column, dataset in made:
                    if not _has(part, column):
                        continue
                    given = source[column.path]
                    if not column.is_vector:
                        dataset[row : row + part.n_frames] = given[()]
                        yield
                        continue
                    for k in range(part.n_frames):
                        if given.id.get_chunk_info_by_coord((k, 0, 0)).size:
                            mask, data = given.id.read_direct_chunk((k, 0, 0))
                            dataset.id.write_direct_chunk((row + k, 0, 0), data, mask)
                        yield
            row += part.n_frames
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _names(frames: Sequence[Frame]) -> tuple[list[str], list[str]]:
    vectors = [name for name in VECTORS if any(name in frame.vectors for frame in frames)]
    return vectors, sorted({name for frame in frames for name in frame.scalars})


def _union(parts: Sequence[Part]) -> tuple[list[str], list[str]]:
    vectors = [name for name in VECTORS if any(name in part.vectors for part in parts)]
    return vectors, sorted({name for part in parts for name in part.scalars})


def _has(part: Part, column: Column) -> bool:
    kind, name = column.path.split("/")[0], column.path.split("/")[-2]
    return name == "edges" or name in (part.vectors if kind == "particles" else part.scalars)


def _chunked(file: h5py.File, column: Column, n_frames: int) -> h5py.Dataset:
    return file.create_dataset(
        column.path,
        (n_frames, *column.shape),
        column.dtype,
        chunks=(1, *column.shape),
        shuffle=True,
        compression="gzip",
        compression_opts=LEVEL,
        fillvalue=column.fill,
    )


def _image(
    head: Head,
    first: int,
    last: int,
    vectors: Sequence[str],
    scalars: Sequence[str],
    make: Callable[[h5py.File, Column], h5py.Dataset],
) -> bytes:
    """In memory, so that HDF5, which may fall over a full disk, meets none."""
    with h5py.File("image", "w", driver="core", backing_store=False) as file:
        _write(file, head, first, last, vectors, scalars, make)
        file.flush()
        return file.id.get_file_image()


def _write(
    file: h5py.File,
    head: Head,
    first: int,
    last: int,
    vectors: Sequence[str],
    scalars: Sequence[str],
    make: Callable[[h5py.File, Column], h5py.Dataset],
) -> None:
    """What does not change with time, and every dataset by `make`."""
    particles = head.particles
    top = file.create_group("h5md")
    top.attrs["version"] = np.array([1, 1], dtype="<i4")
    top.create_group("author").attrs["name"] = "unknown"
    creator = top.create_group("creator")
    creator.attrs.update({"name": "forcenet-md", "version": __version__})
    top.create_group("modules/units").attrs["version"] = np.array([1, 0], dtype="<i4")
    ours = file.create_group(OURS)
    ours.attrs.update({"format": FORMAT, "precision": head.precision, "first": first, "last": last})
    ours.attrs[REMOVED] = head.net_force_removed
    everything = file.create_group("particles/all")
    box = everything.create_group("box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = ["periodic" if periodic else "none" for periodic in particles.pbc]
    everything["species"] = particles.numbers.astype("<i4")
    if particles.ids is not None:
        everything["id"] = particles.ids.astype("<i8")
    if particles.masses is not None:
        everything["mass"] = particles.masses.astype("<f8")
        everything["mass"].attrs["unit"] = "u"
    for column in columns(head, vectors, scalars):
        dataset = make(file, column)
        if column.unit is not None:
            dataset.attrs["unit"] = column.unit
        if column.note is not None:
            dataset.attrs["note"] = column.note
        group = dataset.parent
        if group.name != f"/{EDGES}":
            group["step"], group["time"] = file[f"{EDGES}/step"], file[f"{EDGES}/time"]
