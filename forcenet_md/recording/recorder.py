"""`--record run.h5`: a watcher that writes the answers down.

A thread of its own does it: a segment is to be closed also when the engine has gone silent, and
compressing 4000 atoms takes 3 to 10 ms. The loop hands over references and goes on; it waits only
where the disk is slower than the forces, so that memory does not grow and no frame is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from math import inf
from pathlib import Path
from queue import Empty, Queue

from forcenet_md.errors import DataError, ForceNetError, RequestError
from forcenet_md.inference.interface import Request
from forcenet_md.locking import locked
from forcenet_md.recording.continuing import moved_since
from forcenet_md.recording.frame import Frame, Particles, Precision
from forcenet_md.recording.layout import Head
from forcenet_md.recording.segments import Recording
from forcenet_md.recording.track import Track, particles
from forcenet_md.system import Forces

PERIOD = 5.0  # s between two segments: what a kill −9 may cost
LARGEST = 16 * 2**20  # bytes of one, unless one frame has more
AHEAD = 4  # answers that wait to be written
MOMENT = 0.01  # s of merging between two answers
SILENCE = 3.0  # times the time between the last two answers: then no further one is waited for


@dataclass(slots=True)
class Stream:
    """One simulation, and the recording that it goes into.

    frames: not yet in a segment; due: time.monotonic() at which they will be
    seen, pace: when the last answer came, and how long after the one before, in s
    """

    recording: Recording
    track: Track
    head: Head
    frames: list[Frame] = field(default_factory=list)
    due: float = inf
    seen: float = 0.0
    pace: float = 0.0
    silent: bool = False

    @property
    def silent_at(self) -> float:
        return inf if self.silent else self.seen + max(PERIOD, SILENCE * self.pace)

    def goes_beside(self, request: Request, of: Particles) -> bool:
        return self.head.particles.same(of) and self.track.has_beside(request)


class Recorder:
    """Records every simulation that is served, each in a file of its own.

    The files are `path` and beside it run.2.h5, run.3.h5 …: a run goes into the one that it goes on
    from (recording/continuing.py), and that no other is being recorded in; else into a new one.
    Whatever goes wrong is said once, ends the recording and no run.

    every: steps between two frames
    net_force_removed: of the model (layout.Head), which whoever has loaded it sets
    alone: with this sentence a second simulation is refused, where they cannot be told apart
    """

    velocities = True
    net_force_removed = False

    def __init__(
        self,
        path: Path,
        every: int,
        precision: Precision,
        say: Callable[[str], None],
        alone: str = "",
    ) -> None:
        """Raises DataError for a path that cannot be recorded at."""
        self._path = path
        self._every = every
        self._precision: Precision = precision
        self._say = say
        self._alone = alone
        self._folder = path.with_name(path.name + ".parts")
        self._streams: dict[int, Stream] = {}
        self._recordings: dict[Path, Recording] = {}
        self._failed = False
        self._queue: Queue[tuple[Request, Forces] | None] = Queue(AHEAD)
        self._lock = ExitStack()
        if path.is_dir() or not path.name:
            raise DataError(f"{path} is a folder: give --record the name of a file, as run.h5.")
        self._lock.enter_context(locked(self._folder, "recording", option="--record"))
        with ExitStack() as stack:
            stack.callback(self._lock.close)
            self._recording(path)
            stack.pop_all()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def see(self, request: Request, forces: Forces) -> None:
        """Raises RequestError for a simulation beside the first where that is not possible."""
        if self._alone and request.moment.stream:
            raise RequestError(self._alone)
        if not self._failed:
            self._queue.put((request, forces))

    def left(self, stream: int) -> None:
        """Nothing is to be said of it then."""

    def figures(self, stream: int) -> dict[str, str]:
        """The recording itself can be looked at."""
        return {}

    def close(self) -> None:
        """Write what is left, and merge."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._lock.close()

    # In the thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._take(*item)
            for stream in self._streams.values():
                self._keep(stream, stream.track.pause())
                self._write(stream)
            for recording in self._recordings.values():
                recording.finish(self._say)
            self._leave()
        except Exception as fault:  # whatever it is, the forces matter more
            self._failed = True
            why = fault if isinstance(fault, ForceNetError) else f"{type(fault).__name__}: {fault}"
            self._say(
                f"the recording {self._path} has stopped, and the run goes on without it; what it"
                f" had until {PERIOD:g} s ago is whole ({why})"
            )
            while self._queue.get() is not None:
                pass

    def _next(self) -> tuple[Request, Forces] | None:
        """The next answer; what is due meanwhile is done."""
        while True:
            busy = self._tidy()
            now = time.monotonic()
            for stream in self._streams.values():
                if stream.silent_at <= now:
                    stream.silent = True
                    self._keep(stream, stream.track.pause())
                    self._write(stream)
                elif stream.due <= now:
                    self._write(stream)
            due = min((min(s.due, s.silent_at) for s in self._streams.values()), default=inf)
            wait = 0.0 if busy else max(due - time.monotonic(), 0.0)
            try:
                return self._queue.get(timeout=None if wait == inf else wait)
            except Empty:
                continue

    def _tidy(self) -> bool:
        """Whether there is more to be done; for a moment only, for answers wait."""
        until = time.monotonic() + MOMENT
        busy = [recording for recording in self._recordings.values() if recording.tidy()]
        while busy and time.monotonic() < until:
            busy = [recording for recording in busy if recording.tidy()]
        return bool(busy)

    def _take(self, request: Request, forces: Forces) -> None:
        stream = self._streams.get(request.moment.stream)
        if (
            stream is None
            or not stream.head.particles.same(particles(request))
            or not stream.track.goes_on(request)
        ):
            stream = self._begin(request)
        now = time.monotonic()
        stream.pace = now - stream.seen if stream.seen else 0.0
        stream.seen = now
        stream.silent = False
        self._keep(stream, stream.track.see(request, forces))

    def _begin(self, request: Request) -> Stream:
        """A run that begins: that of before may go on with it from an earlier step."""
        key, of = request.moment.stream, particles(request)
        before = self._streams.pop(key, None)
        if before is not None:
            self._keep(before, before.track.pause())
            self._write(before)
        if before is not None and before.goes_beside(request, of):
            path = before.recording.path
        else:
            path = self._place(request, of)
        recording = self._recording(path)
        if before is not None and recording is before.recording:
            if not before.track.leads_to(request):
                self._tell(request, recording)
            stream = before
        else:
            self._tell(request, recording)
            head = recording.head or Head(of, self._precision, self.net_force_removed)
            track = Track(self._every, self._precision, recording.end())
            stream = Stream(recording, track, head)
            ended = [k for k, other in self._streams.items() if other.recording is recording]
            for other in ended:
                del self._streams[other]
        self._streams[key] = stream
        return stream

    def _tell(self, request: Request, recording: Recording) -> None:
        """Where a run goes that does not plainly follow, and after what."""
        n_atoms, path, end = request.system.n_atoms, recording.path, recording.end()
        if end is not None:
            self._say(
                f"{n_atoms} atoms go on in {path} from step {request.moment.step}, which has up to"
                f" step {end.step}"
            )
        elif path != self._path:
            self._say(
                f"{n_atoms} atoms are recorded in {path}, for they go on from nothing that"
                f" {self._path} has"
            )

    def _place(self, request: Request, of: Particles) -> Path:
        """Of the files of these atoms the one that the run goes on from, and has come from least
        far; a new one if there is none, or another run is being recorded in it."""
        busy = [stream.recording for stream in self._streams.values() if not stream.silent]
        found: list[tuple[float, Path]] = []
        for path in self._paths():
            try:
                recording = self._recording(path)
            except DataError:  # another's file
                continue
            if recording.head is None:
                if recording not in busy:
                    break
            elif recording.head.particles.same(of):
                moved = moved_since(path, request)
                if moved is not None:
                    found.append((moved, path))
        nearest = min(found, default=(0.0, path))[1]
        return path if self._recording(nearest) in busy else nearest

    def _keep(self, stream: Stream, frames: Iterable[Frame]) -> None:
        for frame in frames:
            if not stream.frames:
                begun = stream.recording.head is not None  # else the file is made at once
                stream.due = time.monotonic() + (PERIOD if begun else 0.0)
            stream.frames.append(frame)
            if sum(kept.size for kept in stream.frames) >= LARGEST:
                self._write(stream)

    def _write(self, stream: Stream) -> None:
        if stream.frames:
            stream.recording.append(stream.head, stream.frames)
            stream.frames = []
            stream.due = inf

    # Files -------------------------------------------------------------------------------------

    def _recording(self, path: Path) -> Recording:
        if path not in self._recordings:
            self._recordings[path] = Recording(path, self._folder, self._precision)
        return self._recordings[path]

    def _paths(self) -> Iterable[Path]:
        """run.h5, run.2.h5, run.3.h5, …"""
        yield self._path
        for number in count(2):
            yield self._path.with_name(f"{self._path.stem}.{number}{self._path.suffix}")

    def _leave(self) -> None:
        """The folder is there for as long as something is in it."""
        left = [path.name for path in self._folder.iterdir()]
        if left == ["lock"]:
            (self._folder / "lock").unlink()
            self._folder.rmdir()
