"""A labelling that writes files: where they lie, what is left to do, how it ends."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from ase import Atoms

from forcenet_md.data.compiling import sha256
from forcenet_md.data.frames import check_output
from forcenet_md.data.labelling import Outcome, label_frames
from forcenet_md.data.part_file import PartFile
from forcenet_md.data.provenance import describe_teacher
from forcenet_md.errors import DataError
from forcenet_md.writing import part_of

REASON = "label_failed"  # column of the frames kept aside


class LabelRun:
    """Frames of one file, one teacher, one output. Raises DataError before anything is labelled.

    frames: of the file or folder `source`; spec, elements: as of `open_teacher`
    resume: go on where a run of the same frames and teacher was stopped
    """

    def __init__(
        self,
        frames: Sequence[Atoms],
        source: Path,
        spec: str,
        elements: Sequence[str],
        out: Path,
        resume: bool = False,
    ) -> None:
        self.frames, self.spec, self.elements, self.out = frames, spec, list(elements), out
        self.failed = beside(out, "-failed.extxyz")
        for path in (out, self.failed):
            for given in (source, Path(spec)):
                if path.exists() and given.exists() and path.samefile(given):
                    raise DataError(f"--out {out} would replace what is read: give another path.")
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise DataError(f"--out {out} lies in the folder that is read: give another path.")
        # First, as nobody is to remove what lies at `out` for a teacher that there is not.
        described = describe_teacher(spec, elements)
        if out.exists() and not resume:
            raise DataError(f"{out} is there already: remove it to label again, or give --out.")
        check_output(out)
        header = {
            "structures": sha256(source),
            "frames": len(frames),
            **described,
        }
        self.part = PartFile(part_of(out), header, resume)

    @property
    def n_left(self) -> int:
        return len(self.frames) - len(self.part.done)

    def label(self, workers: int, timeout: float | None = None) -> Generator[Outcome, None, None]:
        """Label what is left; every outcome is on disk before it is given."""
        done = self.part.done
        left = ((k, atoms) for k, atoms in enumerate(self.frames) if k not in done)
        for outcome in label_frames(left, self.spec, self.elements, workers, timeout):
            if outcome.atoms is None:
                aside = outcome.given.copy()
                aside.info[REASON] = outcome.reason
                self.part.add(outcome.number, aside, failed=True)
            else:
                outcome.atoms.info.pop(REASON, None)
                self.part.add(outcome.number, outcome.atoms)
            yield outcome

    def finish(self) -> None:
        """Write the labelled frames and those that failed, in order. Raises DataError."""
        self.part.finish(self.out, self.failed)


def beside(path: Path, ending: str) -> Path:
    """`a.extxyz` or `a.extxyz.gz` with '-failed.extxyz' is `a-failed.extxyz`."""
    name = path.with_suffix("") if path.suffix in (".gz", ".bz2", ".xz") else path
    return name.with_name(name.stem + ending)
