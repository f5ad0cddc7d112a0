"""What a model counts while it serves: plain integers, which are changed under the model's lock."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tailcut.errors import DeadlineExceededError, DeviceLostError, QueueFullError
from tailcut.runtime.request import Batch, Request


@dataclass(slots=True, eq=False)
class ModelStatistics:
    """Totals since the start. Times are in nanoseconds, summed over requests (queue) and batches (compute)."""

    requests: int = 0
    rows: int = 0
    batches: int = 0
    failed: int = 0
    refused: int = 0
    refused_late: int = 0  # of the refused, those that could not meet their deadline; the others found the queue full
    expired: int = 0
    late: int = 0  # answered after their deadline
    cancelled: int = 0
    second: int = 0  # batches of the second engine
    rescued: int = 0  # of these, computed because the first engine's device failed
    hung: int = 0  # batches given up because the engine exceeded its timeout
    queue_ns: int = 0
    compute_ns: int = 0
    served_ns: int = 0  # engine time summed over requests: each waits for its whole batch
    failed_ns: int = 0  # queue and engine time of requests that the engine failed
    last_ms: int = 0  # the time of the newest answer, in milliseconds since 1970
    by_rows: dict[int, tuple[int, int]] = field(default_factory=dict)  # rows of a batch: number of batches, engine time
    refusal: str = ""  # why the newest refused request was refused
    is_lost: bool = False  # its device is lost to this process, and there is no other engine

    def refuse(self, requests: int, error: QueueFullError) -> None:
        """Count requests that were refused before they were queued."""
        self.refused += requests
        self.refused_late += requests if error.late else 0
        self.refusal = str(error)

    def batch(self, batch: Batch) -> None:
        """Count a batch that the engine has finished."""
        self.batches += 1
        self.second += batch.engine_index
        self.rescued += batch.rescued
        took = batch.ended_ns - batch.began_ns
        self.compute_ns += took
        if batch.error is not None:
            self.hung += isinstance(batch.error, DeadlineExceededError)  # the engine itself ended the call
            self.is_lost = self.is_lost or isinstance(batch.error, DeviceLostError)
            self.fail(batch.members, batch.ended_ns)
            return
        self.last_ms = time.time_ns() // 1_000_000
        batches, compute_ns = self.by_rows.get(batch.rows, (0, 0))
        self.by_rows[batch.rows] = batches + 1, compute_ns + took
        self.rows += batch.rows
        began, answered = batch.began_ns, 0
        for request in batch.members:
            requests = request.requests
            answered += requests
            self.queue_ns += (began - request.ready_ns) * requests
            if 0 < request.deadline_ns < batch.ended_ns:
                self.late += requests
        self.requests += answered
        self.served_ns += took * answered

    def whole(self, whole: Request, ended_ns: int, took_ns: int) -> None:
        """Count an oversized request whose parts have been answered, with `took_ns` of engine time in total."""
        requests, ready_ns = whole.requests, whole.ready_ns
        took_ns = min(took_ns, ended_ns - ready_ns)  # several engines may have computed simultaneously
        self.requests += requests
        self.served_ns += took_ns * requests
        self.queue_ns += (ended_ns - ready_ns - took_ns) * requests
        if 0 < whole.deadline_ns < ended_ns:
            self.late += requests

    def fail(self, members: Iterable[Request], ended_ns: int) -> None:
        """Count requests that the engine failed."""
        for request in members:
            requests, ready_ns = request.lost()
            self.failed += requests
            self.failed_ns += (ended_ns - ready_ns) * requests

    def as_dict(self) -> dict[str, int | float]:
        """A copy of the numbers, by name."""
        return {name: getattr(self, name) for name in self.__slots__ if name not in {"by_rows", "refusal", "is_lost"}}
