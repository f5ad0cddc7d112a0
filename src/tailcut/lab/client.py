"""The load generator's two loops: many connections, each with one request in flight.

They run as compiled code (`lab/compiled.py`) where that can read the server's answers, and otherwise here, on uvloop.
"""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import uvloop

from tailcut.lab import compiled
from tailcut.lab.arrivals import Arrivals, Poisson, plan
from tailcut.lab.connection import Carrier, connect
from tailcut.lab.load import (
    Gathered,
    LoadResult,
    LoadTarget,
    Payload,
    RequestOutcome,
    as_rows,
    closed_result,
    open_result,
)
from tailcut.lab.timer import loop_timer
from tailcut.machine.waiting import runnable_s

DRAIN_S = 10.0  # how long to wait for answers after the last send
OPEN_CONNECTIONS = 512  # in an open loop; further requests wait for a free connection, which counts as latency
_FIRST_CONNECTIONS = 4  # opened before the start; the others when needed


def soon() -> int:
    """A start time that leaves time to set the timer, in monotonic nanoseconds."""
    return time.monotonic_ns() + 1_000_000


def open_loop(  # noqa: PLR0913  a load test is its parameters
    target: LoadTarget,
    payloads: Sequence[Payload],
    *,
    rate: float | Arrivals,
    duration_s: float,
    seed: int = 0,
    connections: int = OPEN_CONNECTIONS,
    warmup_s: float = 0.0,
) -> LoadResult:
    """Send at planned times, regardless of answers; blocks until the run is over.

    Args:
        target: the server.
        payloads: requests, which are sent in turn.
        rate: requests per second with Poisson arrivals, or another arrival process.
        duration_s: the measured time, in seconds.
        seed: of the arrivals.
        connections: at most; they are opened when needed.
        warmup_s: seconds at the beginning whose requests are sent, but not counted.

    Raises:
        NotListeningError: no server listens.
    """
    arrivals = rate if not isinstance(rate, int | float) else Poisson(rate)
    times = plan(arrivals, warmup_s, duration_s, seed)
    gathered = gather_open(target, payloads, times, connections=connections)
    return open_result([gathered], arrivals, times, warmup_s=warmup_s, duration_s=duration_s)


def closed_loop(
    target: LoadTarget, payloads: Sequence[Payload], *, concurrency: int, duration_s: float, warmup_s: float = 0.0
) -> LoadResult:
    """Keep `concurrency` requests in flight: each answer triggers the next; blocks until the run is over.

    Raises:
        NotListeningError: no server listens.
    """
    gathered = gather_closed(target, payloads, concurrency=concurrency, length_s=warmup_s + duration_s)
    return closed_result([gathered], concurrency, warmup_s=warmup_s, duration_s=duration_s)


def gather_open(  # noqa: PLR0913  a load test is its parameters
    target: LoadTarget,
    payloads: Sequence[Payload],
    times: np.ndarray,
    *,
    connections: int = OPEN_CONNECTIONS,
    patience_s: float | None = None,
    start: Callable[[], int] = soon,
) -> Gathered:
    """Send at `times`, in nanoseconds after `start()`, which is called when everything is ready."""
    patience_s = DRAIN_S if patience_s is None else patience_s
    with without_collections():
        if compiled.suits(target, payloads):
            with suppress(compiled.OddAnswerError):
                return compiled.gather_open(
                    target, payloads, times, connections=connections, patience_s=patience_s, start=start
                )
            start = soon  # the first start has passed
        return uvloop.run(_Open(target, payloads, times, connections).run(patience_s, start))


def gather_closed(
    target: LoadTarget,
    payloads: Sequence[Payload],
    *,
    concurrency: int,
    length_s: float,
    start: Callable[[], int] = soon,
) -> Gathered:
    """Run a closed loop for `length_s` from `start()` on."""
    with without_collections():
        if compiled.suits(target, payloads):
            with suppress(compiled.OddAnswerError):
                return compiled.gather_closed(
                    target, payloads, concurrency=concurrency, length_s=length_s, patience_s=DRAIN_S, start=start
                )
            start = soon
        return uvloop.run(_Closed(target, payloads).run(concurrency, length_s, start))


