"""Where requests come to a model: rows lent, tickets queued or refused, and taken out again when their clients leave.

All of a model's state is here, behind one lock that is held for a microsecond at a time, never while an engine computes
or a sink is told. What becomes of what is queued is in `desk.py`.
"""

import logging
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from tailcut.batching.forecast import Forecast
from tailcut.batching.queue import PriorityQueue
from tailcut.errors import CapacityError, QueueFullError, ReleasedError, TooLargeError
from tailcut.memory.slab import RowState, Slab
from tailcut.runtime.batch import Batch, ResponseHandler, Ticket
from tailcut.runtime.limits import Limits, rows_for
from tailcut.runtime.profile import Settings
from tailcut.runtime.statistics import ModelStatistics
from tailcut.spec import ModelSpec

_log = logging.getLogger("tailcut")
_GAP_WEIGHT = 0.05  # of the newest gap between arrivals
_SHUT_NS = 5_000_000  # for so long a refusal stands at most: what is learned meanwhile must count


class Due(NamedTuple):
    """A deadline that cannot be met: when it is, the time now, and from when on one like it could be met.

    The last of `rows` is the request's own; `ahead` of them go before it.
    """

    deadline_ns: int
    now_ns: int
    opens_ns: int
    rows: int
    ahead: int
    busy: bool


