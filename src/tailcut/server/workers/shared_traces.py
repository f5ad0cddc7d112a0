"""The traces of all workers of one supervisor: one region of memory that they inherit, like the scoreboard.

At its place a worker writes its events and a timeline for each model, and it reads those of all workers, so that
whichever worker is asked why requests were slow answers for the whole service. Nothing of this costs a request more
than a timeline of its own would (docs/decisions/019). What a worker has written stays when it is gone: its successor at
that place writes on behind it.
"""

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tailcut.memory.anonymous import anonymous_file
from tailcut.runtime.tracing.timeline import Events, Timeline
from tailcut.server.served_model import ServedModel


@dataclass(frozen=True, slots=True)
class TraceRegion:
    """The region as a descriptor: the supervisor makes it and maps nothing, workers open it."""

    descriptor: int
    places: int
    models: int

    @classmethod
    def make(cls, places: int, models: int) -> "TraceRegion":
        """A fresh region; memory is taken as it is written."""
        return cls(anonymous_file(places * _room(models)), places, models)

    def close(self) -> None:
        """Close the region, which is gone when the last process has closed it."""
        os.close(self.descriptor)

    def open(self, own: int) -> "SharedTraces":
        """The timelines and events of all places, counted from 1 as on the scoreboard, seen from the place `own`."""
        memory = memoryview(mmap.mmap(self.descriptor, self.places * _room(self.models)))
        events: list[Events] = []
        timelines: list[list[Timeline]] = [[] for _ in range(self.models)]
        for index in range(self.places):
            at = index * _room(self.models)
            events.append(Events(memory[at : at + Events.room()]))
            at += Events.room()
            for of_model in timelines:
                of_model.append(Timeline(memory=memory[at : at + Timeline.room()]))
                at += Timeline.room()
        return SharedTraces(own - 1, tuple(events), tuple(map(tuple, timelines)))


@dataclass(frozen=True, slots=True)
class SharedTraces:
    """The traces of all workers, open; one of each is this worker's own."""

    own: int
    events: tuple[Events, ...]
    timelines: tuple[tuple[Timeline, ...], ...]  # of each model: one a place

    @property
    def own_events(self) -> Events:
        """Where this worker notes what happens to it."""
        return self.events[self.own]

    def adopt(self, models: Sequence[ServedModel]) -> list[ServedModel]:
        """The models, with their traces in the region."""
        return [
            replace(served, timeline=timelines[self.own], timelines=timelines)
            for served, timelines in zip(models, self.timelines, strict=True)
        ]


def _room(models: int) -> int:
    return Events.room() + models * Timeline.room()
