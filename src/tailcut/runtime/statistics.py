"""What a model counts while it serves: plain integers, added to under the model's lock."""

from dataclasses import asdict, dataclass

from tailcut.runtime.batch import Batch


@dataclass(slots=True)
class ModelStatistics:
    """Totals since the start. Times are nanoseconds, summed over requests (queue) and batches (compute)."""

    requests: int = 0
    rows: int = 0
    batches: int = 0
    failed: int = 0
    refused: int = 0
    expired: int = 0
    cancelled: int = 0
    hung: int = 0  # batches given up because the engine did not come back
    queue_ns: int = 0
    compute_ns: int = 0

    def batch(self, batch: Batch) -> None:
        """Count a batch that has come back from the engine."""
        self.batches += 1
        self.compute_ns += batch.ended_ns - batch.began_ns
        if batch.error is not None:
            self.failed += len(batch.tickets)
            return
        self.requests += len(batch.tickets)
        self.rows += batch.rows
        began = batch.began_ns
        for ticket in batch.tickets:
            self.queue_ns += began - ticket.ready_ns

    def as_dict(self) -> dict[str, int | float]:
        """A copy by name."""
        return asdict(self)