class Reception:
    """Lends rows, queues tickets and refuses them: a model's side to whoever asks."""

    def __init__(self, spec: ModelSpec, settings: Settings, limits: Limits) -> None:
        batching = settings.batching
        self.spec = spec
        self.max_batch_size = batching.max_batch_size if spec.batched else 1
        self.inline = batching.dispatch == "inline"
        self._adaptive = batching.dispatch == "adaptive"
        self.counts = ModelStatistics()
        self.slab: Slab | None = None
        self._max_queue_delay_ns = batching.max_queue_delay_us * 1000
        self._engine_timeout_s = limits.engine_timeout_s
        self._lock = threading.Lock()
        self._queue: PriorityQueue[Ticket] = PriorityQueue()
        self._rest_rows = 0  # of large requests, in no part yet
        self._running: dict[Batch, None] = {}  # in the order in which they were formed
        self._instances = 1 if self.inline else settings.engine.instances
        self.forecast = Forecast(self.max_batch_size, self._instances)
        self.cost = self.forecast.cost
        self._usual_rows = 1.0  # of a batch
        self._last_arrival_ns = 0
        self._gap_ns = 0.0
        self._closed = False
        self._paused = False  # while this process forks
        self.queue_rows = self._wished_rows = limits.queue_rows
        if batching.bind and spec.fixed_rows:
            self.queue_rows = rows_for(spec, self.max_batch_size, limits)
            huge_pages = settings.memory.huge_pages
            self.slab = Slab(
                spec.inputs, spec.outputs, self.queue_rows, block=self.max_batch_size, huge_pages=huge_pages
            )
            if settings.memory.prefault:
                self.slab.prefault()
            if settings.memory.lock:
                _lock(self.slab, spec.name)

    def statistics(self) -> dict[str, int | float]:
        """Counts since the start (requests, rows, batches, failures, times in nanoseconds), and the queue as it is."""
        with self._lock:
            oldest_ns = min((ticket.ready_ns for ticket in self._queue.items()), default=0)
            return self.counts.as_dict() | {
                "oldest_ns": time.monotonic_ns() - oldest_ns if oldest_ns else 0,
                "queued": len(self._queue),
                "queued_rows": self._queue.rows,
                "computing": len(self._running),
                "rows_in_use": self.slab.in_use if self.slab else 0,
            }

    @property
    def refusal(self) -> str:
        """Why the newest refused request was refused."""
        return self.counts.refusal

    def batches_by_rows(self) -> dict[int, tuple[int, int]]:
        """How many batches of so many rows were computed, and their engine time in nanoseconds."""
        with self._lock:
            return self.counts.by_rows.copy()

    # Reserve a row, fill it, submit.

    def reserve(self, count: int = 1, *, apart: bool = False) -> int:
        """Lend neighbouring rows of the slab, state FILLING; `apart` for bodies that arrive in pieces.

        Raises:
            QueueFullError: no rows are free.
        """
        slab = self.slab
        assert slab is not None  # noqa: S101  the caller chose this way because there is one
        with self._lock:
            row = slab.take_apart(count) if apart else slab.take(count)
        if row < 0:
            raise self._full()
        return row

    def lend(self, count: int, deadline_ns: int, priority: int) -> tuple[int, int]:
        """Lend neighbouring rows for some of `count` requests of one row: the first one's number, and how many.

        Raises:
            QueueFullError: no rows are free, or the deadline cannot be met; all of them are counted as refused.
            ReleasedError: the model was closed.
        """
        now = time.monotonic_ns()
        if deadline_ns and self.forecast.is_near(deadline_ns - now, self._queue.rows):
            self.admit(1, deadline_ns, priority, requests=count)
        slab = self.slab
        assert slab is not None  # noqa: S101  as in reserve
        with self._lock:
            if self._closed:
                raise ReleasedError(f"model {self.spec.name!r} was closed")
            row, rows = slab.take_some(count)
            if row >= 0:
                return row, rows
        raise self._full(count)

    def settle(self, row: int, lent: int, ticket: Ticket | None) -> None:
        """Queue a ticket of the requests that came into the first of the rows lent; the others go back.

        Raises:
            ReleasedError: the model was closed.
        """
        slab = self.slab
        assert slab is not None  # noqa: S101  as in reserve
        with self._lock:
            if ticket is None or self._closed:
                slab.settle(row, lent, 0)
            else:
                slab.settle(row, lent, ticket.count)
                ticket.ready_ns = time.monotonic_ns()
                self._enqueue(ticket)
                return
        if ticket is not None:
            raise ReleasedError(f"model {self.spec.name!r} was closed")

    def withdraw(self, sink: ResponseHandler, number: int) -> None:
        """The client of one request of several left: if it still waits, it will not be computed."""
        with self._lock:
            self.counts.cancelled += 1
            for ticket in self._queue.items():
                if ticket.sink is sink and ticket.offset <= number < ticket.offset + ticket.requests:
                    break
            else:
                return
            self._queue.remove(ticket)
            if number > ticket.offset:
                self._queue.append(ticket.split(number - ticket.offset))
            gone = ticket.split(1) if ticket.requests > 1 else ticket
            if gone is not ticket:
                self._queue.append(ticket)
            self._free(gone)

    def give_back(self, row: int, count: int = 1) -> None:
        """A reserved row whose body will never be complete."""
        assert self.slab is not None  # noqa: S101  as in reserve
        with self._lock:
            self.slab.move(row, count, RowState.FILLING, RowState.FREE)

    def submit(self, ticket: Ticket) -> None:
        """The ticket's rows are complete: queue it. The caller kicks.

        Raises:
            ReleasedError: the model was closed.
        """
        ticket.ready_ns = time.monotonic_ns()
        with self._lock:
            if self._closed:
                raise ReleasedError(f"model {self.spec.name!r} was closed")
            if ticket.row >= 0 and self.slab is not None:
                self.slab.move(ticket.row, ticket.count, RowState.FILLING, RowState.READY)
            self._enqueue(ticket)

    def submit_body(self, ticket: Ticket, body: memoryview) -> None:
        """Reserve, fill and submit in one: for a whole body that is exactly the ticket's rows. The caller kicks.

        Raises:
            QueueFullError: no rows are free, or the deadline cannot be met.
            ReleasedError: the model was closed.
        """
        ticket.ready_ns = time.monotonic_ns()
        if ticket.deadline_ns and self.forecast.is_near(ticket.deadline_ns - ticket.ready_ns, self._queue.rows):
            self.admit(ticket.count, ticket.deadline_ns, ticket.priority)
        slab = self.slab
        assert slab is not None  # noqa: S101  as in reserve
        with self._lock:
            if self._closed:
                raise ReleasedError(f"model {self.spec.name!r} was closed")
            ticket.row = row = slab.fill(ticket.count, body)
            if row >= 0:
                self._enqueue(ticket)
                return
        raise self._full()

    def submit_bodies(self, ticket: Ticket, bodies: Sequence[memoryview]) -> None:
        """As `submit_body`, with a body of the ticket's rows for each input, for what has been admitted.

        Raises:
            QueueFullError: no rows are free.
            ReleasedError: the model was closed.
        """
        slab = self.slab
        assert slab is not None  # noqa: S101  as in reserve
        row = ticket.row = self.reserve(ticket.count)
        for target, size, body in zip(slab.input_bytes, slab.row_bytes, bodies, strict=True):
            target[row * size : row * size + len(body)] = body
        try:
            self.submit(ticket)
        except ReleasedError:
            self.give_back(row, ticket.count)
            raise

    def _enqueue(self, ticket: Ticket) -> None:
        self._queue.append(ticket)
        if self._max_queue_delay_ns:
            gap = ticket.ready_ns - self._last_arrival_ns
            self._last_arrival_ns = ticket.ready_ns
            self._gap_ns += _GAP_WEIGHT * (min(gap, 1_000_000_000) - self._gap_ns)

    def admit(self, rows: int, deadline_ns: int = 0, priority: int = 0, *, requests: int = 1) -> None:
        """Refuse at the door what finds the queue full or cannot make its deadline.

        Raises:
            TooLargeError: more rows than the queue can ever hold.
            QueueFullError: with the seconds after which another try makes sense.
        """
        # One batch has its turn between the parts of large requests; another large request has it behind them.
        rest = self._rest_rows if rows > self.max_batch_size else 0
        waiting = self._queue.rows + rest
        if rows > self.queue_rows and (waiting or self.slab is not None):
            raise TooLargeError(self._too_many(rows))
        if waiting + rows > max(self.queue_rows, 0 if waiting else rows):
            raise self._full(requests)
        # With nothing to wait for it is always let in: what an idle model believes to be slow must be able to prove it.
        now = time.monotonic_ns()
        if not (deadline_ns and (waiting or self._running) and self.forecast.is_near(deadline_ns - now, waiting)):
            return
        with self._lock:
            ahead = self._queue.rows_before(priority, deadline_ns) + rest
            rows += ahead
            busy = len(self._running) >= self._instances
            opens_ns = self.forecast.opens_ns(deadline_ns, rows, now, busy=busy)
        if opens_ns > now:
            raise self._late(requests, Due(deadline_ns, now, opens_ns, rows, ahead, busy=busy))

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for an engine now."""
        return self._queue.rows

    def waiting_ns(self) -> int:
        """How long the workers will take for what waits; 0 where the asking thread is the one that computes."""
        return 0 if self.inline else int(self.cost.batches(self._queue.rows)[1] / self._instances)

    def postpone(self, ticket: Ticket, rows: int) -> None:
        """So many rows of a large request will be queued later."""
        with self._lock:
            ticket.rest += rows
            self._rest_rows += rows

    def resume(self, ticket: Ticket, rows: int) -> None:
        """So many of them are queued now, or never."""
        with self._lock:
            rows = min(rows, ticket.rest)
            ticket.rest -= rows
            self._rest_rows -= rows

    def cancel(self, ticket: Ticket) -> None:
        """The client left: its queued work goes with it; rows that the engine has are quarantined until it returns."""
        for part in list(ticket.parts):
            self.cancel(part)
        self.resume(ticket, ticket.rest)
        with self._lock:
            if ticket.cancelled:
                return
            ticket.cancelled = True
            self.counts.cancelled += 1
            if ticket.running:
                self._quarantine(ticket)
            elif self._queue.remove(ticket):
                self._free(ticket)

    def _quarantine(self, ticket: Ticket) -> None:
        if ticket.row >= 0 and self.slab is not None and self.slab.state(ticket.row) is RowState.RUNNING:
            self.slab.move(ticket.row, ticket.count, RowState.RUNNING, RowState.ABANDONED)

    def _free(self, ticket: Ticket) -> None:
        """Give back the rows of a ticket that was queued and will not compute."""
        if ticket.row >= 0 and self.slab is not None:
            self.slab.move(ticket.row, ticket.count, RowState.READY, RowState.FREE)

    def _too_many(self, rows: int) -> str:
        held = f"the request has {rows} rows, and the queue of model {self.spec.name!r} holds {self.queue_rows}"
        if self.queue_rows >= self._wished_rows:
            return f"{held}: send fewer at a time, or raise --queue"
        return f"{held}, which is as many as its memory holds: send fewer at a time"

    def _full(self, requests: int = 1) -> QueueFullError:
        """No room for so many requests: until a quarter of a batch has passed; better when half of the queue has."""
        work_ns = self.cost.batches(self._queue.rows)[1] / self._instances
        opens_ns = time.monotonic_ns() + int(min(self.cost.limit_ns / 4, _SHUT_NS))
        message = f"model {self.spec.name!r} has no room for more requests: {_duration(work_ns)} of work is waiting"
        error = QueueFullError(message, _pause_s(work_ns / 2), opens_ns)
        self.counts.refuse(requests, error)
        return error

    def _late(self, requests: int, due: Due) -> QueueFullError:
        """The deadline cannot be met: better when enough of the work that goes before is done."""
        left_ns = due.deadline_ns - due.now_ns
        done_ns, ahead_ns = (
            self.forecast.done_ns(rows, due.now_ns, busy=due.busy) - due.now_ns for rows in (due.rows, due.ahead)
        )
        message = f"cannot meet the {_duration(left_ns)} deadline: "
        if ahead_ns < left_ns:
            message += f"the request takes {_duration(done_ns - ahead_ns)}, and "
        message += f"{_duration(ahead_ns)} of work is ahead"
        if done_ns < left_ns:
            message += f", with a safety margin of {_rounded(100 * (1 - self.forecast.trust), 1)} %"
        opens_ns = min(due.opens_ns, due.now_ns + int(min(self.cost.limit_ns, _SHUT_NS)))
        pause_s = _pause_s(min(due.opens_ns - due.now_ns, left_ns / 2))
        error = QueueFullError(message, pause_s, opens_ns, late=True)
        self.counts.refuse(requests, error)
        return error


def _lock(slab: Slab, name: str) -> None:
    """Lock the slab's memory; where that is not allowed the model is served without."""
    try:
        slab.lock()
    except CapacityError as error:
        _log.warning("%s: memory.lock has no effect: %s", name, error)


def _duration(left_ns: float) -> str:
    """A time as a client may have named it, in two digits: few different messages are few to write."""
    left_ns = max(0.0, left_ns)
    return f"{_rounded(left_ns / 1e9)} s" if left_ns >= 999_000_000 else f"{_rounded(left_ns / 1e6)} ms"


def _rounded(number: float, digits: int = 2) -> str:
    """A number in so many digits, without an exponent."""
    return f"{float(f'{number:.{digits}g}'):g}"


def _pause_s(pause_ns: float) -> float:
    """When another try makes sense: in seconds, a millisecond at least, in two digits as messages are."""
    return float(f"{max(0.001, pause_ns / 1e9):.2g}")
