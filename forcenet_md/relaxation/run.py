"""A relaxation that reads and writes files: what is left to do, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian

from forcenet_md.data.compiling import sha256, structures_of
from forcenet_md.data.frames import check_output
from forcenet_md.errors import DataError
from forcenet_md.inference.interface import Evaluator
from forcenet_md.relaxation.batch import Batch
from forcenet_md.relaxation.course import Course, Settings
from forcenet_md.relaxation.part_file import PartFile
from forcenet_md.writing import part_of

WRITTEN = (".extxyz", ".xyz")


class RelaxRun:
    """The structures of some files, one model, one output. To be closed by `with`.

    sources: files, folders or stores of `data.reading`; model: what tells it from others
    Raises DataError before anything is relaxed: nothing to read, an output that is there already,
    a run of something else that was stopped.
    """

    def __init__(
        self, sources: Sequence[Path], out: Path, model: dict[str, Any], settings: Settings
    ) -> None:
        self.out, self.settings = out, settings
        for source in sources:
            if source.exists() and out.exists() and source.samefile(out):
                raise DataError(f"--out {out} would replace what is read: give another path.")
        if out.suffix not in WRITTEN:
            raise DataError(f"--out {out} would be extended XYZ: give it a name that ends so.")
        if out.is_file():  # another kind is told of below
            raise DataError(f"{out} is there already: remove it to relax again, or give --out.")
        self.frames = read(sources)
        check_output(out)
        hashes = [sha256(source) for source in sources]
        header = {"structures": hashes, **model, **asdict(settings)}
        self.part = PartFile(part_of(out), header)
        self.done = self.part.numbers

    def __enter__(self) -> RelaxRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.part.__exit__(None, None, None)

    @property
    def remarks(self) -> list[str]:
        """What the output will not tell of the structures."""
        lost = {
            type(constraint).__name__
            for atoms in self.frames
            for constraint in atoms.constraints
            if not isinstance(constraint, FixAtoms | FixCartesian)
        }
        return [
            f"{name} holds while it is relaxed, but extended XYZ has no word for it: it is not in"
            f" {self.out}"
            for name in sorted(lost)
        ]

    def relax(
        self,
        evaluator: Evaluator,
        batch_atoms: int,
        progress: Callable[[int, int], None] = lambda done, steps: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Relax what is left; whether that is all. What was reached is on disk in any case,
        also after an exception.

        progress(structures that have ended, steps of structures made here); stopped: asked after
        every round
        """
        return relax_into(
            self.part, self.frames, self.settings, evaluator, batch_atoms, progress, stopped
        )

    def finish(self) -> None:
        """Write the output. Raises DataError."""
        self.part.finish(self.out)


def relax_into(
    part: PartFile,
    frames: Sequence[Atoms],
    settings: Settings,
    evaluator: Evaluator,
    batch_atoms: int,
    progress: Callable[[int, int], None],
    stopped: Callable[[], bool],
) -> bool:
    """Relax what the part file has not; see `RelaxRun.relax`."""
    before = part.numbers

    def courses() -> Iterator[Course]:
        for number, atoms in enumerate(frames):
            if number in before:
                continue
            course = Course(number, atoms, settings, evaluator.capabilities.cutoff)
            if (state := part.state(number)) is not None:
                course.restore(state)
            yield course

    batch = Batch(evaluator, courses(), batch_atoms)
    done, steps = len(before), 0
    try:
        for ended in batch.rounds():
            part.add(ended, batch.under_way)
            done += len(ended)
            steps += len(ended) + len(batch.under_way)
            progress(done, steps)
            if stopped():
                break
    finally:  # also where an evaluator or the disk fails, in the middle of a round
        part.save(batch.under_way)
    return done == len(frames)


def read(sources: Sequence[Path]) -> list[Atoms]:
    """Every structure of files, folders and stores. Raises DataError."""
    frames = [atoms for _, _, atoms in structures_of(sources)]
    if not frames:
        names = ", ".join(map(str, sources))
        raise DataError(f"{names} holds no structure: give a file with at least one.")
    return frames
