"""What a pipeline counts itself, beside its steps, and the newest requests' time in each of them."""

import threading
import time

import numpy as np

from tailcut.errors import (
    DeadlineExceededError,
    InvalidInputError,
    QueueFullError,
    ReleasedError,
    TailcutError,
    TooLargeError,
)

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
                "late",
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

    def refuse(self, requests: int, error: QueueFullError) -> None:
        """Count requests that were refused before they began."""
        with self._lock:
            self._refuse(requests, error)

    def refused(self, error: BaseException) -> None:
        """The first step did not take it."""
        with self._lock:
            self.flowing -= 1
            if isinstance(error, QueueFullError):  # as a model: what can never be taken is not counted
                self._refuse(1, error)

    def cancelled(self) -> None:
        """Its client has left."""
        with self._lock:
            self.flowing -= 1
            self.counts["cancelled"] += 1

    def ended(self, error: TailcutError, took_ns: int, *, computed: bool) -> None:
        """It has no answer, because a step refused it, dropped it or failed on it.

        Args:
            error: that its client is told.
            took_ns: since it began.
            computed: whether the step had begun to compute it; what it drops from its queue, it counts itself.
        """
        with self._lock:
            self.flowing -= 1
            if isinstance(error, QueueFullError):
                self._refuse(1, error)
            elif isinstance(error, InvalidInputError):
                return  # of what the client sent: a model does not count that as a failure either
            elif computed or not isinstance(error, DeadlineExceededError | TooLargeError | ReleasedError):
                self.counts["failed"] += 1
                self.counts["failed_ns"] += took_ns

    def answered(self, rows: int, times: list[tuple[int, int]], *, late: bool) -> None:
        """It has its answer.

        Args:
            rows: that it had.
            times: for each step the nanoseconds in its queue, and computing.
            late: its deadline had passed by then.
        """
        with self._lock:
            self.flowing -= 1
            counts = self.counts
            counts["requests"] += 1
            counts["rows"] += rows
            counts["late"] += late
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

    def _refuse(self, requests: int, error: QueueFullError) -> None:
        self.counts["refused"] += requests
        self.counts["refused_late"] += requests if error.late else 0
        self.refusal = str(error)
