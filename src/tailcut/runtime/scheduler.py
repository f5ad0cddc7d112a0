"""The scheduler of one model: lends rows, queues requests, forms batches, and counts their results.

All of a model's changing state is here, behind one lock that is held for a microsecond at a time, never while an engine
computes or a handler is called. The serving loop of a worker and of an event loop is the same:

    batch = scheduler.next_batch(now)
    executor.run(batch)
    scheduler.finish(batch)
"""

import threading
import time
from collections.abc import Iterable

from tailcut.batching.forecast import Forecast
from tailcut.batching.policy import Dispatch, DispatchPlace, Wait
from tailcut.batching.queue import PriorityQueue
from tailcut.batching.routing import Router
from tailcut.errors import BatchLostError, DeadlineExceededError, QueueFullError, ReleasedError
from tailcut.memory.slab import RowState
from tailcut.runtime.admission import Admission
from tailcut.runtime.capacity import instances_of, slab_for
from tailcut.runtime.dispatching import Dispatching
from tailcut.runtime.in_flight import InFlight
from tailcut.runtime.limits import Limits
from tailcut.runtime.removal import Removal
from tailcut.runtime.request import NO_LEASE, Batch, Lease, Request, ResponseHandler
from tailcut.runtime.settings import Settings
from tailcut.runtime.statistics import ModelStatistics
from tailcut.spec import ModelSpec

_LATE = "the deadline could no longer be met: the request was not computed"
_LOOP, _WORKER = DispatchPlace.LOOP, DispatchPlace.WORKER
_FILLING, _READY = RowState.FILLING, RowState.READY


