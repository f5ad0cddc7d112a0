"""Reads the traces of the requests of one second: the times of an even sample, and the slowest requests.

Of many requests every k-th is read, so that reading takes the same time at any rate. The slowest are then the slowest
of the sample, whose size is given with them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tailcut.runtime.tracing.attribution import slow_request
from tailcut.runtime.tracing.records import SlowRequest
from tailcut.runtime.tracing.timeline import MARKS, ProcessEvent, Timeline

_MOST_READ = 4096  # traces of one process per reading, at most
_TIMES = 256  # of which times are kept, at most
_SLOWEST = 3
_HEAD, _READY, _ENDED, _WRITTEN = (MARKS.index(name) for name in ("head", "ready", "ended", "written"))


@dataclass(frozen=True, slots=True)
class TraceSample:
    """A sample of one model's requests."""

    count: int = 0  # number of requests whose traces were read
    times_ns: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # to computed outputs, sorted
    slow: tuple[SlowRequest, ...] = ()  # the slowest first, by their whole time


class TraceReader:
    """Reads one model's timelines, each time from where it stopped before; it begins at their current ends."""

    def __init__(self, timelines: Sequence[Timeline]) -> None:
        self.timelines = timelines
        self._cursors = [timeline.end for timeline in timelines]

    def read(self, events_since: Callable[[int], Sequence[ProcessEvent]]) -> TraceSample:
        """Sample what was traced since the last call; `events_since(ns)` gives the process's events since that time."""
        count = 0
        times, worst = [], []
        for index, timeline in enumerate(self.timelines):
            numbers, self._cursors[index] = timeline.sample(self._cursors[index], _MOST_READ)
            if not len(numbers):
                continue
            count += len(numbers)
            total = timeline.column(numbers, _WRITTEN) - timeline.column(numbers, _HEAD)
            most = min(_SLOWEST, len(total))
            worst.append(timeline.rows(numbers[np.argpartition(total, -most)[-most:]]))
            some = numbers[:: -(-len(numbers) // _TIMES)]
            times.append(timeline.column(some, _ENDED) - timeline.column(some, _READY))
        if not count:
            return TraceSample()
        slowest = np.concatenate(worst)
        slowest = slowest[np.argsort(slowest[:, _HEAD] - slowest[:, _WRITTEN])[:_SLOWEST]]
        events = events_since(int(slowest[:, _HEAD].min())) if len(slowest) else []
        return TraceSample(count, np.sort(np.concatenate(times)), tuple(slow_request(row, events) for row in slowest))
