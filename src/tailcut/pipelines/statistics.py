"""A pipeline's own counters, besides those of its steps, and the newest requests' times in each step."""

import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from tailcut.errors import (
    DeadlineExceededError,
    InvalidInputError,
    QueueFullError,
    ReleasedError,
    TailcutError,
    TooLargeError,
)
from tailcut.pipelines.flow import Flow
from tailcut.runtime.tracing.timeline import StepTrace

_KEPT = 4096  # newest requests whose times are kept


class PipelineStatistics:
    """Totals since the start, and a ring buffer of the newest requests' times in each step."""

    def __init__(self, steps: int) -> None:
        self._lock = threading.Lock()
        self._steps = steps
        self._passed: deque[list[StepTrace]] = deque(maxlen=_KEPT)
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

    def failed(self, error: TailcutError, took_ns: int, *, computed: bool) -> None:
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

    def answered(self, flows: Sequence[Flow]) -> None:
        """Count answered requests, with the times that each spent in each step."""
        with self._lock:
            self.flowing -= len(flows)
            counts = self.counts
            counts["requests"] += len(flows)
            counts["last_ms"] = time.time_ns() // 1_000_000
            for flow in flows:
                request, passed = flow.request, flow.passed
                counts["rows"] += request.count
                counts["late"] += 0 < request.deadline_ns < passed[-1].ended_ns
                for step in passed:
                    counts["queue_ns"] += step.began_ns - step.ready_ns
                    counts["served_ns"] += step.ended_ns - step.began_ns
                self._passed.append(passed)

    def times(self) -> np.ndarray:
        """Nanoseconds of the newest requests in each step's queue, and computing: int64 [requests, steps, 2]."""
        with self._lock:
            newest = list(self._passed)
        moments = np.array([[step[1:5] for step in passed] for passed in newest], np.int64)
        ready, _, began, ended = np.moveaxis(moments.reshape(len(newest), self._steps, 4), 2, 0)
        return np.stack([began - ready, ended - began], axis=2)

    def copy(self) -> dict[str, int | float]:
        """A copy of the totals."""
        with self._lock:
            return dict(self.counts)

    def _refuse(self, requests: int, error: QueueFullError) -> None:
        self.counts["refused"] += requests
        self.counts["refused_late"] += requests if error.late else 0
        self.refusal = str(error)
