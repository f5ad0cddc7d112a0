"""When each request passed each stage: a ring of fixed-size records, written by the server at every answer.

A record is thirteen 64-bit integers packed in place, which takes 0.63 us with the clock readings on the reference
machine; nothing is allocated or kept alive. Readers work on a copy. The clock is the machine's monotonic clock, which
is the same in every process, so records of several workers can be compared.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tailcut.runtime.tracing.ring import Ring

# The moments of a request, in monotonic nanoseconds and in order; a stage is between two neighbours.
MARKS = ("head", "ready", "formed", "began", "ended", "handed", "encoded", "written")
STAGES = ("receive", "queue", "dispatch", "compute", "deliver", "encode", "write")
FIELDS = (*MARKS, "rows", "batch_rows", "body_bytes", "status", "process")
WRITTEN = len(FIELDS) - 1  # fields that the recorder writes: the process is in the ring's stamp
EVENTS = ("gc", "throttled", "loop_wait", "engine_wait", "loop_stall", "page_fault")
_EVENT_WORDS = 4
_MOMENTS = struct.Struct("5q")  # of MARKS, from ready to handed
_SHARED = struct.Struct("40s6q")  # these already packed, the other two, and what else is alike
_pack_row = struct.Struct("q40s7q").pack_into  # a record with these already packed, and its stamp
_pack_alike = struct.Struct(f"q{_SHARED.size}sq").pack_into  # a record with all of this already packed, and its stamp
REQUESTS_KEPT, EVENTS_KEPT = 1 << 15, 1 << 12


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """An event of a process: its kind, start and end, how much of that time it took, and the process."""

    kind: str
    start_ns: int
    end_ns: int
    amount_ns: int
    process: int = 0


class StepTrace(NamedTuple):
    """When a request passed a step of its pipeline, in monotonic nanoseconds, and the step's batch."""

    step: str
    ready_ns: int
    formed_ns: int
    began_ns: int
    ended_ns: int
    batch_rows: int
    batch_requests: int


@dataclass(frozen=True, slots=True)
class RecordSlice:
    """Records from a reader's cursors on; `missed` is how many were overwritten before they could be read."""

    records: np.ndarray  # int64 [count, FIELDS]
    next: tuple[int, ...]  # a cursor for each timeline
    missed: int


class Timeline(Ring):
    """The last requests of one model in one process, or in the successive workers at one place."""

    def __init__(self, capacity: int = REQUESTS_KEPT, memory: memoryview | None = None) -> None:
        super().__init__(WRITTEN, capacity, memory)

    def record_row(  # noqa: PLR0913, PLR0917  a record
        self, head_ns: int, moments: bytes, encoded_ns: int, written_ns: int, batch_rows: int, body_bytes: int
    ) -> None:
        """As `record`, in half the time, for one of many requests of one row that a batch has answered.

        Args:
            head_ns: when the head of the request was complete.
            moments: from ready to handed, packed by `pack_moments`.
            encoded_ns: when the answer was encoded.
            written_ns: when it had been sent.
            batch_rows: rows of the batch.
            body_bytes: size of the request's body.
        """
        stamp = self.stamp
        at = (stamp & self._mask) * self._size
        _pack_row(self._memory, at, head_ns, moments, encoded_ns, written_ns, 1, batch_rows, body_bytes, 200, stamp)
        self.stamp = stamp + 1

    def record_rows(self, heads_ns: Sequence[int], shared: bytes) -> None:
        """As `record_row`, for requests of one row each that only the completion of their heads tells apart.

        Args:
            heads_ns: when the head of each was complete.
            shared: the rest of their records, packed by `pack_shared`.
        """
        memory, size, mask, stamp = self._memory, self._size, self._mask, self.stamp
        for head_ns in heads_ns:
            _pack_alike(memory, (stamp & mask) * size, head_ns, shared, stamp)
            stamp += 1
        self.stamp = stamp

    @staticmethod
    def room(capacity: int = REQUESTS_KEPT) -> int:
        """The bytes that it takes."""
        return Ring.size_bytes(WRITTEN, capacity)


def pack_moments(ready_ns: int, formed_ns: int, began_ns: int, ended_ns: int, handed_ns: int) -> bytes:
    """The moments that requests of one batch share, for `Timeline.record_row`."""
    return _MOMENTS.pack(ready_ns, formed_ns, began_ns, ended_ns, handed_ns)


def pack_shared(moments: bytes, encoded_ns: int, written_ns: int, batch_rows: int, body_bytes: int) -> bytes:
    """What records of requests of one row share beside these moments, for `Timeline.record_rows`."""
    return _SHARED.pack(moments, encoded_ns, written_ns, 1, batch_rows, body_bytes, 200)


def read(timelines: Sequence[Timeline], cursors: Sequence[int] = ()) -> RecordSlice:
    """A copy of the records of several timelines from a cursor each on, in the order in which answers were written.

    A missing cursor counts as 0; a negative one means only future records.
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
    """The last few thousand events of a process, for all of its models."""

    def __init__(self, memory: memoryview | None = None) -> None:
        self._ring = Ring(_EVENT_WORDS, EVENTS_KEPT, memory)

    @staticmethod
    def room() -> int:
        """The bytes that it takes."""
        return Ring.size_bytes(_EVENT_WORDS, EVENTS_KEPT)

    def add(self, kind: str, start_ns: int, end_ns: int, amount_ns: int | None = None) -> None:
        """Record an event of a kind in EVENTS; without an amount, its whole duration counts."""
        amount = end_ns - start_ns if amount_ns is None else amount_ns
        self._ring.record(EVENTS.index(kind), start_ns, end_ns, amount)

    def since(self, start_ns: int, most: int = EVENTS_KEPT) -> list[ProcessEvent]:
        """The events among the last `most` that ended after `start_ns` (monotonic)."""
        records, _ = self._ring.copy(0 if most >= EVENTS_KEPT else self._ring.end - most)
        return [ProcessEvent(EVENTS[kind], *rest) for kind, *rest in records[records[:, 2] > start_ns].tolist()]
