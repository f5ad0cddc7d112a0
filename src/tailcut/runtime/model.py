"""A loaded model: lends rows, queues tickets, forms batches, keeps the count.

All state behind one lock, held for a microsecond at a time and never while an engine computes or a sink is told.
Dispatch is either by worker threads, or inline: on the thread that kicks, for models whose batch costs less than
waking a thread (about 20 us).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from tailcut.batching.cost import CostModel
from tailcut.batching.policy import Dispatch, Queue, Wait, decide
from tailcut.batching.queue import Lanes
from tailcut.engines import open_engine
from tailcut.engines.base import Engine
from tailcut.errors import DeadlineExceededError, EngineError, QueueFullError, ReleasedError, TailcutError
from tailcut.memory.slab import RowState, Slab
from tailcut.runtime.batch import ArrayExecutor, Batch, Executor, Home, RowExecutor, Sink, Ticket, move_rows
from tailcut.runtime.crew import Crew
from tailcut.runtime.home import AnyThread, EventSink, FutureSink, LoopHome
from tailcut.runtime.inputs import Arrays, check_inputs, row_key
from tailcut.runtime.limits import Limits, rows_for
from tailcut.runtime.profile import BatchingSettings, Profile, Settings
from tailcut.runtime.split import split_ticket
from tailcut.runtime.statistics import ModelStatistics
from tailcut.runtime.warmup import warm_up
from tailcut.runtime.watchdog import Watchdog
from tailcut.spec import ModelSpec

_log = logging.getLogger("tailcut")
SAFE_SETTINGS = Settings(batching=BatchingSettings(max_batch=32))  # for a bare model: gathers, never waits
_GAP_WEIGHT = 0.05  # of the newest gap between arrivals


class Model:
    """A model that answers requests from any number of threads and event loops, batched with each other.

    Use `Model.open`. Thread-safe throughout, except that `close` must be the last call.
    """

    def __init__(self, profile: Profile, engine: Engine, limits: Limits = Limits()) -> None:  # noqa: B008  frozen
        batching = profile.settings.batching
        self.profile = profile
        self.spec: ModelSpec = engine.spec
        self.max_batch = batching.max_batch if self.spec.batched else 1
        self.inline = batching.dispatch == "inline"
        self.cost = CostModel(self.max_batch)
        self.counts = ModelStatistics()
        self.slab: Slab | None = None
        self._hold_ns = batching.hold_us * 1000
        self._lock = threading.Lock()
        self._queue: Lanes[Ticket] = Lanes()
        self._running: dict[Batch, None] = {}  # in the order in which they were formed
        self._instances = 1 if self.inline else profile.settings.engine.instances
        self._expected_end_ns = 0.0  # of the batch formed last
        self._last_arrival_ns = 0
        self._gap_ns = 0.0
        self._closed = False
        self._homes: dict[asyncio.AbstractEventLoop, LoopHome] = {}
        self.queue_rows = limits.queue_rows
        if batching.bind and self.spec.fixed_rows:
            self.queue_rows = rows_for(self.spec, self.max_batch, limits)
            memory = profile.settings.memory
            self.slab = Slab(
                self.spec.inputs, self.spec.outputs, self.queue_rows, block=self.max_batch, huge_pages=memory.huge_pages
            )
            if memory.prefault:
                self.slab.prefault()
        executors = [self._executor(engine) for _ in range(self._instances)]
        for executor in executors:
            warm_up(self, self.spec, executor, self.cost, self.slab)
        self._inline_executor = executors[0]
        self._crew = Crew(self, engine, self._reopen, self._executor)
        for executor in () if self.inline else executors:
            self._crew.hire(executor)
        self._hang_s = limits.hang_s
        self._watchdog = Watchdog(self, limits.hang_s, self.spec.name)

    @classmethod
    def open(cls, source: str | Path | Profile, *, limits: Limits = Limits()) -> Self:  # noqa: B008  frozen
        """Load a model file (.onnx), a profile file (.toml) or a Profile, and warm it up.

        Raises:
            ModelFileError: the model is missing, empty or corrupt.
            ProfileError: the profile is corrupt, of a later schema, or for another model.
            UnsupportedError: a setting that this machine or engine does not have.
        """
        profile = source if isinstance(source, Profile) else open_profile(Path(source))
        path = Path(profile.model.path)
        engine = open_engine(path, profile.settings.engine, profile.model.name)
        try:
            return cls(profile, engine, limits)
        except BaseException:
            engine.close()
            raise

    # The library's way in.

    async def infer(
        self, inputs: Mapping[str, ArrayLike], *, timeout_s: float | None = None, priority: int = 0
    ) -> dict[str, np.ndarray]:
        """Compute the outputs for some rows, sharing a batch with whoever else asks.

        Who names a deadline (`timeout_s`) that is earlier than another's, or a smaller `priority`, is served before it:
        1 is the first, 0 stands for none named (100), and larger numbers give way to everybody else.

        Raises:
            InvalidInputError: an input does not fit; the message names it, what was expected, and what came.
            QueueFullError: too much is waiting already.
            DeadlineExceededError: `timeout_s` passed.
            EngineError: the engine failed on these inputs.
        """
        arrays, rows = check_inputs(self.spec, inputs)
        loop = asyncio.get_running_loop()
        home = self._home_of(loop)
        sink = FutureSink(loop.create_future())
        ticket = self.start(arrays, rows, sink, home, self._deadline(timeout_s), priority=priority)
        home.kick_soon(self)
        try:
            outputs = await sink.future
        except asyncio.CancelledError:
            self.cancel(ticket)
            raise
        return dict(zip(self.spec.output_names, outputs, strict=True))

    def infer_sync(
        self, inputs: Mapping[str, ArrayLike], *, timeout_s: float | None = None, priority: int = 0
    ) -> dict[str, np.ndarray]:
        """As `infer`, for a thread that may block."""
        arrays, rows = check_inputs(self.spec, inputs)
        sink = EventSink()
        self.start(arrays, rows, sink, _ANY_THREAD, self._deadline(timeout_s), priority=priority)
        self.kick()
        sink.event.wait()
        if sink.error is not None:
            raise sink.error
        return dict(zip(self.spec.output_names, sink.outputs or [], strict=True))

    def statistics(self) -> dict[str, int | float]:
        """Counts since the start (requests, rows, batches, failures, times in nanoseconds), and the queue as it is."""
        with self._lock:
            return self.counts.as_dict() | {
                "queued_rows": self._queue.rows,
                "rows_in_use": self.slab.in_use if self.slab else 0,
            }

    def close(self) -> None:
        """Fail what waits, end the workers, free the engine. Calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting = self._queue.clear()
        for ticket in waiting:
            ticket.home.post_failure(ticket, ReleasedError(f"model {self.spec.name!r} was closed"))
        self._watchdog.stop()
        self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The server's way in: reserve a row, fill it, submit.

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
            self.counts.refused += 1
            raise self._full()
        return row

    def give_back(self, row: int, count: int = 1) -> None:
        """A reserved row whose body will never be complete."""
        assert self.slab is not None  # noqa: S101  as in reserve
        with self._lock:
            self.slab.move(row, count, RowState.FILLING, RowState.FREE)

    def submit(self, ticket: Ticket) -> None:
        """The ticket's rows are complete: queue it. The caller kicks."""
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
        """
        ticket.ready_ns = time.monotonic_ns()
        # Nearly always there is time for every waiting row in a batch of its own, and nothing closer to be asked.
        if 0 < ticket.deadline_ns - ticket.ready_ns < self.cost.limit_ns * (2 + self._queue.rows):
            self.admit(ticket.count, ticket.deadline_ns, ticket.priority)
        slab = self.slab
        assert slab is not None  # noqa: S101  as in reserve
        with self._lock:
            ticket.row = row = slab.fill(ticket.count, body)
            if row >= 0:
                self._enqueue(ticket)
                return
            self.counts.refused += 1
        raise self._full()

    def _enqueue(self, ticket: Ticket) -> None:
        self._queue.append(ticket)
        if self._hold_ns:
            gap = ticket.ready_ns - self._last_arrival_ns
            self._last_arrival_ns = ticket.ready_ns
            self._gap_ns += _GAP_WEIGHT * (min(gap, 1_000_000_000) - self._gap_ns)

    def start(  # noqa: PLR0913  a ticket is its parameters
        self, arrays: Arrays, rows: int, sink: Sink, home: Home, deadline_ns: int = 0, *, priority: int = 0
    ) -> Ticket:
        """Queue checked arrays: through rows of the slab, as loose arrays, or in parts when over the largest batch.

        Raises:
            QueueFullError: too much is waiting already, or the deadline cannot be met.
        """
        self.admit(rows, deadline_ns, priority)
        if rows > self.max_batch:
            return split_ticket(self, arrays, rows, sink, home, deadline_ns, priority)
        ticket = self.prepare(arrays, rows, sink, home, deadline_ns, priority)
        self.submit(ticket)
        return ticket

    def prepare(  # noqa: PLR0913, PLR0917  as in start
        self, arrays: Arrays, rows: int, sink: Sink, home: Home, deadline_ns: int, priority: int
    ) -> Ticket:
        """A ticket with its inputs in place, ready to be submitted.

        Raises:
            QueueFullError: no rows are free.
        """
        ticket = Ticket(sink, home, rows, deadline_ns=deadline_ns, priority=priority)
        if self.slab is None:
            ticket.arrays = arrays
            ticket.key = row_key(self.spec, arrays)
        else:
            row = ticket.row = self.reserve(rows)
            for target, source in zip(self.slab.inputs, arrays.values(), strict=True):
                target[row : row + rows] = source
        return ticket

    def forget(self, ticket: Ticket) -> None:
        """A prepared ticket that will not be submitted."""
        if ticket.row >= 0:
            self.give_back(ticket.row, ticket.count)

    def admit(self, rows: int, deadline_ns: int = 0, priority: int = 0) -> None:
        """Refuse at the door what finds the queue full or cannot make its deadline.

        Raises:
            QueueFullError: with the seconds after which another try makes sense.
        """
        waiting = self._queue.rows
        if waiting + rows > max(self.queue_rows, 0 if waiting else rows):
            self.counts.refused += 1
            raise self._full()
        if deadline_ns and waiting and self._finish_ns(rows, deadline_ns, priority) > deadline_ns:
            self.counts.refused += 1
            raise self._full()

    def _finish_ns(self, rows: int, deadline_ns: int, priority: int) -> float:
        """When a newcomer's rows would be computed, by what was learned."""
        now = time.monotonic_ns()
        with self._lock:
            rows += self._queue.rows_before(priority, deadline_ns)
            busy_ns = max(0.0, self._expected_end_ns - now) if len(self._running) >= self._instances else 0.0
        return now + (busy_ns + self.cost.wait_ns(rows)) / self._instances

    def cancel(self, ticket: Ticket) -> None:
        """The client left: its queued work goes with it; rows that the engine has are quarantined until it returns."""
        for part in ticket.parts:
            self.cancel(part)
        with self._lock:
            if ticket.cancelled:
                return
            ticket.cancelled = True
            self.counts.cancelled += 1
            if ticket.running:
                self._quarantine(ticket)
            elif self._queue.remove(ticket):
                self._free(ticket)

    def kick(self) -> None:
        """Have what is ready computed: here and now when inline, else by an idle worker."""
        if not self.inline:
            # A worker that computes looks again by itself; only an idle one must be told.
            if len(self._running) < self._instances:
                self._crew.wake()
            return
        while True:
            batch = self.next_batch()
            if not isinstance(batch, Batch):
                return
            self.compute(batch, self._inline_executor)

    # The workers' way in.

    now_ns = staticmethod(time.monotonic_ns)

    def next_batch(self) -> Batch | Wait | None:
        """Form the batch that the policy asks for; the caller must compute it."""
        now = time.monotonic_ns()
        batch: Batch | None = None
        with self._lock:
            if len(self._running) >= self._instances:
                return None
            late = self._take_late(now)
            choice = self._decide(now)
            if isinstance(choice, Dispatch):
                batch = self._form(choice.rows)
                self._expected_end_ns = now + self.cost.estimate_ns(batch.rows)
        if late:
            _tell_late(late)
        return batch if batch is not None else choice if isinstance(choice, Wait) else None

    def compute(self, batch: Batch, executor: Executor) -> None:
        """Run a batch and post its answers home; when it fails, each of its tickets gets a try of its own."""
        _run(batch, executor)
        if batch.error is None or len(batch.tickets) == 1:
            self._finish(batch, batch)
            return
        for ticket in tuple(batch.tickets):
            alone = Batch(self, [ticket])
            batch.began_ns = time.monotonic_ns()  # each try has the time that a batch has
            _run(alone, executor)
            if not self._finish(alone, batch):
                return

    def delivered(self, batch: Batch) -> None:
        """One of the batch's homes has handed out its part; after the last one the rows go back."""
        with self._lock:
            batch.homes_left -= 1
            if batch.homes_left == 0 and self.slab is not None:
                move_rows(self.slab, batch, RowState.DONE, RowState.FREE)

    # The watchdog's way in.

    def look_after(self) -> None:
        """Give up the batches whose engine hangs, and tell the requests that have been waiting too long."""
        now = time.monotonic_ns()
        hung, told = self._give_up(now - int(self._hang_s * 1e9))
        for ticket in told:
            error = DeadlineExceededError(f"the engine did not answer within {self._hang_s:g} s: it was given up")
            ticket.home.post_failure(ticket, error)
        for batch in hung:
            _log.error("%s: an engine call of %d rows hangs: replacing its worker", self.spec.name, batch.rows)
            self._crew.replace(batch.thread)
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
            self.counts.failed += len(told)
        return hung, told

    def _quarantine(self, ticket: Ticket) -> None:
        if ticket.row >= 0 and self.slab is not None and self.slab.state(ticket.row) is RowState.RUNNING:
            self.slab.move(ticket.row, ticket.count, RowState.RUNNING, RowState.ABANDONED)

    def _finish(self, batch: Batch, formed: Batch) -> bool:
        """Count a batch and post it home; False when the batch it was formed as has been given up meanwhile."""
        homes = {ticket.home for ticket in batch.tickets}
        batch.homes_left = len(homes)
        with self._lock:
            if formed in self._running:
                if batch is not formed:
                    formed.tickets.remove(batch.tickets[0])
                if batch is formed or not formed.tickets:
                    del self._running[formed]
                self.counts.batch(batch)
                if batch.error is None:
                    self.cost.observe(min(batch.rows, self.max_batch), batch.ended_ns - batch.began_ns)
                if self.slab is not None:
                    move_rows(self.slab, batch, RowState.RUNNING, RowState.DONE)
                given_up = False
            else:
                given_up = True
                if self.slab is not None:
                    move_rows(self.slab, formed, RowState.RUNNING, RowState.FREE)
        if given_up:
            self._crew.returned()
            return False
        for home in homes:
            home.post(batch)
        return True

    def _take_late(self, now: int) -> list[Ticket]:
        """Take out of the queue what would be late already in a batch of its own."""
        late = self._queue.take_late(now + int(self.cost.least_ns))
        if late:
            self.counts.expired += len(late)
            for ticket in late:
                self._free(ticket)
        return late

    def _decide(self, now: int) -> Dispatch | Wait | None:
        head = self._queue.head()
        if head is None:
            return None
        idle = self._instances - len(self._running)
        return decide(Queue(self._queue.rows, head.ready_ns, self._gap_ns, idle), now, self.cost, self._hold_ns)

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

    def _free(self, ticket: Ticket) -> None:
        """Give back the rows of a ticket that was queued and will not compute."""
        if ticket.row >= 0 and self.slab is not None:
            self.slab.move(ticket.row, ticket.count, RowState.READY, RowState.FREE)

    def _executor(self, engine: Engine) -> Executor:
        return ArrayExecutor(engine) if self.slab is None else RowExecutor(engine, self.slab)

    def _reopen(self) -> Engine:
        self.profile.verify_model()
        return open_engine(Path(self.profile.model.path), self.profile.settings.engine, self.profile.model.name)

    def _home_of(self, loop: asyncio.AbstractEventLoop) -> LoopHome:
        home = self._homes.get(loop)
        if home is None:
            for closed in [known for known in self._homes if known.is_closed()]:
                del self._homes[closed]
            home = self._homes[loop] = LoopHome(loop)
        return home

    def _deadline(self, timeout_s: float | None) -> int:
        return 0 if timeout_s is None else time.monotonic_ns() + int(timeout_s * 1e9)

    def _full(self) -> QueueFullError:
        wait_s = self.cost.wait_ns(self._queue.rows) / self._instances / 1e9
        return QueueFullError(f"model {self.spec.name!r} has no room for more requests now", max(1, round(wait_s)))


_ANY_THREAD = AnyThread()


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


def open_profile(path: Path) -> Profile:
    """The profile in a .toml file, its model checked against its hash; or the defaults for a bare model file.

    Raises:
        ProfileError: the profile is corrupt, of a later schema, or for another model.
        ModelFileError: the model file is missing or empty.
    """
    if path.suffix == ".toml":
        profile = Profile.load(path)
        profile.verify_model()
        return profile
    return Profile.of_model(path, SAFE_SETTINGS)
