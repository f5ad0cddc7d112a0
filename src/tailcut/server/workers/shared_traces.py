"""The traces of all workers of one supervisor, in one memory region that they inherit, like the scoreboard.

At its place, a worker writes its events and a timeline for each model, and it reads those of all workers. So whichever
worker is asked why requests were slow answers for the whole service. That costs a request no more than a private
timeline would (docs/decisions/019). Traces stay when their worker ends: its successor at that place appends to them.
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
    """The descriptor of the region: the supervisor makes it without mapping it, and workers open it."""

    descriptor: int
    places: int
    models: int

    @classmethod
    def make(cls, places: int, models: int) -> "TraceRegion":
        """A new region; its memory is allocated as it is written."""
        return cls(anonymous_file(places * _room(models)), places, models)

    def close(self) -> None:
        """Close the region, which is freed when the last process has closed it."""
        os.close(self.descriptor)

    def open(self, own: int) -> "SharedTraces":
        """Map the timelines and events of all places (from 1, as on the scoreboard), for the worker at place `own`."""
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
    """The mapped traces of all workers, among them this worker's own."""

    own: int
    events: tuple[Events, ...]
    timelines: tuple[tuple[Timeline, ...], ...]  # for each model, one per place

    @property
    def own_events(self) -> Events:
        """The events of this worker."""
        return self.events[self.own]

    def adopt(self, models: Sequence[ServedModel]) -> list[ServedModel]:
        """The models, with their timelines in the region."""
        return [
            replace(served, timeline=timelines[self.own], timelines=timelines)
            for served, timelines in zip(models, self.timelines, strict=True)
        ]


def _room(models: int) -> int:
    return Events.room() + models * Timeline.room()
