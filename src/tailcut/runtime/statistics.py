"""What a model counts while it serves: plain integers, added to under the model's lock."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tailcut.errors import DeadlineExceededError, DeviceLostError, QueueFullError
from tailcut.runtime.request import Batch, Request


@dataclass(slots=True, eq=False)
class ModelStatistics:
    """Totals since the start. Times are nanoseconds, summed over requests (queue) and batches (compute)."""

    requests: int = 0
    rows: int = 0
    batches: int = 0
    failed: int = 0
    refused: int = 0
    refused_late: int = 0  # of them because the deadline could not be met; the others found no room
    expired: int = 0
    late: int = 0  # answered after their deadline
    cancelled: int = 0
    second: int = 0  # batches that the second engine was given
    rescued: int = 0  # batches that it computed because the device of the first had failed
    hung: int = 0  # batches given up because the engine did not come back in its time
    queue_ns: int = 0
    compute_ns: int = 0
    served_ns: int = 0  # engine time summed over requests: each one of a batch had to wait for all of it
    failed_ns: int = 0  # queue and engine time of requests that the engine failed
    last_ms: int = 0  # when the newest answer was there, since 1970
    by_rows: dict[int, tuple[int, int]] = field(default_factory=dict)  # rows of a batch -> batches, engine time
    refusal: str = ""  # why the newest refused request was refused
    is_lost: bool = False  # its device computes nothing more in this process, and no other engine does

    def refuse(self, requests: int, error: QueueFullError) -> None:
        """Count requests that were refused before they were queued."""
        self.refused += requests
        self.refused_late += requests if error.late else 0
        self.refusal = str(error)

    def batch(self, batch: Batch) -> None:
        """Count a batch that has come back from the engine."""
        self.batches += 1
        self.second += batch.engine_index
        self.rescued += batch.rescued
        took = batch.ended_ns - batch.began_ns
        self.compute_ns += took
        if batch.error is not None:
            self.hung += isinstance(batch.error, DeadlineExceededError)  # the engine itself has ended what hung
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
        """Count an oversized request whose parts have been answered: the engine computed them for so long in all."""
        requests, ready_ns = whole.requests, whole.ready_ns
        took_ns = min(took_ns, ended_ns - ready_ns)  # several engines may have computed at a time
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
        """A copy of the plain numbers by name."""
        return {name: getattr(self, name) for name in self.__slots__ if name not in {"by_rows", "refusal", "is_lost"}}
