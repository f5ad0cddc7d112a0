"""When what waits for a model leaves its queue, and where it is computed, by its settings and what is known of it."""

import pytest

from tailcut.batching.forecast import Forecast
from tailcut.batching.policy import Dispatch, DispatchKind, DispatchPlace, Wait
from tailcut.batching.queue import PriorityQueue
from tailcut.runtime.dispatching import Dispatching
from tailcut.runtime.request import Request

US = 1000


def learned(*costs_us: tuple[int, int]) -> Forecast:
    """A forecast that knows what batches of so many rows take."""
    forecast = Forecast(8, 1)
    for rows, cost_us in costs_us:
        for _ in range(50):
            forecast.cost.observe(rows, cost_us * US)
    return forecast


def request(ready_us: int, rows: int = 1, requests: int = 1) -> Request:
    made = Request(None, None, rows, requests=requests)  # type: ignore[arg-type]
    made.ready_ns = ready_us * US
    return made


def queue(*requests: Request) -> PriorityQueue[Request]:
    made: PriorityQueue[Request] = PriorityQueue()
    for item in requests:
        made.append(item)
    return made


def test_nothing_leaves_an_empty_queue() -> None:
    """None is no batch and no time to look again."""
    assert Dispatching("worker", 0, learned()).decide(queue(), 0, 1, 1.0) is None


def test_what_waits_leaves_at_once_where_nothing_is_held_back() -> None:
    """Two idle engines share it."""
    dispatching = Dispatching("worker", 0, learned((1, 100), (8, 200)))
    waiting = queue(*(request(number) for number in range(4)))
    assert dispatching.decide(waiting, 10 * US, 1, 1.0) == Dispatch(4, DispatchPlace.WORKER)
    assert dispatching.decide(waiting, 10 * US, 2, 1.0) == Dispatch(2, DispatchPlace.WORKER)


def test_a_batch_is_held_back_while_requests_come_quickly() -> None:
    """The gap between arrivals is learned; what arrives as one request of several counts as several."""
    for gap_us, requests, held in ((5, 1, True), (400, 1, False), (400, 80, True)):
        dispatching = Dispatching("worker", 300 * US, learned((1, 100), (2, 101), (8, 102)))
        for number in range(200):
            dispatching.arrived(request(number * gap_us, requests=requests))
        last_us = 199 * gap_us
        choice = dispatching.decide(queue(request(last_us)), last_us * US, 1, 1.0)
        assert isinstance(choice, Wait) is held, (gap_us, requests)
        if isinstance(choice, Wait):
            assert choice.until_ns == (last_us + 300) * US


@pytest.mark.parametrize(
    ("kind", "cost_us", "usual_rows", "bypasses"),
    [
        ("inline", 5000, 1.0, True),
        ("adaptive", 100, 1.0, True),
        ("adaptive", 5000, 1.0, False),
        ("adaptive", 100, 8.0, False),
        ("worker", 100, 1.0, False),
    ],
)
def test_a_lone_request_bypasses_the_queue_where_the_loop_computes(
    kind: DispatchKind, cost_us: int, usual_rows: float, bypasses: bool
) -> None:
    """Inline always, adaptively what is soon done while batches are small; never where batches are held back."""
    forecast = learned((1, cost_us), (8, cost_us))
    assert Dispatching(kind, 0, forecast).bypasses(1, usual_rows) is bypasses
    assert not Dispatching(kind, 1, forecast).bypasses(1, usual_rows)


def test_what_is_worth_several_batches_waits_its_turn() -> None:
    """More rows than the best batch are the queue's to cut."""
    dispatching = Dispatching("inline", 0, learned((1, 10), (2, 5000), (8, 50_000)))
    assert dispatching.bypasses(1, 1.0)
    assert not dispatching.bypasses(8, 1.0)
