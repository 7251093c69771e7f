"""Which watchers a route was asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from forcenet_md.inference.interface import Evaluator
from forcenet_md.inference.watched import WatchedEvaluator, Watcher
from forcenet_md.recording.options import RecordOptions
from forcenet_md.watching.guards import GuardOptions
from forcenet_md.watching.heat import HeatWatch
from forcenet_md.watching.ranks import RanksWatch

if TYPE_CHECKING:
    from forcenet_md.inference.local import LocalModel
    from forcenet_md.recording.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Watching:
    """What the user asked for.

    heat: of whoever sends velocities; more: makes a watcher of the route's own, from what takes a
    line of the log
    """

    guards: GuardOptions = field(default_factory=GuardOptions)
    heat: bool = True
    record: RecordOptions = field(default_factory=RecordOptions)
    more: Callable[[Callable[[str], None]], Watcher] | None = None

    @contextlib.contextmanager
    def over(
        self,
        load: Callable[[], Evaluator],
        say: Callable[[str], None],
        warn: Callable[[str], None] | None = None,
        alone: str = "",
    ) -> Iterator[Evaluator]:
        """The loaded evaluator with those watchers, which are closed at the end.

        say: takes a line of the log; warn: a warning, if that is not to go to the log alone
        alone: why only one simulation can be recorded, if so

        Raises what `load` raises, and before it DataError for a path that cannot be recorded at.
        """
        with contextlib.ExitStack() as stack:
            watchers: list[Watcher] = []

            def add(watcher: Watcher | None) -> None:
                if watcher is not None:
                    stack.callback(watcher.close)
                    watchers.append(watcher)

            recorder = self.record.make(warn or say, alone)
            add(recorder)  # it sees also what guards refuse
            evaluator = load()
            if recorder is not None:
                recorder.net_force_removed = evaluator.capabilities.net_force_removed
            add(HeatWatch(say) if self.heat else None)
            add(self.more(say) if self.more else None)
            guards = self.guards.make(evaluator.capabilities, warn or say)
            add(guards)
            if guards is not None:
                yield WatchedEvaluator(evaluator, watchers, guards.see_fault)
            else:
                yield WatchedEvaluator(evaluator, watchers) if watchers else evaluator

    def over_ranks(
        self,
        model: LocalModel,
        recorder: Recorder | None,
        say: Callable[[str], None],
        warn: Callable[[str], None] | None = None,
    ) -> RanksWatch:
        """Those of one simulation whose atoms ranks have apart.

        recorder: that of `record`, on rank 0; say, warn: as in `over`
        """
        guards = self.guards.make(model.network.capabilities, warn or say)
        if recorder is not None:
            recorder.net_force_removed = model.network.capabilities.net_force_removed
        every = self.record.every if self.record.path is not None else 0
        return RanksWatch(model, guards, say, recorder, every)
