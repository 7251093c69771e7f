"""An evaluator whose answers are looked at before they go out: guards, recordings, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from forcenet_md.errors import ForceNetError
from forcenet_md.inference.interface import Evaluator, Request, Session, Timings
from forcenet_md.system import Forces


class Watcher(Protocol):
    """Whoever looks at every answer, of all simulations that are served.

    velocities: it wants those of the engine, where they are to be had
    """

    velocities: bool

    def see(self, request: Request, forces: Forces) -> None:
        """Called in the order of the requests. Raises ForceNetError where the engine is to be
        told a fault in the place of these forces."""

    def close(self) -> None:
        """Nothing more comes."""


class WatchedEvaluator:
    """An `Evaluator` (inference/interface.py) that shows another one's answers to watchers.

    A watcher's fault becomes the answer to that request, and later watchers do not see it.
    """

    def __init__(self, evaluator: Evaluator, watchers: Sequence[Watcher]) -> None:
        self._evaluator = evaluator
        self._watchers = watchers
        wanted = any(watcher.velocities for watcher in watchers)
        self.capabilities = replace(evaluator.capabilities, velocities_welcome=wanted)

    @property
    def timings(self) -> Timings:
        return self._evaluator.timings

    def new_session(self) -> Session:
        return self._evaluator.new_session()

    def warm_up(self) -> None:
        """Of the evaluator alone: nobody watches a test system."""
        self._evaluator.warm_up()

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        """One answer per request, in order; see `inference/interface.py`."""
        answers = self._evaluator.evaluate(requests)
        return [self._shown(*pair) for pair in zip(requests, answers, strict=True)]

    def _shown(self, request: Request, answer: Forces | ForceNetError) -> Forces | ForceNetError:
        if isinstance(answer, Forces):
            for watcher in self._watchers:
                try:
                    watcher.see(request, answer)
                except ForceNetError as fault:
                    return fault
        return answer
