"""What a pipeline counts itself, beside its steps, and the newest requests' time in each of them."""

import threading
import time

import numpy as np

from tailcut.errors import QueueFullError, TailcutError

_KEPT = 4096  # requests


class PipelineStatistics:
    """Totals since the start, and a ring of how long the newest requests were in each step."""

    def __init__(self, steps: int) -> None:
        self._lock = threading.Lock()
        self._times = np.zeros((_KEPT, steps, 2), np.int64)
        self._recorded = 0
        self.refusal = ""  # why the newest refused request was refused
        self.flowing = 0  # requests that have begun and not ended
        self.counts: dict[str, int | float] = dict.fromkeys(
            (
                "requests",
                "rows",
                "failed",
                "refused",
                "refused_late",
                "cancelled",
                "queue_ns",
                "served_ns",
                "failed_ns",
                "last_ms",
            ),
            0,
        )

    def began(self) -> None:
        """A request goes to the first step."""
        with self._lock:
            self.flowing += 1

    def refused(self, error: TailcutError) -> None:
        """It was not taken after all."""
        with self._lock:
            self.flowing -= 1
            self.counts["refused"] += 1
            self.counts["refused_late"] += isinstance(error, QueueFullError) and error.late
            self.refusal = str(error)

    def cancelled(self) -> None:
        """Its client has left."""
        with self._lock:
            self.flowing -= 1
            self.counts["cancelled"] += 1

    def failed(self, took_ns: int, *, late: bool) -> None:
        """It has no answer; the step that was too late for it has counted it as expired."""
        with self._lock:
            self.flowing -= 1
            self.counts["failed"] += not late
            self.counts["failed_ns"] += took_ns

    def answered(self, rows: int, times: list[tuple[int, int]]) -> None:
        """It has its answer.

        Args:
            rows: that it had.
            times: for each step the nanoseconds in its queue, and computing.
        """
        with self._lock:
            self.flowing -= 1
            counts = self.counts
            counts["requests"] += 1
            counts["rows"] += rows
            counts["last_ms"] = time.time_ns() // 1_000_000
            for queued, computed in times:
                counts["queue_ns"] += queued
                counts["served_ns"] += computed
            self._times[self._recorded % _KEPT] = times
            self._recorded += 1

    def times(self) -> np.ndarray:
        """int64 [requests, steps, 2]: the newest requests' nanoseconds in each step's queue, and computing."""
        with self._lock:
            return self._times[: min(self._recorded, _KEPT)].copy()

    def copy(self) -> dict[str, int | float]:
        """The totals."""
        with self._lock:
            return dict(self.counts)
