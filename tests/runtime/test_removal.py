"""Requests that leave the queue uncomputed, without a lock: which they are, and what becomes of their rows."""

import pytest

from tailcut.batching.forecast import Forecast
from tailcut.batching.queue import PriorityQueue
from tailcut.memory.slab import RowState, Slab
from tailcut.runtime.delivery import AnyThreadDelivery, EventHandler
from tailcut.runtime.removal import Removal
from tailcut.runtime.request import Request
from tailcut.runtime.statistics import ModelStatistics
from tailcut.spec import DType, TensorSpec

X = TensorSpec("x", DType.FP32, (None, 2))


class Made:
    """A `Removal` with its parts, and requests that wait."""

    def __init__(self, *, slab: bool = True) -> None:
        self.slab = Slab((X,), (X,), 8, block=4) if slab else None
        self.queue: PriorityQueue[Request] = PriorityQueue()
        self.forecast, self.counts = Forecast(4, 1), ModelStatistics()
        self.removal = Removal(self.queue, self.slab, self.forecast, self.counts)

    def queued(self, rows: int = 1, deadline_ns: int = 0, requests: int = 1) -> Request:
        request = Request(EventHandler(), AnyThreadDelivery(), rows, deadline_ns, 0, requests)
        if self.slab is not None:
            request.row = self.slab.take(rows)
            self.slab.move(request.row, rows, RowState.FILLING, RowState.READY)
        request.ready_ns = 10
        self.queue.append(request)
        return request


@pytest.mark.parametrize("slab", [True, False])
def test_what_is_due_before_the_next_batch_is_back_is_taken(slab: bool) -> None:
    """Of those that wait, in order; the others stay, and only their rows are still in use."""
    made = Made(slab=slab)
    late = [made.queued(deadline_ns=100), made.queued(2, deadline_ns=140)]
    others = [made.queued(deadline_ns=150), made.queued()]
    assert made.removal.take_late(90, 60) == late
    assert list(made.queue.items()) == others
    assert made.counts.expired == 2
    if made.slab is not None:
        assert made.slab.in_use == made.queue.rows == 2


@pytest.mark.parametrize(("now_ns", "taken"), [(90, 0), (101, 1)])
def test_the_last_of_all_is_computed_unless_it_is_late_already(now_ns: int, taken: int) -> None:
    """An engine that is believed to be too slow may show that it no longer is."""
    made = Made()
    made.queued(deadline_ns=100)
    assert len(made.removal.take_late(now_ns, 1000)) == taken
    assert (made.counts.expired, made.queue.rows, made.slab.in_use) == (taken, 1 - taken, 1 - taken)


def test_late_requests_of_one_delay_are_one_broken_promise() -> None:
    """However many there are: a burst that is late at once says as much as its first request."""
    item, many = Made(), Made()
    for made, count in ((item, 1), (many, 5)):
        for _ in range(count):
            made.queued(deadline_ns=100)
        assert len(made.removal.take_late(200)) == count
    assert many.forecast.safety_margin == item.forecast.safety_margin


def test_a_cancelled_request_gives_its_rows_back_once() -> None:
    """Those of one that is running are its engine's, and it does not wait any more."""
    made = Made()
    waiting, running = made.queued(2), made.queued(3)
    made.queue.remove(running)
    running.running = True
    for request in (waiting, running):
        made.removal.cancel(request)
    assert (made.counts.cancelled, made.slab.in_use, made.queue.rows) == (2, 3, 0)


@pytest.mark.parametrize(
    ("number", "left"), [(0, [(1, 3)]), (1, [(0, 1), (2, 2)]), (3, [(0, 3)])], ids=["first", "middle", "last"]
)
def test_one_of_several_is_withdrawn_alone(number: int, left: list[tuple[int, int]]) -> None:
    """The others keep their rows and their numbers."""
    made = Made()
    request = made.queued(4, requests=4)
    first_row = request.row
    made.removal.withdraw(request.handler, number)
    assert sorted((item.offset, item.requests) for item in made.queue.items()) == left
    assert [item.row - first_row for item in made.queue.items()] == [item.offset for item in made.queue.items()]
    assert (made.counts.cancelled, made.slab.in_use, made.slab.state(first_row + number)) == (1, 3, RowState.FREE)


def test_one_that_waits_no_more_is_only_counted() -> None:
    """Its batch was formed meanwhile."""
    made = Made()
    request = made.queued(2, requests=2)
    made.queue.remove(request)
    made.removal.withdraw(request.handler, 1)
    assert (made.counts.cancelled, made.queue.rows, made.slab.in_use) == (1, 0, 2)
