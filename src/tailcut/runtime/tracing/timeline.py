"""When each request passed each stage: a ring of fixed records, written by the server on every answer.

A record is thirteen 64-bit integers packed in place, 0.63 us with its clock readings on the reference machine; nothing
is allocated and nothing kept alive. A reader takes a copy and works on that. The clock is the machine's monotonic
one, the same in every process: records of several workers lie on one axis of time.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tailcut.runtime.tracing.ring import Ring

# The moments of a request, monotonic nanoseconds, in order; a stage lies between two neighbours.
MARKS = ("head", "ready", "formed", "began", "ended", "handed", "encoded", "written")
STAGES = ("receive", "queue", "dispatch", "compute", "deliver", "encode", "write")
FIELDS = (*MARKS, "rows", "batch_rows", "body_bytes", "status", "process")
WRITTEN = len(FIELDS) - 1  # of them by the recorder: the process is in the ring's stamp
EVENTS = ("gc", "throttled", "loop_wait", "engine_wait", "loop_stall", "page_fault")
_EVENT_WORDS = 4
_MOMENTS = struct.Struct("5q")  # of MARKS, from ready to handed
_pack_row = struct.Struct("q40s7q").pack_into  # a record with these as they are packed, and its stamp
REQUESTS_KEPT, EVENTS_KEPT = 1 << 15, 1 << 12


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """Something that happened to a process: what, from when to when, how much of that time it took, and to which."""

    kind: str
    start_ns: int
    end_ns: int
    amount_ns: int
    process: int = 0


class StepTrace(NamedTuple):
    """When a request passed a step of its pipeline, in monotonic nanoseconds, and the batch of the step."""

    step: str
    ready_ns: int
    formed_ns: int
    began_ns: int
    ended_ns: int
    batch_rows: int
    batch_requests: int


@dataclass(frozen=True, slots=True)
class RecordSlice:
    """Records from a reader's cursors on: `missed` were overwritten before they were read."""

    records: np.ndarray  # int64 [count, FIELDS]
    next: tuple[int, ...]  # a cursor for each timeline
    missed: int


class Timeline(Ring):
    """The last requests of one model in one process, or in those that sat at one place one after the other."""

    def __init__(self, capacity: int = REQUESTS_KEPT, memory: memoryview | None = None) -> None:
        super().__init__(WRITTEN, capacity, memory)

    def record_row(  # noqa: PLR0913, PLR0917  a record
        self, head_ns: int, moments: bytes, encoded_ns: int, written_ns: int, batch_rows: int, body_bytes: int
    ) -> None:
        """As `record`, of one of many requests of one row that a batch has answered: it takes half of the time.

        Args:
            head_ns: when the request had its head.
            moments: from ready to handed, as `pack_moments` has them.
            encoded_ns: when its answer was written.
            written_ns: when it had gone out.
            batch_rows: of the batch.
            body_bytes: of the request.
        """
        stamp = self.stamp
        at = (stamp & self._mask) * self._size
        _pack_row(self._memory, at, head_ns, moments, encoded_ns, written_ns, 1, batch_rows, body_bytes, 200, stamp)
        self.stamp = stamp + 1

    @staticmethod
    def room(capacity: int = REQUESTS_KEPT) -> int:
        """The bytes that it takes."""
        return Ring.size_bytes(WRITTEN, capacity)


def pack_moments(ready_ns: int, formed_ns: int, began_ns: int, ended_ns: int, handed_ns: int) -> bytes:
    """The moments that requests of one batch share, for `Timeline.record_row`."""
    return _MOMENTS.pack(ready_ns, formed_ns, began_ns, ended_ns, handed_ns)


def read(timelines: Sequence[Timeline], cursors: Sequence[int] = ()) -> RecordSlice:
    """A copy of what several timelines hold from a cursor each on, in the order in which the answers were written.

    A cursor that is missing is 0; one below 0 stands for what comes from now on.
    """
    parts, ends, missed = [np.empty((0, len(FIELDS)), np.int64)], [], 0
    for number, timeline in enumerate(timelines):
        cursor = cursors[number] if number < len(cursors) else 0
        if cursor < 0:
            cursor = timeline.end
        records, first = timeline.copy(cursor)
        parts.append(records)
        ends.append(first + len(records))
        missed += max(0, first - cursor)
    joined = np.concatenate(parts)
    if len(timelines) > 1:
        joined = joined[np.argsort(joined[:, len(MARKS) - 1], kind="stable")]
    return RecordSlice(joined, tuple(ends), missed)


class Events:
    """The last few thousand events of a process; one for all its models."""

    def __init__(self, memory: memoryview | None = None) -> None:
        self._ring = Ring(_EVENT_WORDS, EVENTS_KEPT, memory)

    @staticmethod
    def room() -> int:
        """The bytes that it takes."""
        return Ring.size_bytes(_EVENT_WORDS, EVENTS_KEPT)

    def add(self, kind: str, start_ns: int, end_ns: int, amount_ns: int | None = None) -> None:
        """Note an event, of a kind of EVENTS; all of its time counts where no amount is given."""
        amount = end_ns - start_ns if amount_ns is None else amount_ns
        self._ring.record(EVENTS.index(kind), start_ns, end_ns, amount)

    def since(self, start_ns: int, most: int = EVENTS_KEPT) -> list[ProcessEvent]:
        """Those of the last `most` that ended after a moment."""
        records, _ = self._ring.copy(0 if most >= EVENTS_KEPT else self._ring.end - most)
        return [ProcessEvent(EVENTS[kind], *rest) for kind, *rest in records[records[:, 2] > start_ns].tolist()]
