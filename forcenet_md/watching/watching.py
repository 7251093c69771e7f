"""Which watchers a route was asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from forcenet_md.inference.interface import Evaluator
from forcenet_md.inference.watched import WatchedEvaluator, Watcher
from forcenet_md.watching.guards import GuardOptions
from forcenet_md.watching.heat import HeatWatch


@dataclass(frozen=True, slots=True)
class Watching:
    """What the user asked for; heat: of whoever sends velocities."""

    guards: GuardOptions = field(default_factory=GuardOptions)
    heat: bool = True

    @contextlib.contextmanager
    def over(
        self,
        evaluator: Evaluator,
        say: Callable[[str], None],
        warn: Callable[[str], None] | None = None,
    ) -> Iterator[Evaluator]:
        """The evaluator with those watchers, which are closed at the end.

        say: takes a line of the log; warn: a warning, if that is not to go to the log alone
        """
        watchers: list[Watcher] = []
        guards = self.guards.make(evaluator.capabilities, warn or say)
        if self.heat:
            watchers.append(HeatWatch(say))
        if guards is not None:
            watchers.append(guards)
        if not watchers:
            yield evaluator
            return
        with contextlib.ExitStack() as stack:
            for watcher in watchers:
                stack.callback(watcher.close)
            yield WatchedEvaluator(evaluator, watchers)
