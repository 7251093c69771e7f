"""What every stage of a distillation needs, and how its pieces are done side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from forcenet_md.data.frames import write_frames
from forcenet_md.data.label_run import LabelRun
from forcenet_md.distill.clock import Clock, words
from forcenet_md.distill.files import Files
from forcenet_md.distill.jobs import Job, Running, run_jobs
from forcenet_md.distill.plan import Plan
from forcenet_md.distill.settings import Settings

SAY_EVERY = 60.0  # s


@dataclass
class Work:
    """lock: file descriptor that programs hold while they run; tell: one line for the user"""

    settings: Settings
    files: Files
    clock: Clock
    lock: int
    tell: Callable[[str], None]

    def say(self, text: str) -> None:
        """A line with the time used until now."""
        self.tell(f"[{words(self.clock.used)} of {words(self.clock.budget)}] {text}")

    def share(
        self, what: str, module: str, arguments: tuple[str, ...], pieces: dict[str, Path]
    ) -> None:
        """Do pieces of work that are not done yet in as many programs as there are workers.

        Each is `python -m module *arguments *numbers`.
        pieces: number and the file that is then there
        """
        left = [number for number, path in pieces.items() if not path.is_file()]
        n = min(self.settings.workers, len(left))
        shares = [tuple(left[k::n]) for k in range(n)]
        folder = next(iter(pieces.values())).parent
        jobs = [
            Job(what, module, (*arguments, *numbers), folder / f"log-{k}.txt")
            for k, numbers in enumerate(shares)
        ]
        self.run(what, jobs, [pieces[number] for number in left])

    def run(self, what: str, jobs: Sequence[Job], pieces: Sequence[Path]) -> None:
        """Do jobs side by side. A line for each file that is made says how long the rest takes;
        where that takes longer than a minute, what the jobs say themselves is passed on."""
        teller = Teller(self, what, len(pieces))

        def tick(running: Iterable[Running]) -> None:
            self.clock.tick()
            n = sum(path.is_file() for path in pieces)
            if n > teller.done:
                teller.tell(n)
            elif time.monotonic() > teller.said + SAY_EVERY:
                teller.said = time.monotonic()
                for line in [line for one in running for line in one.said[-1:]]:
                    self.say(line)

        run_jobs(jobs, self.settings.workers, tick, [self.lock])

    def label(self, what: str, frames: Sequence[Atoms], kept: Path, out: Path) -> None:
        """Labelled copies of frames into `out`, which has none where the teacher fails on all.

        kept: where the frames themselves are, so that a stopped labelling goes on
        """
        if out.is_file():
            return
        if not kept.is_file():
            write_frames(kept, frames)
        settings = self.settings
        run = LabelRun(frames, kept, settings.teacher, settings.elements, out, resume=True)
        with run.part:
            teller = Teller(self, what, run.n_left, every=SAY_EVERY)
            timeout = Plan.read(self.files.folder).timeout(settings)
            with closing(run.label(settings.workers, timeout)) as outcomes:
                for _ in outcomes:
                    self.clock.tick()
                    teller.tell(teller.done + 1)
            run.finish()
        out.touch()


class Teller:
    """Says how far a stage is and how long the rest takes.

    every: s, at most one line in that time; the last is always said
    """

    def __init__(self, work: Work, what: str, total: int, every: float = 0.0) -> None:
        self.work, self.what, self.total, self.every = work, what, total, every
        self.done = 0
        self.begun = self.said = time.monotonic()

    def tell(self, done: int) -> None:
        self.done = done
        now = time.monotonic()
        if self.done < self.total and now - self.said < self.every:
            return
        self.said = now
        left = (now - self.begun) * (self.total - self.done) / self.done
        rest = f", about {words(left)} to go" if self.done < self.total else ""
        self.work.say(f"{self.what}: {self.done} of {self.total}{rest}")