class Scheduler:
    """Lends rows, admits and queues requests, forms batches and finishes them. Thread-safe."""

    def __init__(self, spec: ModelSpec, settings: Settings, limits: Limits) -> None:
        batching = settings.batching
        self.spec = spec
        self.max_batch_size = spec.within(batching.max_batch_size) if spec.batched else 1
        self.dispatch = batching.dispatch
        instances = instances_of(settings)
        self.instances = sum(instances)
        self.counts = ModelStatistics()
        self.forecast = Forecast(self.max_batch_size, instances[0])
        self.router = Router(self.max_batch_size, instances) if len(instances) > 1 else None
        self.slab = slab_for(spec, settings, self.max_batch_size, limits)
        self.queue_rows = self.slab.rows if self.slab is not None else limits.queue_rows
        self.paused = False  # while this process forks
        self.closed = False
        self.postponed_rows = 0  # rows of oversized requests that are in no part yet
        self.engine_timeout_s = limits.engine_timeout_s
        self.silence = f"{limits.engine_title} did not answer within {limits.engine_timeout_s:g} s"
        self.queue_setting = limits.queue_setting
        self._admission = Admission(
            spec.name,
            self.forecast,
            self.queue_rows,
            limits.queue_rows,
            instances[0],
            self.slab is not None,
            limits.queue_setting,
        )
        self._dispatching = Dispatching(self.dispatch, batching.max_queue_delay_us * 1000, self.forecast)
        self._lock = threading.Lock()
        self._queue: PriorityQueue[Request] = PriorityQueue()
        self._removal = Removal(self._queue, self.slab, self.forecast, self.counts)
        self._in_flight = InFlight(self.slab, self.forecast, self.router, self.counts)

    def statistics(self) -> dict[str, int | float]:
        """Counts since the start (requests, rows, batches, failures, times in nanoseconds), and the present queue."""
        with self._lock:
            oldest_ns = min((request.ready_ns for request in self._queue.items()), default=0)
            return self.counts.as_dict() | {
                "oldest_ns": time.monotonic_ns() - oldest_ns if oldest_ns else 0,
                "queued": len(self._queue),
                "queued_rows": self._queue.rows,
                "computing": len(self._in_flight),
                "rows_in_use": self.slab.in_use if self.slab else 0,
            }

    def batches_by_rows(self) -> dict[int, tuple[int, int]]:
        """By the rows of a batch: the number of such batches, and their engine time in nanoseconds."""
        with self._lock:
            return self.counts.by_rows.copy()

    @property
    def waiting_rows(self) -> int:
        """The number of rows that wait for an engine now."""
        return self._queue.rows

    @property
    def computing(self) -> int:
        """The number of batches that are being computed."""
        return len(self._in_flight)

    def waiting_ns(self) -> int:
        """How long the workers will take for the waiting rows, in nanoseconds; 0 where the calling thread computes."""
        return 0 if self.dispatch == "inline" else int(self._admission.waiting_ns(self._queue.rows))

    # A request is admitted; rows are lent to it, filled by the caller, and settled.

    def admit(self, rows: int, deadline_ns: int = 0, priority: int = 0, *, requests: int = 1) -> None:
        """Check that a request of this many rows is admitted: the queue has room, and it can meet its deadline.

        Raises:
            TooLargeError: more rows than the queue can ever hold.
            QueueFullError: it is refused; the error has the seconds after which to try again.
        """
        # A batch may go between the parts of oversized requests; another oversized request waits for all of them.
        postponed = self.postponed_rows if rows > self.max_batch_size else 0
        waiting = self._queue.rows + postponed
        now = time.monotonic_ns()
        try:
            self._admission.refuse_size(rows, waiting, now)
            # A request with nothing before it is always admitted: an idle model that is believed to be slow must be
            # able to show that it no longer is.
            if deadline_ns and (waiting or self._in_flight) and self.forecast.is_near(deadline_ns - now, waiting):
                with self._lock:
                    ahead = self._queue.rows_before(priority, deadline_ns) + postponed
                    busy = len(self._in_flight) >= self.instances
                    self._admission.refuse_late(rows, ahead, deadline_ns, now, busy=busy)
        except QueueFullError as error:
            self.counts.refuse(requests, error)
            raise

    def lend(
        self, count: int, deadline_ns: int = 0, priority: int = 0, *, apart: bool = False, some: bool = False
    ) -> Lease:
        """Lend neighbouring rows of the slab, in state FILLING, which must be settled; or just a number of loose rows.

        Args:
            count: the number of rows.
            deadline_ns: of the request (monotonic; 0: none), which is refused if it would miss a near deadline.
            priority: of the request.
            apart: for bodies that arrive in pieces.
            some: the rows are for `count` requests of one row each, and may be fewer than asked for; the caller counts
                the requests that it refuses.

        Raises:
            QueueFullError: no rows are free, or the deadline cannot be met.
            ReleasedError: the model was closed.
        """
        if deadline_ns and self.forecast.is_near(deadline_ns - time.monotonic_ns(), self._queue.rows):
            self.admit(1 if some else count, deadline_ns, priority, requests=0 if some else 1)
        slab, row, lent = self.slab, -1, count
        try:
            with self._lock:
                if self.closed:
                    raise self._released()  # noqa: TRY301  a call costs time
                if slab is None:
                    return Lease(-1, count)
                if some:
                    row, lent = slab.take_some(count)
                else:
                    row = slab.take_apart(count) if apart else slab.take(count)
                if row >= 0:
                    return Lease(row, lent)
        except BaseException:
            if row >= 0:
                self.repair(Lease(row, lent))
            raise
        raise self._full(0 if some else 1)

    def settle(self, lease: Lease, filled: int, request: Request | None, *, at_once: bool = False) -> Batch | None:
        """Queue a request in the first `filled` rows of a lease, and free the others; 0 frees all of them.

        With `at_once`, a request that finds nothing waiting and nothing computing bypasses the queue, if this thread is
        to compute it: its batch is returned, and the caller must run and finish it.

        Raises:
            ReleasedError: the model was closed; the rows have been freed.
        """
        slab = self.slab
        with self._lock:
            if self.closed or request is None or not filled:
                if slab is not None and lease.row >= 0:
                    slab.settle(*lease, 0)
                if request is not None and filled:
                    raise self._released()
                return None
            request.row = row = lease.row
            if slab is None or row < 0:
                pass
            elif filled == lease.rows:
                slab.move(row, filled, _FILLING, _READY)
            else:
                slab.settle(row, lease.rows, filled)
            request.ready_ns = now = time.monotonic_ns()
            if at_once and self._bypasses(filled):
                return self._formed(request, now)
            self._enqueue(request)
        return None

    def bypass(self, request: Request, body: memoryview) -> Batch | None:
        """Lend, fill and settle in one call, as `submit`, for a request that bypasses the queue.

        Returns:
            Its batch, which the caller must run and finish; None where it has to wait, or its rows would not be
            neighbours: then nothing has changed.
        """
        with self._lock:
            slab = self.slab
            if slab is None or self.closed or not self._bypasses(request.count):
                return None
            request.row = row = slab.fill(request.count, body)
            if row < 0:
                return None
            request.ready_ns = now = time.monotonic_ns()
            return self._formed(request, now)

    def submit(self, request: Request, body: memoryview) -> None:
        """Lend, fill and settle in one call, for a body that is exactly the request's rows of the only input.

        That takes 2 us less than separate calls (decision 040).

        Raises:
            QueueFullError: no rows are free, or the deadline cannot be met.
            ReleasedError: the model was closed.
        """
        request.ready_ns = now = time.monotonic_ns()
        if request.deadline_ns and self.forecast.is_near(request.deadline_ns - now, self._queue.rows):
            self.admit(request.count, request.deadline_ns, request.priority)
        slab = self.slab
        assert slab is not None  # noqa: S101  the caller has checked that
        with self._lock:
            if self.closed:
                raise self._released()
            request.row = row = slab.fill(request.count, body)
            if row >= 0:
                self._enqueue(request)
                return
        raise self._full()

    def postpone(self, request: Request, rows: int) -> None:
        """Note that `rows` more rows of an oversized request will be queued later."""
        with self._lock:
            request.rest += rows
            self.postponed_rows += rows

    def resume(self, request: Request, rows: int) -> None:
        """Note that `rows` of these are queued now, or never will be."""
        with self._lock:
            rows = min(rows, request.rest)
            request.rest -= rows
            self.postponed_rows -= rows

    def count_whole(self, whole: Request, ended_ns: int, took_ns: int, *, answered: bool) -> None:
        """Count an oversized request; its parts are counted only as rows and batches."""
        with self._lock:
            if answered:
                self.counts.whole(whole, ended_ns, took_ns)
            else:
                self.counts.fail([whole], ended_ns)

    def cancel(self, request: Request) -> None:
        """Cancel a request whose client has disconnected; rows in use are quarantined until the engine returns."""
        for part in list(request.parts):
            self.cancel(part)
        self.resume(request, request.rest)
        with self._lock:
            if request.cancelled:
                return
            request.cancelled = True
            self._removal.cancel(request)
            if request.running:
                self._in_flight.quarantine(request)

    def withdraw(self, handler: ResponseHandler, number: int) -> None:
        """Cancel one of several requests that are queued as one, if it still waits; see `Removal.withdraw`."""
        with self._lock:
            self._removal.withdraw(handler, number)

    # Batches are formed, run by the caller, and finished.

    def next_batch(self, now_ns: int, where: DispatchPlace = _WORKER, engine_index: int = 0) -> Batch | Wait | None:
        """Form the batch that the policy decides on; the caller must run and finish it.

        Args:
            now_ns: the monotonic time.
            where: where the caller computes. For a loop, the result is also None where the batch is for a worker.
            engine_index: the caller's engine; of several engines, each gets only what it is expected to finish first.

        Returns:
            The batch; or when to call again; or None where there is nothing to compute.
        """
        queue = self._queue
        if not queue.rows:
            return None
        router, in_flight = self.router, self._in_flight
        batch: Batch | None = None
        try:
            with self._lock:
                idle = self.instances - len(in_flight)
                if self.paused or idle <= 0:
                    return None
                # A request that would be late when this batch ends must not take the place of another one in it.
                cost = self.forecast.cost if router is None else router.engines[engine_index].cost
                late = self._removal.take_late(now_ns, int(cost.estimate_ns(cost.best(-(-queue.rows // idle)))))
                if router is None:
                    choice = self._dispatching.decide(queue, now_ns, idle, in_flight.usual_rows)
                else:
                    choice = router.decide(engine_index, queue.rows, now_ns)
                if isinstance(choice, Dispatch) and (where is _WORKER or choice.where is where):
                    batch = Batch(self, queue.take(choice.rows), where, engine_index)
                    in_flight.add(batch)
                    in_flight.expect(batch, now_ns)
            if late:
                _fail(late, _LATE)
        except BaseException:
            if batch is not None:
                self.interrupted(batch)
            self.repair()
            raise
        return batch if batch is not None else choice if isinstance(choice, Wait) else None

    def finish(self, batch: Batch, *, all_here: bool = False) -> bool:
        """Count a batch that has been run, and have it answered; if it failed, each of its requests is tried alone.

        A batch that the loop computed only for clients of its own is answered first, and then counted.

        Args:
            batch: a batch of `next_batch` or `settle`.
            all_here: all of its requests are known to be delivered on this thread.

        Returns:
            Whether it was still running; False where it had been given up, and its requests have been failed.
        """
        if batch.error is not None and batch.requests > 1 and not isinstance(batch.error, BatchLostError):
            return self._finish_apart(batch)
        if batch.where is _LOOP and (all_here or batch.is_all_here()):
            with self._lock:
                if not self._in_flight.end(batch, batch):
                    return False
            try:
                batch.hand_out(batch.members[0].delivery)
            finally:
                with self._lock:
                    self._in_flight.count(batch, 0)
                    self._in_flight.learn_promise(batch)
            return True
        deliveries = {request.delivery for request in batch.members}
        rest = iter(deliveries)
        try:
            with self._lock:
                if not self._in_flight.end(batch, batch):
                    return False
                self._in_flight.count(batch, len(deliveries))
            for delivery in rest:
                delivery.post(batch)
        except BaseException:  # such as that of a signal handler: hand out the answers first
            if batch not in self._in_flight:
                for delivery in rest:
                    delivery.post(batch)
            raise
        return True

    def interrupted(self, batch: Batch) -> None:
        """Fail a batch whose thread was interrupted, for example by an exception of a signal handler."""
        with self._lock:
            if batch.ended_ns and batch not in self._in_flight:
                return
            self._in_flight.begin(batch)
        batch.error = BatchLostError("the thread that computed the batch was interrupted")
        batch.ended_ns = time.monotonic_ns()
        batch.began_ns = batch.began_ns or batch.ended_ns
        self.finish(batch)

    def repair(self, lease: Lease = NO_LEASE) -> None:
        """Recount and free what an exception of a signal handler may have left half done, such as `lease`."""
        slab = self.slab
        with self._lock:
            if slab is not None and lease.row >= 0 and slab.state(lease.row) is _FILLING:
                slab.settle(*lease, 0)
            self._queue.recount()
            self._in_flight.reclaim(self._queue.items())

    def delivered(self, batch: Batch) -> None:
        """Note that one delivery has handed out its part of a batch; after the last one, free the rows."""
        with self._lock:
            self._in_flight.delivered(batch)

    def expire(self) -> list[Batch]:
        """Give up and return the batches whose engine hangs, and fail requests that have waited too long."""
        now = time.monotonic_ns()
        with self._lock:
            hung, failed = self._in_flight.give_up(now - int(self.engine_timeout_s * 1e9))
            late = self._removal.take_late(now)
        _fail(failed, f"{self.silence}: the call was abandoned")
        _fail(late, _LATE)
        return hung

    def close(self) -> bool:
        """Admit nothing more, and fail waiting requests; returns False where it was already closed."""
        with self._lock:
            if self.closed:
                return False
            self.closed = True
            waiting = self._queue.clear()
        for request in waiting:
            request.delivery.post_failure(request, self._released())
        return True

    def lead(self) -> None:
        """Forecast by the fastest engine, when several have been warmed up."""
        with self._lock:
            self._in_flight.lead()

    def forked(self) -> None:
        """In a forked child, close it, with a new lock that no thread of the parent holds."""
        self.closed = True
        self.paused = False
        self._lock = threading.Lock()

    def _bypasses(self, rows: int) -> bool:
        """Whether a request that could be computed at once finds nothing waiting and nothing computing."""
        if self._queue.rows or self._in_flight or self.paused:
            return False
        return self._dispatching.bypasses(rows, self._in_flight.usual_rows)

    def _formed(self, request: Request, now_ns: int) -> Batch:
        """The batch of a request that bypasses the queue."""
        batch = Batch(self, [request], _LOOP)
        self._in_flight.add(batch)
        self.forecast.formed(request.key, request.count, now_ns, now_ns)
        return batch

    def _enqueue(self, request: Request) -> None:
        self._queue.append(request)
        if self._dispatching.max_queue_delay_ns:
            self._dispatching.arrived(request)

    def _finish_apart(self, batch: Batch) -> bool:
        with self._lock:
            batch.members = [single for request in batch.members for single in request.singles()]
        for request in tuple(batch.members):
            alone = Batch(self, [request], engine_index=batch.engine_index)
            batch.began_ns = time.monotonic_ns()  # each try gets the full engine timeout
            batch.executor.run(alone)
            with self._lock:
                if not self._in_flight.end(alone, batch):
                    return False
                self._in_flight.count(alone, 1)
            request.delivery.post(alone)
        return True

    def _full(self, requests: int = 1) -> QueueFullError:
        error = self._admission.full(self._queue.rows, time.monotonic_ns())
        self.counts.refuse(requests, error)
        return error

    def _released(self) -> ReleasedError:
        return ReleasedError(f"model {self.spec.name!r} was closed")


def _fail(requests: Iterable[Request], message: str) -> None:
    for request in requests:
        request.delivery.post_failure(request, DeadlineExceededError(message))
