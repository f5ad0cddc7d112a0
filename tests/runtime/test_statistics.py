"""What a model counts of batches and refusals."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from tailcut.errors import EngineError, QueueFullError
from tailcut.runtime.request import Request
from tailcut.runtime.statistics import ModelStatistics


def batch(*ready_ns: int, began: int = 100, ended: int = 150, deadline: int = 0, error: Exception | None = None) -> Any:
    """Of one request for each of these times, of two rows."""
    members = [Request(Mock(), Mock(), 2, deadline) for _ in ready_ns]
    for member, ready in zip(members, ready_ns, strict=True):
        member.ready_ns = ready
    return SimpleNamespace(
        engine_index=0, rescued=False, began_ns=began, ended_ns=ended, error=error,
        requests=len(members), members=members, rows=2 * len(members),
    )  # fmt: skip


def test_a_batch() -> None:
    """Its requests waited each for itself, and each of them had to wait for all of the engine's time."""
    counts = ModelStatistics()
    counts.batch(batch(40, 90))
    assert (counts.requests, counts.rows, counts.batches) == (2, 4, 1)
    assert (counts.queue_ns, counts.compute_ns, counts.served_ns) == (60 + 10, 50, 100)
    assert counts.by_rows == {4: (1, 50)}
    assert counts.last_ms > 0


def test_a_batch_that_failed() -> None:
    """It is no answer, but took its time."""
    counts = ModelStatistics()
    counts.batch(batch(40, 90, error=EngineError("no")))
    assert (counts.requests, counts.failed, counts.batches, counts.compute_ns) == (0, 2, 1, 50)
    assert counts.failed_ns == 110 + 60
    assert counts.by_rows == {}


def test_late_answers() -> None:
    """After their deadline; 0 is none."""
    counts = ModelStatistics()
    for deadline in (149, 150, 0):
        counts.batch(batch(40, deadline=deadline))
    assert counts.late == 1


def test_refusals() -> None:
    """For lack of room and for the deadline; the newest reason stays."""
    counts = ModelStatistics()
    counts.refuse(2, QueueFullError("full"))
    counts.refuse(1, QueueFullError("too late", late=True))
    assert (counts.refused, counts.refused_late, counts.refusal) == (3, 1, "too late")
    assert counts.as_dict()["refused"] == 3
    assert not {"by_rows", "refusal"} & counts.as_dict().keys()
