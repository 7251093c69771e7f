"""An evaluator whose answers are looked at before they go out: guards, recordings, figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from forcenet_md.errors import ForceNetError
from forcenet_md.inference.interface import Evaluator, Moment, Request, Session, Timings
from forcenet_md.system import Forces


class Watcher(Protocol):
    """Whoever looks at every answer, of all simulations that are served.

    velocities: it wants those of the engine, where they are to be had
    """

    velocities: bool

    def see(self, request: Request, forces: Forces) -> None:
        """Called in the order of the requests. Raises ForceNetError where the engine is to be
        told a fault in the place of these forces."""

    def figures(self, stream: int) -> dict[str, str]:
        """What is to be told of a simulation that goes on, for `forcenet-md watch`."""

    def left(self, stream: int) -> None:
        """Whose simulation it was has gone."""

    def close(self) -> None:
        """Nothing more comes."""


class Last(NamedTuple):
    """The last answer to a simulation. when: time.monotonic()"""

    step: int
    n_atoms: int
    when: float

    @classmethod
    def of(cls, moment: Moment, n_atoms: int, before: Last | None = None) -> Last:
        """Now. before: what is counted on from where an engine does not count its steps."""
        step = moment.step
        if step is None:
            step = 1 if before is None else before.step + 1
        return cls(step, n_atoms, time.monotonic())

    def told(self) -> dict[str, str]:
        """For `forcenet-md watch`; age: seconds since."""
        age = time.monotonic() - self.when
        return {"step": str(self.step), "atoms": str(self.n_atoms), "age": f"{age:.1f}"}


class WatchedEvaluator:
    """An `Evaluator` (inference/interface.py) that shows another one's answers to watchers.

    A watcher's fault becomes the answer to that request, and later watchers do not see it.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        watchers: Sequence[Watcher],
        failed: Callable[[Request, ForceNetError], ForceNetError] = lambda _, fault: fault,
    ) -> None:
        """failed: gets every fault of the evaluator, and gives what is told of it."""
        self._evaluator = evaluator
        self._watchers = watchers
        self._failed = failed
        self._last: dict[int, Last] = {}  # by stream
        wanted = any(watcher.velocities for watcher in watchers)
        self.timings = Timings()
        self.capabilities = replace(evaluator.capabilities, velocities_welcome=wanted)

    def figures(self) -> dict[int, dict[str, str]]:
        """Of every simulation, by its stream: its last answer, and what the watchers know."""
        found = {}
        for stream, last in self._last.items():
            told = last.told()
            for watcher in self._watchers:
                told |= watcher.figures(stream)
            found[stream] = told
        return found

    def left(self, stream: int) -> None:
        """Its client has gone."""
        for watcher in self._watchers:
            watcher.left(stream)

    def new_session(self) -> Session:
        return self._evaluator.new_session()

    def warm_up(self) -> None:
        """Of the evaluator alone: nobody watches a test system."""
        self._evaluator.warm_up()

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        """One answer per request, in order; see `inference/interface.py`."""
        answers = self._evaluator.evaluate(requests)
        self.timings = self._evaluator.timings
        return [self._shown(*pair) for pair in zip(requests, answers, strict=True)]

    def _shown(self, request: Request, answer: Forces | ForceNetError) -> Forces | ForceNetError:
        if not isinstance(answer, Forces):
            return self._failed(request, answer)
        moment = request.moment
        before = self._last.get(moment.stream)
        self._last[moment.stream] = Last.of(moment, request.system.n_atoms, before)
        for watcher in self._watchers:
            try:
                watcher.see(request, answer)
            except ForceNetError as fault:
                return fault
        return answer
