"""The scheduler alone: rows lent and settled, batches formed and finished, on one thread and without an engine."""

import time
from dataclasses import replace

import numpy as np
import pytest

from tailcut.batching.policy import DispatchPlace
from tailcut.errors import BatchLostError, DeadlineExceededError, EngineError, QueueFullError, ReleasedError
from tailcut.memory.slab import RowState
from tailcut.runtime.limits import Limits
from tailcut.runtime.request import NO_LEASE, Batch, Request
from tailcut.runtime.scheduler import Scheduler
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec

X = TensorSpec("x", DType.FP32, (None, 2))
SPEC = ModelSpec("m", (X,), (replace(X, name="y"),))
LATE_NS = 1


class Client:
    """A handler and its delivery, on the thread that asks."""

    def __init__(self, *, is_here: bool = False) -> None:
        self.is_here = is_here
        self.answered: list[Request] = []
        self.failed: list[Exception] = []
        self.posted: list[Batch] = []

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        self.answered.append(request)

    def fail(self, request: Request, error: Exception) -> None:
        self.failed.append(error)

    def notify_soon(self, entry: object) -> None:
        raise AssertionError("the scheduler notifies nobody")

    def post(self, batch: Batch) -> None:
        self.posted.append(batch)
        batch.hand_out(self)
        batch.owner.delivered(batch)

    def post_failure(self, request: Request, error: Exception) -> None:
        self.failed.append(error)


class Engine:
    """An executor that doubles, and fails on what it is told to fail on."""

    def __init__(self, bad: tuple[Request, ...] = ()) -> None:
        self._bad = bad

    def run(self, batch: Batch) -> None:
        batch.began_ns = time.monotonic_ns()
        batch.ended_ns = batch.began_ns + 1000
        batch.executor = self
        batch.outputs = (np.zeros((batch.rows, 2), np.float32),)
        batch.error = EngineError("bad row") if any(request in self._bad for request in batch.members) else None


def scheduler(*, max_batch_size: int = 4, queue_rows: int = 8, spec: ModelSpec = SPEC, **batching: object) -> Scheduler:
    settings = Settings(batching=BatchingSettings(max_batch_size=max_batch_size, **batching))
    return Scheduler(spec, settings, Limits(queue_rows=queue_rows))


def queued(under: Scheduler, client: Client, rows: int = 1, deadline_ns: int = 0) -> Request:
    """A request that waits."""
    request = Request(client, client, rows, deadline_ns)
    assert under.settle(under.lend(rows), rows, request) is None
    return request


def now() -> int:
    return time.monotonic_ns()


@pytest.mark.parametrize(
    ("counts", "batches"),
    [([1], [1]), ([1, 2, 1], [4]), ([3, 2], [3, 2]), ([4, 4, 1], [4, 4, 1]), ([1] * 4, [4])],
)
def test_batches_are_formed_in_order_and_no_larger_than_allowed(counts: list[int], batches: list[int]) -> None:
    """Each request is whole in one batch; every one is answered, and all rows are free at the end."""
    under, client, formed = scheduler(queue_rows=16), Client(), []
    requests = [queued(under, client, count) for count in counts]
    while isinstance(batch := under.next_batch(now()), Batch):
        formed.append(batch.rows)
        Engine().run(batch)
        assert under.finish(batch)
    assert formed == batches
    assert client.answered == requests
    result = under.statistics()
    assert (result["rows"], result["batches"], result["queued"], result["rows_in_use"]) == (
        sum(counts),
        len(batches),
        0,
        0,
    )


@pytest.mark.parametrize(("lent", "filled"), [(1, 0), (3, 0), (3, 2), (3, 3)])
def test_rows_that_are_not_filled_go_back(lent: int, filled: int) -> None:
    """With none filled, the lease is given back whole."""
    under, client = scheduler(), Client()
    lease = under.lend(lent)
    assert under.settle(lease, filled, Request(client, client, filled) if filled else None) is None
    assert (under.waiting_rows, under.slab.in_use) == (filled, filled)


