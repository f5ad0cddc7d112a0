"""Batches in flight, without a lock: what happens to their rows, and who learns what they took."""

import pytest

from tailcut.batching.forecast import Forecast
from tailcut.batching.routing import Router
from tailcut.memory.slab import RowState, Slab
from tailcut.runtime.delivery import AnyThreadDelivery, EventHandler
from tailcut.runtime.in_flight import InFlight
from tailcut.runtime.request import Batch, Request
from tailcut.runtime.statistics import ModelStatistics
from tailcut.spec import DType, TensorSpec

X = TensorSpec("x", DType.FP32, (None, 2))


class Owner:
    def delivered(self, batch: Batch) -> None:
        raise AssertionError("nothing is delivered here")


class Made:
    """An `InFlight` with its parts, and rows that are ready."""

    def __init__(self, *, engines: int = 1) -> None:
        self.slab = Slab((X,), (X,), 8, block=4)
        self.forecast, self.counts = Forecast(4, 1), ModelStatistics()
        self.router = Router(4, (1,) * engines) if engines > 1 else None
        self.in_flight = InFlight(self.slab, self.forecast, self.router, self.counts)

    def formed(self, *counts: int, engine_index: int = 0, began_ns: int = 100) -> Batch:
        """A batch of requests of so many rows, in flight."""
        members = []
        for count in counts:
            request = Request(EventHandler(), AnyThreadDelivery(), count)
            request.row, request.ready_ns = self.slab.take(count), 50
            self.slab.move(request.row, count, RowState.FILLING, RowState.READY)
            members.append(request)
        batch = Batch(Owner(), members, engine_index=engine_index)
        self.in_flight.add(batch)
        self.in_flight.expect(batch, began_ns)
        batch.began_ns, batch.ended_ns = began_ns, began_ns + 1000
        return batch

    def states(self, batch: Batch) -> set[RowState]:
        return {self.slab.state(request.row) for request in batch.members}


@pytest.mark.parametrize("deliveries", [0, 1, 2])
def test_rows_are_free_after_the_last_delivery(deliveries: int) -> None:
    """At once where nothing is left to deliver."""
    made = Made()
    batch = made.formed(1, 2)
    assert (len(made.in_flight), made.states(batch)) == (1, {RowState.RUNNING})
    assert made.in_flight.end(batch, batch)
    made.in_flight.count(batch, deliveries)
    for left in range(deliveries, 0, -1):
        assert (left, made.states(batch)) == (left, {RowState.DONE})
        made.in_flight.delivered(batch)
    assert (len(made.in_flight), made.slab.in_use) == (0, 0)
    assert (made.counts.batches, made.counts.requests, made.counts.rows) == (1, 2, 3)
    assert made.forecast.cost.estimate_ns(3) > 0


def test_a_batch_that_is_tried_request_by_request_has_ended_with_the_last() -> None:
    """And it is learned from what succeeded only."""
    made = Made()
    batch = made.formed(1, 1)
    for left, request in ((1, batch.members[0]), (0, batch.members[1])):
        alone = Batch(Owner(), [request])
        assert made.in_flight.end(alone, batch)
        made.in_flight.count(alone, 0)
        assert (len(batch.members), len(made.in_flight)) == (left, min(left, 1))
    assert made.slab.in_use == 0


def test_what_hangs_is_given_up_once() -> None:
    """Its rows are the engine's until it returns; what a client gave up before is failed no second time."""
    made = Made()
    batch, quick = made.formed(2, 1), made.formed(1, began_ns=500)
    gone = batch.members[1]
    gone.cancelled = True
    made.in_flight.quarantine(gone)
    hung, failed = made.in_flight.give_up(200)
    assert (hung, failed) == ([batch], batch.members[:1])
    assert made.in_flight.give_up(200) == ([], [])
    assert made.states(batch) == {RowState.ABANDONED}
    assert (made.counts.hung, made.counts.failed, len(made.in_flight)) == (1, 1, 1)
    assert not made.in_flight.end(batch, batch)
    assert made.slab.in_use == 1
    assert made.in_flight.end(quick, quick)


def test_the_usual_batch_follows_what_is_computed() -> None:
    """Slowly, so that one batch of another size says little."""
    made, usual = Made(), []
    for _ in range(60):
        batch = made.formed(4)
        made.in_flight.end(batch, batch)
        made.in_flight.count(batch, 0)
        usual.append(made.in_flight.usual_rows)
    assert 1 < usual[0] < 2
    assert usual == sorted(usual)
    assert usual[-1] == pytest.approx(4, abs=0.1)


def test_the_forecast_follows_the_engine_that_computes_most() -> None:
    """Of two: what the slower one takes says nothing of how long the queue waits."""
    made = Made(engines=2)
    assert made.router is not None
    for index, took_ns in ((0, 9_000), (1, 1_000)) * 20:
        batch = made.formed(4, engine_index=index)
        batch.ended_ns = batch.began_ns + took_ns
        assert made.in_flight.end(batch, batch)
        made.in_flight.count(batch, 0)
    assert made.router.leading == 1
    assert made.forecast.cost is made.router.engines[1].cost
    assert made.counts.second == 20
