"""From files to a store, and stores found again by what they were made of."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms

from forcenet_md.data.frames import with_labels
from forcenet_md.data.hdf5 import FORMAT, VERSION, Store, is_store
from forcenet_md.data.labelled import fixed_atoms
from forcenet_md.data.manifest import Manifest, Source
from forcenet_md.data.reading import find_sources, read_source
from forcenet_md.data.source import Options
from forcenet_md.data.unit_checks import UnitCheck, Units, check_mixture
from forcenet_md.data.writer import StoreWriter
from forcenet_md.errors import DataError

AS_THEY_LOOK = Units()
Progress = Callable[[str, int, int, int], None]  # name, frames so far, sources done, of so many


class NoLabelsError(DataError):
    """No frame of the sources has labels that can be used."""


def compile_store(
    sources: Sequence[Path],
    out: Path,
    *,
    options: Options | None = None,
    units: Units = AS_THEY_LOOK,
    skip_bad: bool = False,
    bare: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Read every frame of the sources into a store; memory holds one chunk of frames.

    units: what the sources are in; looked at (see `unit_checks`) where it is not said
    skip_bad: leave out frames without usable labels, and of a damaged file what is behind the
        damage; the manifest names them
    bare: take frames without forces too, with forces of zero: to look at their structures
    progress: called after each frame
    Raises DataError: a source cannot be read, a frame is bad, its units look wrong, no frame is
    labelled (NoLabelsError); then an older `out` stays as it was.
    """
    paths = _without_repeats([p for source in sources for p in find_sources(Path(source))])
    if any(path.resolve() == Path(out).resolve() for path in paths):
        raise DataError(f"{out} would replace what is read: give another path.")
    options = replace(options or Options(), units_told=units != AS_THEY_LOOK)
    checks = []
    total = 0
    with StoreWriter(out) as writer:
        for done, path in enumerate(paths):
            source = describe_source(path)
            check = UnitCheck(str(path), units)
            for k, atoms in enumerate(_until_damaged(path, options, source if skip_bad else None)):
                if bare and (atoms.calc is None or "forces" not in atoms.calc.results):
                    atoms = with_labels(atoms, None, np.zeros((len(atoms), 3)))
                units.convert(atoms)
                try:
                    frame = writer.append(atoms, *(() if is_store(path) else (str(path), k)))
                except DataError as error:
                    sentence = f"frame {k} of {path}: {error}"
                    if not skip_bad:
                        raise DataError(sentence) from None
                    source.leave_out(sentence)
                    continue
                check.add(frame)
                source.frames += 1
                total += 1
                if progress is not None:
                    progress(path.name, total, done, len(paths))
            check.finish()
            source.nearest, source.mean_force = check.nearest, check.mean_force
            writer.survey.sources.append(source)
            checks.append(check)
        if total == 0:
            bad = [sentence for source in writer.survey.sources for sentence in source.left_out]
            if bad:
                raise NoLabelsError(f"no frame can be used; the first: {bad[0]}")
            raise NoLabelsError(
                f"there is no labelled frame in {_names(paths)}: give others, or label them with"
                " 'forcenet-md label'."
            )
        remarks = [remark for check in checks for remark in check.remarks]
        writer.survey.remarks += [*remarks, *check_mixture(checks)]
        writer.survey.units = units.declared(checks)
    return Store(out).manifest


def open_data(
    sources: Sequence[str | Path], cache: str | Path, progress: Progress | None = None
) -> list[Store]:
    """Stores as they are; everything else compiled, once, into the folder `cache`.

    A store there is found again by the contents of its source: a file that has changed is compiled
    anew. Raises DataError.
    """
    stores = []
    for source in map(Path, sources):
        if is_store(source):
            stores.append(Store(source))
            continue
        found = find_sources(source)
        parts = [f"{FORMAT} {VERSION}", *(f"{path} {sha256(path)}" for path in found)]
        key = hashlib.sha256("\n".join(parts).encode())
        kept = Path(cache) / f"{source.stem or 'data'}-{key.hexdigest()[:16]}.h5"
        store = _kept(kept)
        if store is None:
            compile_store([source], kept, progress=progress)
            store = Store(kept)
        stores.append(store)
    return stores


def _kept(path: Path) -> Store | None:
    """One that is damaged is made again."""
    try:
        return Store(path) if path.is_file() else None
    except DataError:
        return None


def describe_source(path: Path) -> Source:
    """Its size and hash. Raises DataError when it cannot be read."""
    return Source(path=str(path), size=_size(path), sha256=sha256(path))


def sha256(path: Path) -> str:
    """Of a file's bytes; of a folder's files, with their names, in alphabetical order."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        lines = "".join(f"{p.relative_to(path)} {sha256(p)}\n" for p in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give a file.") from None


def frames_of(path: Path, options: Options) -> Iterator[Atoms]:
    """The frames of a file, a DeePMD folder or a store, in order. Raises DataError."""
    if not is_store(path):
        yield from read_source(path, options)
        return
    store = Store(path)
    for row in range(len(store)):
        yield store.atoms(row)
    store.close()


def structures_of(sources: Sequence[Path]) -> Iterator[tuple[Path, int, Atoms]]:
    """Every frame of files, folders and stores, of any size, for what asks for no labels but for
    who is held: its file, its number there from 0, and it.

    Raises DataError, which names both, also for a column `fixed` that is not one number an atom.
    """
    options = Options(max_atoms=sys.maxsize)
    for path in (path for source in sources for path in find_sources(source)):
        for k, atoms in enumerate(frames_of(path, options)):
            try:
                fixed_atoms(atoms)
            except DataError as error:
                raise DataError(f"frame {k} of {path}: {error}") from None
            yield path, k, atoms


def _until_damaged(path: Path, options: Options, source: Source | None) -> Iterator[Atoms]:
    """The frames of a file; with a source, those before its damage, which is said there."""
    try:
        yield from frames_of(path, options)
    except DataError as error:
        if source is None:
            raise
        source.leave_out(str(error))


def _without_repeats(paths: Sequence[Path]) -> list[Path]:
    """A file that is named twice, as by a folder and by itself, is read once."""
    return list({path.resolve(): path for path in paths}.values())


def _size(path: Path) -> int:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return sum(p.stat().st_size for p in files)


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:3])) + (", …" if len(paths) > 3 else "")
