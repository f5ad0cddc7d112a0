"""Where a model's requests travel in batches, and are counted: the workers' and the watchdog's side of a model."""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from tailcut.batching.policy import Dispatch, Queue, Wait, decide
from tailcut.errors import BatchLostError, DeadlineExceededError, EngineError, TailcutError
from tailcut.memory.slab import RowState
from tailcut.runtime.batch import Batch, Executor, Ticket, move_rows
from tailcut.runtime.crew import WorkerPool
from tailcut.runtime.reception import Reception

_log = logging.getLogger("tailcut")
_ROWS_WEIGHT = 0.1  # of the newest batch


class Desk(Reception):
    """Forms batches of what has been queued, has them computed, and takes them back."""

    _pool: WorkerPool
    kick: Callable[..., bool]

    # The workers' way in.

    now_ns = staticmethod(time.monotonic_ns)

    def next_batch(self) -> Batch | Wait | None:
        """Form the batch that the policy asks for; the caller must compute it."""
        if not self._queue.rows:
            return None
        now = time.monotonic_ns()
        batch: Batch | None = None
        with self._lock:
            if self._paused or len(self._running) >= self._instances:
                return None
            # Who would be late already when the batch that leaves now is back takes nobody's place in it.
            rows = self.cost.best(-(-self._queue.rows // (self._instances - len(self._running))))
            late = self._take_late(now, int(self.cost.estimate_ns(rows)))
            choice = self._decide(now)
            if isinstance(choice, Dispatch):
                batch = self._form(choice.rows)
                first = batch.tickets[0]
                self.forecast.formed(first.key, batch.rows, first.ready_ns, now)
        if late:
            _tell_late(late)
        return batch if batch is not None else choice if isinstance(choice, Wait) else None

    def compute(self, batch: Batch, executor: Executor) -> None:
        """Run a batch and post its answers home; when it fails, each of its tickets gets a try of its own."""
        _run(batch, executor)
        self._conclude(batch, executor)

    def form_alone(self, ticket: Ticket, lent: int) -> Batch | None:
        """A batch of what has just come into the first of the rows lent, past the queue; the caller must compute it.

        None where others wait, compute, or are waited for, or where it is more than is worth taking at once: then it is
        to be queued.
        """
        rows, slab = ticket.count, self.slab
        assert slab is not None  # noqa: S101  as in reserve
        with self._lock:
            if (
                self._queue.rows
                or self._running
                or self._closed
                or self._max_queue_delay_ns
                or rows > self.cost.best(rows)
            ):
                return None
            slab.settle(ticket.row, lent, rows)
            ticket.ready_ns = now = time.monotonic_ns()
            ticket.running = True
            batch = Batch(self, [ticket])
            self._running[batch] = None
            slab.close_block()
            slab.move(ticket.row, rows, RowState.READY, RowState.RUNNING)
            self.forecast.formed(ticket.key, rows, now, now)
        return batch

    def compute_alone(self, batch: Batch, executor: Executor) -> None:
        """As `compute`, for a batch of one ticket of this thread: told at once, and counted afterwards."""
        _run(batch, executor)
        if batch.error is not None:
            self._conclude(batch, executor)
            return
        with self._lock:
            given_up = self._running.pop(batch, self) is self
        if given_up:
            self._return(batch)
            return
        ticket = batch.tickets[0]
        batch.hand_out(ticket.home)
        with self._lock:
            self._count(batch)
            if ticket.deadline_ns:
                self.forecast.told(ticket.ready_ns, ticket.deadline_ns, time.monotonic_ns())
            if self.slab is not None:
                self.slab.move(ticket.row, batch.rows, RowState.RUNNING, RowState.FREE)

    def _conclude(self, batch: Batch, executor: Executor) -> None:
        """What comes after a batch's engine call."""
        if batch.error is None or batch.requests == 1 or isinstance(batch.error, BatchLostError):
            self._finish(batch, batch)
            return
        with self._lock:
            batch.tickets = [single for ticket in batch.tickets for single in ticket.singles()]
        for ticket in tuple(batch.tickets):
            alone = Batch(self, [ticket])
            batch.began_ns = time.monotonic_ns()  # each try has the time that a batch has
            _run(alone, executor)
            if not self._finish(alone, batch):
                return

    def delivered(self, batch: Batch) -> None:
        """One of the batch's homes has handed out its part; after the last one the rows go back."""
        first = batch.tickets[0]
        with self._lock:
            if first.deadline_ns:
                self.forecast.told(first.ready_ns, first.deadline_ns, time.monotonic_ns())
            batch.homes_left -= 1
            if batch.homes_left == 0 and self.slab is not None:
                move_rows(self.slab, batch, RowState.DONE, RowState.FREE)

    # The watchdog's way in.

    def look_after(self) -> None:
        """Give up the batches whose engine hangs, and tell the requests that have been waiting too long."""
        now = time.monotonic_ns()
        hung, told = self._give_up(now - int(self._engine_timeout_s * 1e9))
        for ticket in told:
            error = DeadlineExceededError(
                f"the engine did not answer within {self._engine_timeout_s:g} s: it was given up"
            )
            ticket.home.post_failure(ticket, error)
        for batch in hung:
            _log.error("%s: an engine call of %d rows hangs: replacing its worker", self.spec.name, batch.rows)
            self._pool.replace(batch)
        with self._lock:
            late = self._take_late(now)
        _tell_late(late)

    def _give_up(self, began_before_ns: int) -> tuple[list[Batch], list[Ticket]]:
        """Take batches off the list of running ones, their rows in quarantine until the engine returns, if ever."""
        told: list[Ticket] = []
        with self._lock:
            hung = [batch for batch in self._running if 0 < batch.began_ns < began_before_ns]
            for batch in hung:
                del self._running[batch]
                for ticket in batch.tickets:
                    if not ticket.cancelled:
                        ticket.cancelled = True
                        self._quarantine(ticket)
                        told.append(ticket)
            self.counts.hung += len(hung)
            self.counts.failed += sum(ticket.requests for ticket in told)
        return hung, told

    def _finish(self, batch: Batch, formed: Batch) -> bool:
        """Count a batch and post it home; False when the batch it was formed as has been given up meanwhile."""
        homes = {ticket.home for ticket in batch.tickets}
        batch.homes_left = len(homes)
        with self._lock:
            kept = formed in self._running
            if kept:
                if batch is not formed:
                    formed.tickets.remove(batch.tickets[0])
                if batch is formed or not formed.tickets:
                    del self._running[formed]
                self._count(batch)
                if self.slab is not None:
                    move_rows(self.slab, batch, RowState.RUNNING, RowState.DONE)
        if not kept:
            self._return(formed)
            return False
        for home in homes:
            home.post(batch)
        return True

    def _return(self, formed: Batch) -> None:
        """A batch that had been given up is back after all: nobody waits for it."""
        with self._lock:
            if self.slab is not None:
                move_rows(self.slab, formed, RowState.RUNNING, RowState.FREE)
        self._pool.returned(formed)

    def _count(self, batch: Batch) -> None:
        """Add a batch to the counts, and learn from it."""
        self.counts.batch(batch)
        self._usual_rows += _ROWS_WEIGHT * (batch.rows - self._usual_rows)
        learn, key = batch.error is None, batch.tickets[0].key
        self.forecast.ended(key, batch.rows, batch.began_ns, batch.ended_ns, learn=learn)

    def _take_late(self, now: int, ahead_ns: int = 0) -> list[Ticket]:
        """Take out of the queue what is due before `now + ahead_ns`; not the last of all if it is not late yet.

        What is believed to be too slow must be computed now and then, or nobody would learn that it no longer is.
        """
        late = self._queue.take_late(now + ahead_ns)
        if late:
            if not self._queue.rows and late[-1].deadline_ns >= now:
                self._queue.append(late.pop())
            self.counts.expired += sum(ticket.requests for ticket in late)
            for ticket in late:
                self._free(ticket)
            for ticket in late[:1]:  # one promise: what follows it was late by the same delay
                self.forecast.told(ticket.ready_ns, ticket.deadline_ns, ticket.deadline_ns)
        return late

    def _decide(self, now: int) -> Dispatch | Wait | None:
        head = self._queue.head()
        if head is None:
            return None
        idle = self._instances - len(self._running)
        cost = self.forecast.of(head.key)
        return decide(Queue(self._queue.rows, head.ready_ns, self._gap_ns, idle), now, cost, self._max_queue_delay_ns)

    def _form(self, rows: int) -> Batch:
        tickets = self._queue.take(rows)
        for ticket in tickets:
            ticket.running = True
        batch = Batch(self, tickets)
        self._running[batch] = None
        if self.slab is not None:
            self.slab.close_block()
            move_rows(self.slab, batch, RowState.READY, RowState.RUNNING)
        return batch


def _run(batch: Batch, executor: Executor) -> None:
    """Have the engine compute; what it raises becomes the batch's error."""
    batch.thread = threading.get_ident()
    batch.began_ns = time.monotonic_ns()
    try:
        executor.run(batch)
    except Exception as error:  # noqa: BLE001  whatever an engine raises must cost this batch only
        batch.error = error if isinstance(error, TailcutError) else EngineError(f"the engine failed: {error}")
    batch.ended_ns = time.monotonic_ns()


def _tell_late(tickets: Iterable[Ticket]) -> None:
    for ticket in tickets:
        error = DeadlineExceededError("the deadline could not be met any more: the request was not computed")
        ticket.home.post_failure(ticket, error)