@contextmanager
def without_collections() -> Iterator[None]:
    """Turn off the garbage collector: it visits every outcome, 13 ms for 90,000, which would appear as the tail."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Closed:
    def __init__(self, target: LoadTarget, payloads: Sequence[Payload]) -> None:
        self._target = target
        self._payloads = payloads
        self._sent = 0
        self._end_ns = 0
        self._outcomes: list[RequestOutcome] = []
        self._busy = 0
        self._idle = asyncio.Event()

    async def run(self, concurrency: int, length_s: float, start: Callable[[], int]) -> Gathered:
        connections = [await connect(self._target, self._done) for _ in range(concurrency)]
        start_ns, cpu_s = start(), runnable_s()
        self._end_ns = start_ns + int(length_s * 1e9)
        self._busy = concurrency
        for connection in connections:
            self._send(connection)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), length_s + DRAIN_S)
        cpu_s, end_ns = runnable_s() - cpu_s, time.monotonic_ns()
        for connection in connections:
            connection.close()
        return Gathered(as_rows(self._outcomes), self._busy, concurrency, cpu_s, start_ns, end_ns)

    def _send(self, connection: Carrier) -> None:
        now = time.monotonic_ns()
        payload = self._payloads[self._sent % len(self._payloads)]
        self._sent += 1
        connection.send(payload, now, now)

    def _done(self, connection: Carrier, outcome: RequestOutcome) -> None:
        self._outcomes.append(outcome)
        if outcome.done_ns >= self._end_ns:
            self._rest()
        elif connection.alive:
            self._send(connection)
        else:
            task = asyncio.ensure_future(connect(self._target, self._done))
            task.add_done_callback(self._again)

    def _again(self, task: "asyncio.Task[Carrier]") -> None:
        if task.cancelled() or task.exception() is not None:
            self._rest()
        else:
            self._send(task.result())

    def _rest(self) -> None:
        self._busy -= 1
        if self._busy <= 0:
            self._idle.set()


class _Open:
    def __init__(self, target: LoadTarget, payloads: Sequence[Payload], times: np.ndarray, limit: int) -> None:
        self._target = target
        self._payloads = payloads
        self._times: list[int] = times.tolist()
        self._limit = limit
        self._next = 0
        self._free: list[tuple[Carrier, int]] = []  # with the time at which each became free
        self._waiting: deque[tuple[int, int]] = deque()  # numbers and planned times of requests without a connection
        self._open = 0
        self._outcomes: list[RequestOutcome] = []
        self._over = asyncio.Event()
        self._start_ns = 0
        self._tasks: set[asyncio.Task[Carrier]] = set()

    async def run(self, patience_s: float, start: Callable[[], int]) -> Gathered:
        for _ in range(min(_FIRST_CONNECTIONS, self._limit)):
            self._free.append((await connect(self._target, self._done), 0))
            self._open += 1
        timer = loop_timer(asyncio.get_running_loop(), self._pump)
        self._start_ns, cpu_s = start(), runnable_s()
        self._arm = timer.arm
        self._arm(self._start_ns)
        last_s = self._times[-1] / 1e9 if self._times else 0.0
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), last_s + patience_s)
        cpu_s, end_ns = runnable_s() - cpu_s, time.monotonic_ns()
        timer.close()
        for connection, _ in self._free:
            connection.close()
        unanswered = len(self._times) - len(self._outcomes)
        return Gathered(as_rows(self._outcomes), unanswered, self._open, cpu_s, self._start_ns, end_ns)

    def _pump(self) -> None:
        """Send due requests, and set the timer for the next."""
        now = time.monotonic_ns()
        times, start = self._times, self._start_ns
        while self._next < len(times) and start + times[self._next] <= now:
            self._dispatch(self._next, start + times[self._next])
            self._next += 1
        if self._next < len(times):
            self._arm(start + times[self._next])
        elif not times:
            self._over.set()

    def _dispatch(self, number: int, planned: int) -> None:
        while self._free:
            connection, free = self._free.pop()
            if connection.alive:
                connection.send(self._payloads[number % len(self._payloads)], planned, free)
                return
            self._open -= 1  # the server closed it while it was idle, as it may
        self._waiting.append((number, planned))
        if self._open < self._limit:
            self._connect()

    def _connect(self) -> None:
        self._open += 1
        task = asyncio.ensure_future(connect(self._target, self._done))
        self._tasks.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: "asyncio.Task[Carrier]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is not None:
            self._open -= 1
            if self._waiting:
                number, planned = self._waiting.popleft()
                length = self._payloads[number % len(self._payloads)].length
                now = time.monotonic_ns()
                self._record(RequestOutcome(planned, planned, planned, now, 0, expected=False, length=length))
            return
        self._reuse(task.result(), time.monotonic_ns())

    def _done(self, connection: Carrier, outcome: RequestOutcome) -> None:
        if connection.alive:
            self._reuse(connection, outcome.done_ns)
        else:
            self._open -= 1
            if len(self._waiting) > len(self._tasks):
                self._connect()
        self._record(outcome)

    def _reuse(self, connection: Carrier, now: int) -> None:
        if self._waiting:
            number, planned = self._waiting.popleft()
            connection.send(self._payloads[number % len(self._payloads)], planned, now)
        else:
            self._free.append((connection, now))

    def _record(self, outcome: RequestOutcome) -> None:
        self._outcomes.append(outcome)
        if len(self._outcomes) == len(self._times):
            self._over.set()
