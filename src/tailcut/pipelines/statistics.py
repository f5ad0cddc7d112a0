"""A pipeline's own counters, besides those of its steps, and the newest requests' times in each step."""

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

_KEPT = 4096  # newest requests whose times are kept


class PipelineStatistics:
    """Totals since the start, and a ring buffer of the newest requests' times in each step."""

    def __init__(self, steps: int) -> None:
        self._lock = threading.Lock()
        self._times = np.zeros((_KEPT, steps, 2), np.int64)
        self._recorded = 0
        self.refusal = ""  # why the newest refused request was refused
        self.flowing = 0  # requests in flight
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
        """Count a request that is given to the first step."""
        with self._lock:
            self.flowing += 1

    def refuse(self, requests: int, error: QueueFullError) -> None:
        """Count requests that were refused before they began."""
        with self._lock:
            self._refuse(requests, error)

    def refused(self, error: BaseException) -> None:
        """Count a request that the first step did not accept."""
        with self._lock:
            self.flowing -= 1
            if isinstance(error, QueueFullError):  # like a model, counts no request that can never be accepted
                self._refuse(1, error)

    def cancelled(self) -> None:
        """Count a request whose client has left."""
        with self._lock:
            self.flowing -= 1
            self.counts["cancelled"] += 1

    def ended(self, error: TailcutError, took_ns: int, *, computed: bool) -> None:
        """Count a request that a step refused, dropped or failed to compute.

        Args:
            error: the error for its client.
            took_ns: nanoseconds since it began.
            computed: whether the step had begun to compute it; a step counts itself what it drops from its queue.
        """
        with self._lock:
            self.flowing -= 1
            if isinstance(error, QueueFullError):
                self._refuse(1, error)
            elif isinstance(error, InvalidInputError):
                return  # the client's fault: a model does not count that as a failure either
            elif computed or not isinstance(error, DeadlineExceededError | TooLargeError | ReleasedError):
                self.counts["failed"] += 1
                self.counts["failed_ns"] += took_ns

    def answered(self, rows: int, times: list[tuple[int, int]], *, late: bool) -> None:
        """Count an answered request.

        Args:
            rows: its number of rows.
            times: for each step, the nanoseconds in its queue and those computing.
            late: whether it was answered after its deadline.
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
        """Nanoseconds of the newest requests in each step's queue, and computing: int64 [requests, steps, 2]."""
        with self._lock:
            return self._times[: min(self._recorded, _KEPT)].copy()

    def copy(self) -> dict[str, int | float]:
        """A copy of the totals."""
        with self._lock:
            return dict(self.counts)

    def _refuse(self, requests: int, error: QueueFullError) -> None:
        self.counts["refused"] += requests
        self.counts["refused_late"] += requests if error.late else 0
        self.refusal = str(error)
