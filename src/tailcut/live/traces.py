"""What the traces say of the requests of one second: the times of some, evenly spread, and the slowest.

Of many requests every k-th is looked at, so that a look takes the same time at any rate. The slowest are then the
slowest of those; how many they are is told beside them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tailcut.runtime.tracing.attribution import slow_request
from tailcut.runtime.tracing.records import SlowRequest
from tailcut.runtime.tracing.timeline import MARKS, ProcessEvent, Timeline

_LOOKED_AT = 4096  # requests of one process, at most
_TIMES = 256
_SLOWEST = 3
_HEAD, _READY, _ENDED, _WRITTEN = (MARKS.index(name) for name in ("head", "ready", "ended", "written"))


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen of one model's requests."""

    count: int = 0  # of those looked at
    times_ns: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # from complete to computed, sorted
    slow: tuple[SlowRequest, ...] = ()  # the slowest first, by all of their time


class TraceReader:
    """Reads one model's timelines from where it stopped; the first look only finds that place."""

    def __init__(self, timelines: Sequence[Timeline]) -> None:
        self.timelines = timelines
        self._cursors = [timeline.end for timeline in timelines]

    def look(self, events_since: Callable[[int], Sequence[ProcessEvent]]) -> Looked:
        """What has been traced since the last look; `events_since` a moment tells which events coincided."""
        count = 0
        times, worst = [], []
        for index, timeline in enumerate(self.timelines):
            numbers, self._cursors[index] = timeline.sample(self._cursors[index], _LOOKED_AT)
            if not len(numbers):
                continue
            count += len(numbers)
            total = timeline.column(numbers, _WRITTEN) - timeline.column(numbers, _HEAD)
            most = min(_SLOWEST, len(total))
            worst.append(timeline.rows(numbers[np.argpartition(total, -most)[-most:]]))
            some = numbers[:: -(-len(numbers) // _TIMES)]
            times.append(timeline.column(some, _ENDED) - timeline.column(some, _READY))
        if not count:
            return Looked()
        slowest = np.concatenate(worst)
        slowest = slowest[np.argsort(slowest[:, _HEAD] - slowest[:, _WRITTEN])[:_SLOWEST]]
        events = events_since(int(slowest[:, _HEAD].min())) if len(slowest) else []
        return Looked(count, np.sort(np.concatenate(times)), tuple(slow_request(row, events) for row in slowest))