def test_rows_that_arrive_whole_are_lent_and_queued_in_one() -> None:
    """The body is copied into them."""
    under, client = scheduler(), Client()
    request, body = Request(client, client, 2), np.arange(4, dtype=np.float32)
    under.submit(request, memoryview(body).cast("B"))
    assert under.slab.state(request.row) is RowState.READY
    assert under.slab.inputs[0][request.row : request.row + 2].ravel().tolist() == body.tolist()


def test_a_full_slab_refuses() -> None:
    """With the number of refused requests in the counts."""
    under, client = scheduler(), Client()
    rows = under.queue_rows
    for _ in range(rows // 4):
        queued(under, client, 4)
    with pytest.raises(QueueFullError):
        under.lend(4)
    assert under.statistics()["refused"] == 1
    assert under.waiting_rows == rows


@pytest.mark.parametrize(
    ("dispatch", "busy", "bypasses"),
    [
        ("inline", False, True),
        ("inline", True, False),
        ("worker", False, False),
        ("adaptive", False, True),
        ("adaptive", True, False),
    ],
)
def test_a_lone_request_may_bypass_the_queue(dispatch: str, busy: bool, bypasses: bool) -> None:
    """Where this thread is to compute it and nothing is before it."""
    body = memoryview(np.ones((1, 2), np.float32)).cast("B")
    for whole in (False, True):
        under, client = scheduler(dispatch=dispatch), Client(is_here=True)
        if busy:
            queued(under, client)
        request, rows = Request(client, client, 1), under.slab.in_use
        batch = under.bypass(request, body) if whole else under.settle(under.lend(1), 1, request, at_once=True)
        assert (batch is not None) is bypasses
        assert under.slab.in_use == rows + (bypasses or not whole)
        if batch is not None:
            assert (batch.where, under.computing) == (DispatchPlace.LOOP, 1)
            assert not whole or (under.slab.inputs[0][request.row] == 1).all()
            Engine().run(batch)
            assert under.finish(batch)
            assert (client.answered, client.posted, under.slab.in_use) == ([request], [], 0)


def test_what_finds_no_rows_side_by_side_does_not_bypass_the_queue() -> None:
    """Nor what comes to a closed scheduler: nothing has changed then."""
    under, client = scheduler(dispatch="inline", queue_rows=8), Client(is_here=True)
    body = memoryview(np.ones((4, 2), np.float32)).cast("B")
    leases = [under.lend(1) for _ in range(8)]
    for lease in leases[::2]:
        under.settle(lease, 0, None)
    assert under.bypass(Request(client, client, 4, requests=4), body) is None
    assert (under.slab.in_use, under.computing, under.counts.refused) == (4, 0, 0)
    for lease in leases[1::2]:
        under.settle(lease, 0, None)
    under.close()
    assert under.bypass(Request(client, client, 4, requests=4), body) is None
    assert under.slab.in_use == 0


def test_a_failed_batch_is_tried_request_by_request() -> None:
    """Only the bad one fails."""
    under, client = scheduler(), Client()
    requests = [queued(under, client) for _ in range(3)]
    batch = under.next_batch(now())
    assert isinstance(batch, Batch)
    engine = Engine(bad=(requests[1],))
    engine.run(batch)
    assert under.finish(batch)
    assert client.answered == [requests[0], requests[2]]
    assert [str(error) for error in client.failed] == ["bad row"]
    assert (under.computing, under.slab.in_use) == (0, 0)


def test_a_lost_batch_is_not_tried_again() -> None:
    """Its engine is gone: all its requests fail at once."""
    under, client = scheduler(), Client()
    for _ in range(2):
        queued(under, client)
    batch = under.next_batch(now())
    assert isinstance(batch, Batch)
    Engine().run(batch)
    batch.error = BatchLostError("the engine's process ended")
    assert under.finish(batch)
    assert (len(client.failed), len(client.posted)) == (2, 1)


def test_what_is_late_is_not_computed() -> None:
    """It fails when the next batch is formed, and takes no place in it."""
    under, client = scheduler(), Client()
    late, other = queued(under, client), queued(under, client)
    late.deadline_ns = LATE_NS
    under.cancel(other)
    under.cancel(late)
    late, other = Request(client, client, 1, LATE_NS), Request(client, client, 1)
    for request in (late, other):
        lease = under.lend(1)
        under.settle(lease, 1, request)
    batch = under.next_batch(now())
    assert isinstance(batch, Batch)
    assert batch.members == [other]
    assert isinstance(client.failed[0], DeadlineExceededError)


@pytest.mark.parametrize("running", [False, True])
def test_a_client_that_leaves_takes_its_work_along(running: bool) -> None:
    """Rows that wait are free at once; rows that the engine has are in quarantine until it returns."""
    under, client = scheduler(), Client()
    request = queued(under, client, 2)
    batch = under.next_batch(now()) if running else None
    under.cancel(request)
    under.cancel(request)
    assert under.statistics()["cancelled"] == 1
    assert under.slab.in_use == (2 if running else 0)
    if isinstance(batch, Batch):
        assert under.slab.state(request.row) is RowState.ABANDONED
        Engine().run(batch)
        under.finish(batch)
        assert under.slab.in_use == 0
    assert client.answered == []


def test_a_batch_that_hangs_is_given_up_once() -> None:
    """Its requests fail; what the engine brings later is dropped, and its rows are free then."""
    under, client = scheduler(), Client()
    queued(under, client)
    batch = under.next_batch(now())
    assert isinstance(batch, Batch)
    Engine().run(batch)
    batch.began_ns = LATE_NS
    assert under.expire() == [batch]
    assert under.expire() == []
    assert isinstance(client.failed[0], DeadlineExceededError)
    assert under.slab.in_use == 1
    assert not under.finish(batch)
    assert (client.answered, under.slab.in_use) == ([], 0)


def test_a_closed_scheduler_fails_what_waits_and_lends_nothing() -> None:
    """And closes once."""
    under, client = scheduler(), Client()
    lease = under.lend(1)
    queued(under, client)
    assert under.close()
    assert not under.close()
    assert [type(error) for error in client.failed] == [ReleasedError]
    for call in (lambda: under.lend(1), lambda: under.settle(lease, 1, Request(client, client, 1))):
        with pytest.raises(ReleasedError, match="'m' was closed"):
            call()


def test_requests_of_one_row_that_share_a_lease_leave_alone() -> None:
    """One that leaves takes out its own row; the others keep their numbers."""
    under, client = scheduler(), Client()
    lease = under.lend(3, some=True)
    assert lease.rows == 3
    request = Request(client, client, 3, requests=3)
    under.settle(lease, 3, request)
    under.withdraw(client, 1)
    batch = under.next_batch(now())
    assert isinstance(batch, Batch)
    assert sorted((member.offset, member.requests) for member in batch.members) == [(0, 1), (2, 1)]


def test_a_paused_scheduler_forms_nothing() -> None:
    """While its process forks."""
    under, client = scheduler(), Client()
    queued(under, client)
    under.paused = True
    assert under.next_batch(now()) is None
    under.paused = False
    assert isinstance(under.next_batch(now()), Batch)


def test_rows_that_belong_together_are_computed_alone() -> None:
    """A model without independent rows has no slab: a lease is a number, and a batch is one request."""
    spec = ModelSpec("m", (X,), (replace(X, name="y"),), Rows.DEPENDENT)
    under, client = scheduler(spec=spec), Client()
    assert under.slab is None
    requests = [Request(client, client, 1) for _ in range(2)]
    for request in requests:
        request.arrays = {"x": np.zeros((3, 2), np.float32)}
        under.settle(under.lend(1), 1, request)
    batch = under.next_batch(now())
    assert isinstance(batch, Batch)
    assert batch.members == requests[:1]
    assert under.settle(NO_LEASE, 0, None) is None
