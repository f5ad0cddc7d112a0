"""The entry of a model alone, on one thread: arrays become rows or loose requests, and `notify` computes or wakes."""

import time
from dataclasses import replace

import numpy as np
import pytest

from tailcut.errors import BatchLostError, QueueFullError, ReleasedError
from tailcut.runtime.delivery import AnyThreadDelivery, EventHandler
from tailcut.runtime.entry import ModelEntry
from tailcut.runtime.limits import Limits
from tailcut.runtime.request import NO_LEASE, Batch, Request
from tailcut.runtime.scheduler import Scheduler
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec

WIDE = 100_000  # bytes of a row
X = TensorSpec("x", DType.UINT8, (None, WIDE))
SPEC = ModelSpec("m", (X,), (replace(X, name="y"),))


class Doubling:
    """An executor that doubles rows where they are, and loose arrays into fresh ones."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._slab = scheduler.slab
        self.batches: list[int] = []

    def run(self, batch: Batch) -> None:
        batch.executor = self
        batch.began_ns = time.monotonic_ns()
        self.compute(batch)
        batch.ended_ns = time.monotonic_ns()

    def compute(self, batch: Batch) -> None:
        self.batches.append(batch.rows)
        given = (
            [self._slab.inputs[0][member.row : member.row + member.count] for member in batch.members]
            if self._slab is not None
            else [member.arrays["x"] for member in batch.members]
        )
        batch.outputs = (np.concatenate(given) * 2,)


class Made:
    """An entry with its scheduler, its executor, and how often it woke the workers."""

    def __init__(self, dispatch: str, *, rows: Rows = Rows.INDEPENDENT, queue_rows: int = 16) -> None:
        settings = Settings(batching=BatchingSettings(max_batch_size=4, dispatch=dispatch))
        spec = ModelSpec("m", SPEC.inputs, SPEC.outputs, rows)
        self.scheduler = Scheduler(spec, settings, Limits(queue_rows=queue_rows))
        self.executor = Doubling(self.scheduler)
        self.woken = 0
        self.entry = ModelEntry(self.scheduler, self.executor, self._wake, None)

    def _wake(self) -> None:
        self.woken += 1

    def start(self, *values: int) -> EventHandler:
        handler = EventHandler()
        self.entry.start(arrays(*values), Request(handler, AnyThreadDelivery(), len(values)))
        return handler

    def work(self) -> None:
        """What a worker does once it is woken."""
        while isinstance(batch := self.scheduler.next_batch(time.monotonic_ns()), Batch):
            self.executor.run(batch)
            self.scheduler.finish(batch)


def arrays(*values: int) -> dict[str, np.ndarray]:
    """A row for each value, which fills it."""
    return {"x": np.repeat(np.array(values, np.uint8)[:, None], WIDE, 1)}


def answer(handler: EventHandler) -> list[int]:
    """The value of each row of the answer."""
    assert handler.outputs is not None
    (output,) = handler.outputs
    assert (output == output[:, :1]).all()
    return output[:, 0].tolist()


@pytest.mark.parametrize("rows", [Rows.INDEPENDENT, Rows.DEPENDENT])
@pytest.mark.parametrize("dispatch", ["inline", "adaptive"])
def test_notify_computes_here_what_has_come_in(dispatch: str, rows: Rows) -> None:
    """The answers are there when it returns; requests that can be merged are, and others are computed one by one."""
    made = Made(dispatch, rows=rows)
    handlers = [made.start(number) for number in range(1, 4)]
    assert made.executor.batches == []
    while made.scheduler.waiting_rows:
        made.entry.notify()
        if dispatch == "adaptive":
            made.work()
    assert [answer(handler) for handler in handlers] == [[2], [4], [6]]
    if dispatch == "inline":
        assert made.executor.batches == ([3] if rows is Rows.INDEPENDENT else [1, 1, 1])


def test_notify_only_wakes_where_workers_compute() -> None:
    """An idle worker, once a call; nobody while all of them compute, who look again by themselves."""
    made = Made("worker")
    handler = made.start(1)
    assert not made.entry.notify()
    assert (made.woken, made.executor.batches) == (1, [])
    batch = made.scheduler.next_batch(time.monotonic_ns())
    assert isinstance(batch, Batch)
    later = made.start(2)
    assert not made.entry.notify()
    assert made.woken == 1
    made.executor.run(batch)
    made.scheduler.finish(batch)
    made.work()
    assert [answer(handler), answer(later)] == [[2], [4]]


def test_more_rows_than_a_batch_are_computed_in_parts() -> None:
    """The answer is whole, with its rows in order."""
    made = Made("inline")
    handler = made.start(*range(1, 11))
    made.entry.notify()
    assert answer(handler) == [2 * number for number in range(1, 11)]
    assert max(made.executor.batches) <= 4 < sum(made.executor.batches)


def test_large_arrays_are_copied_with_pauses_and_small_ones_without() -> None:
    """The rows are held, not queued, until the copy is complete."""
    made = Made("inline")
    small, large = arrays(1), arrays(1, 2, 3, 4)
    handlers = [EventHandler(), EventHandler()]
    assert list(made.entry.start_in_steps(small, Request(handlers[0], AnyThreadDelivery(), 1))) == []
    assert made.scheduler.waiting_rows == 1
    steps = made.entry.start_in_steps(large, Request(handlers[1], AnyThreadDelivery(), 4))
    next(steps)
    assert (made.scheduler.waiting_rows, made.scheduler.slab.in_use) == (1, 5)
    for _ in steps:
        assert made.scheduler.waiting_rows == 1
    assert made.scheduler.waiting_rows == 5
    made.entry.notify()
    assert [answer(handler) for handler in handlers] == [[2], [2, 4, 6, 8]]


def test_a_copy_that_is_given_up_gives_its_rows_back() -> None:
    """The client left between two steps."""
    made = Made("inline")
    steps = made.entry.start_in_steps(arrays(1, 2, 3, 4), Request(EventHandler(), AnyThreadDelivery(), 4))
    next(steps)
    steps.close()
    assert (made.scheduler.waiting_rows, made.scheduler.slab.in_use) == (0, 0)


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
def test_a_lone_request_that_is_settled_at_once_is_computed_before_settle_returns(dispatch: str) -> None:
    """Where this thread computes; else it is queued, and the caller is told to notify."""
    made, handler = Made(dispatch), EventHandler()
    lease = made.entry.lend(1)
    made.scheduler.slab.inputs[0][lease.row] = 7

    class Here(AnyThreadDelivery):
        is_here = True

    notify = made.entry.settle(lease, 1, Request(handler, Here(), 1), at_once=True)
    assert notify is (dispatch == "worker")
    made.work()
    assert answer(handler) == [14]


def test_rows_that_go_back_need_no_notification() -> None:
    """Nothing was filled."""
    made = Made("worker")
    assert made.entry.settle(made.entry.lend(2), 0, None) is False
    assert made.scheduler.slab.in_use == 0


def test_what_finds_no_room_is_refused_and_leaves_nothing() -> None:
    """Neither rows nor parts."""
    made = Made("worker", queue_rows=8)
    waiting = [made.start(1, 2, 3, 4), made.start(5, 6, 7, 8)]
    with pytest.raises(QueueFullError):
        made.start(9)
    with pytest.raises(QueueFullError):
        made.start(*range(1, 7))
    assert (made.entry.waiting_rows, made.scheduler.postponed_rows) == (8, 0)
    made.work()
    assert [answer(handler) for handler in waiting] == [[2, 4, 6, 8], [10, 12, 14, 16]]


def test_a_closed_model_takes_nothing() -> None:
    """And a lease from before is given back."""
    made = Made("inline")
    lease = made.entry.lend(1)
    made.scheduler.close()
    with pytest.raises(ReleasedError):
        made.start(1)
    with pytest.raises(ReleasedError):
        made.entry.settle(lease, 1, Request(EventHandler(), AnyThreadDelivery(), 1))
    assert made.scheduler.slab.in_use == 0


def test_a_model_of_loose_arrays_keeps_them_in_the_request() -> None:
    """Its lease is a number; rows that belong together have a key that no other request has."""
    made = Made("worker", rows=Rows.DEPENDENT)
    keys = []
    for _ in range(2):
        given, request = arrays(1, 2), Request(EventHandler(), AnyThreadDelivery(), 2)
        with pytest.raises(StopIteration) as done:
            next(made.entry.put(given, request))
        assert done.value.value.row == NO_LEASE.row
        assert request.arrays is given
        keys.append(request.key)
    assert keys[0] != keys[1]


@pytest.mark.parametrize("dispatch", ["inline", "adaptive"])
@pytest.mark.parametrize("moment", ["run", "next_batch"])
def test_an_interrupted_batch_fails_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, dispatch: str, moment: str
) -> None:
    """A signal's handler raises while the engine computes, or before that: the next call finds an idle model."""
    made = Made(dispatch)
    handlers = [made.start(1), made.start(2)]

    def interrupt(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    if moment == "run":
        monkeypatch.setattr(made.executor, "compute", interrupt)
    else:
        monkeypatch.setattr("tailcut.runtime.in_flight.InFlight.expect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.entry.notify()
    assert isinstance(handlers[0].error, BatchLostError)
    made.entry.notify()
    made.work()
    counts = made.scheduler.statistics()
    assert counts | {"computing": 0, "queued": 0, "rows_in_use": 0} == counts
    again = made.start(3)
    made.entry.notify()
    assert answer(again) == [6]
