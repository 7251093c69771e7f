"""Many frames labelled by separate processes that end with the call, whatever ends it."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import tempfile
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from ase import Atoms

from forcenet_md.data.frames import check_labels, check_structure
from forcenet_md.data.teachers import open_teacher
from forcenet_md.errors import DataError

CHUNK = 50  # frames a process is given at a time, at most


def label_frames(
    frames: Sequence[Atoms],
    spec: str | Path,
    elements: Sequence[str] = (),
    workers: int = 1,
    source: str | Path = "the structures",
) -> Generator[Atoms, None, None]:
    """Labelled copies in order, computed by separate processes; close it to end them early.

    spec, elements: as of `open_teacher`. source: what the frames are called in a message.
    A teacher that crashes takes a process with it, not the caller. Raises DataError, with the
    number of the frame where it is a frame's fault.
    """
    size = max(1, min(CHUNK, len(frames) // max(1, workers)))
    with _processes(workers) as (pool, folder):
        jobs = {}
        # The processes start here and inherit the mask: Ctrl-C is for this process alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for first in range(0, len(frames), size):
                path = folder / f"{first}.pickle"
                path.write_bytes(pickle.dumps(list(frames[first : first + size])))
                job = pool.submit(_label_file, path, first, str(source), str(spec), list(elements))
                jobs[path] = job
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for path, job in jobs.items():
            try:
                job.result()
            except BrokenProcessPool:
                raise DataError(
                    f"a process of teacher '{spec}' ended while it labelled {source} (crash or out"
                    " of memory): try its commands in LAMMPS alone, or fewer --workers."
                ) from None
            yield from pickle.loads(path.read_bytes())  # what the process wrote in its place
            path.unlink()


@contextmanager
def _processes(workers: int) -> Iterator[tuple[ProcessPoolExecutor, Path]]:
    """A pool whose processes end with the block, and a folder to exchange frames with them.

    Frames go through files: a process that is killed while it sends much through the pool's
    pipes leaves half a message, for the rest of which the pool waits without end.
    """
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="forcenet-label-") as name:
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_use_folder, initargs=(name,)
        )
        try:
            yield pool, Path(name)
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _use_folder(name: str) -> None:
    """Temporary files of a process go where they are removed even if it is killed."""
    tempfile.tempdir = name


def _label_file(path: Path, first: int, source: str, spec: str, elements: list[str]) -> None:
    """Put labelled frames in the place of the frames in a file."""
    frames = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(label_chunk(frames, first, source, spec, elements)))


def label_chunk(
    frames: Sequence[Atoms], first: int, source: str, spec: str, elements: Sequence[str]
) -> list[Atoms]:
    """Labelled copies, in this process. first: number of the first frame; source: what they are
    called in a message. Raises DataError."""
    labelled = []
    with open_teacher(spec, elements) as teacher:
        for k, atoms in enumerate(frames, first):
            try:
                check_structure(atoms)
                labelled.append(teacher.label(atoms))
                check_labels(labelled[-1])
            except DataError as error:
                raise DataError(f"frame {k} of {source}: {error}") from None
            except (ValueError, ArithmeticError, RuntimeError, LookupError) as error:
                raise DataError(
                    f"frame {k} of {source}: teacher '{spec}' failed on it"
                    f" ({type(error).__name__}); look at its cell and elements, or leave it out."
                ) from error
    return labelled
