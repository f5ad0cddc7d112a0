"""The load generator's sockets: many kept-alive HTTP/1.1 connections on one uvloop, each with one request in flight.

Due times are met with a timerfd, whose grain is nanoseconds where uvloop's own timers have a millisecond's: the loop
sleeps in the kernel between sends, so the client takes no more of the machine than its sends cost. Without one
(macOS) the loop's timers serve, and the lateness that is reported says what that does.
"""

import asyncio
import ctypes
import gc
import os
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np
import uvloop

from tailcut.errors import UsageError
from tailcut.lab.load import LoadResult, Outcome, Payload, Target, poisson_times, summarise

_DRAIN_S = 10.0  # how long answers are waited for after the last send
_RECEIVE_BYTES = 256 * 1024
_OPEN_CONNECTIONS = 512  # an open loop's requests beyond these wait for one to come free, their latency running


def open_loop(  # noqa: PLR0913  a load test is its parameters
    target: Target,
    payloads: Sequence[Payload],
    *,
    rate: float,
    duration_s: float,
    seed: int = 0,
    connections: int = _OPEN_CONNECTIONS,
    warmup_s: float = 0.0,
) -> LoadResult:
    """Send at planned times, whatever the answers do: Poisson arrivals of `rate` a second; blocks until it is over.

    What is due in the first `warmup_s` is sent and not counted. Connections open as they are needed.

    Raises:
        UsageError: nobody listens.
    """
    times = poisson_times(rate, warmup_s + duration_s, seed)
    with _no_collections():
        return uvloop.run(_Open(target, payloads, times, connections).run(warmup_s, duration_s, rate))


def closed_loop(
    target: Target, payloads: Sequence[Payload], *, concurrency: int, duration_s: float, warmup_s: float = 0.0
) -> LoadResult:
    """Keep `concurrency` requests in flight: each answer sends the next; blocks until it is over.

    Raises:
        UsageError: nobody listens.
    """
    with _no_collections():
        return uvloop.run(_Closed(target, payloads).run(concurrency, warmup_s, duration_s))


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keep the collector away: it walks every outcome kept so far, 13 ms at 90,000, which would be read as the tail."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Connection(asyncio.BufferedProtocol):
    """One request at a time: send, then count the answer's bytes in."""

    _heads: dict[bytes, tuple[int, int, bool]] = {}  # noqa: RUF012  answers' heads repeat: shared by design
    _room = bytearray(_RECEIVE_BYTES)
    _view = memoryview(_room)

    def __init__(self, on_done: Callable[["_Connection", Outcome], None]) -> None:
        self._on_done = on_done
        self._transport: asyncio.Transport | None = None
        self._payload: Payload | None = None
        self._left = -1  # bytes of the body to come; -1 while the head is
        self._partial = b""
        self._status = 0
        self._closes = False
        self._times = (0, 0, 0)

    @property
    def alive(self) -> bool:
        """Whether it can carry another request."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._payload is not None:
            self._status = 0
            self._finish()

    def send(self, payload: Payload, planned_ns: int, free_ns: int) -> None:
        """Start a request."""
        self._payload = payload
        self._left = -1
        self._times = (planned_ns, free_ns, time.monotonic_ns())
        if self._transport is None:
            self._finish()
        else:
            self._transport.write(payload.request)

    def close(self) -> None:
        self._payload = None
        if self._transport is not None:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        if self._left < 0:
            self._head(nbytes)
        else:
            self._left -= nbytes
            if self._left <= 0:
                self._finish()

    def eof_received(self) -> bool:
        return False

    def _head(self, nbytes: int) -> None:
        data = self._partial + bytes(self._view[:nbytes]) if self._partial else bytes(self._view[:nbytes])
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._partial = data
            return
        self._partial = b""
        head = data[: end + 4]
        known = self._heads.get(head)
        if known is None:
            known = _read_head(head)
            if len(self._heads) > 1000:
                self._heads.clear()
            self._heads[head] = known
        self._status, length, self._closes = known
        self._left = length - (len(data) - end - 4)
        if self._left <= 0:
            self._finish()

    def _finish(self) -> None:
        payload, self._payload = self._payload, None
        if payload is None:
            return
        planned, free, sent = self._times
        if self._closes and self._transport is not None:
            self._transport.abort()
            self._transport = None
        done = time.monotonic_ns()
        self._on_done(self, Outcome(planned, free, sent, done, self._status, self._status == payload.expect_status))


def _read_head(head: bytes) -> tuple[int, int, bool]:
    """Status, length of the body, and whether the server closes after it."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    fields = {name.strip().lower(): value.strip() for name, _, value in lines}
    length = fields.get(b"content-length", b"0")
    return int(head[9:12]), int(length) if length.isdigit() else 0, fields.get(b"connection", b"").lower() == b"close"


class _Closed:
    def __init__(self, target: Target, payloads: Sequence[Payload]) -> None:
        self._target = target
        self._payloads = payloads
        self._sent = 0
        self._end_ns = 0
        self._outcomes: list[Outcome] = []
        self._busy = 0
        self._idle = asyncio.Event()

    async def run(self, concurrency: int, warmup_s: float, duration_s: float) -> LoadResult:
        connections = [await _connect(self._target, self._done) for _ in range(concurrency)]
        start = time.monotonic_ns() + int(warmup_s * 1e9)
        self._end_ns = start + int(duration_s * 1e9)
        self._busy = concurrency
        for connection in connections:
            self._send(connection)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), warmup_s + duration_s + _DRAIN_S)
        for connection in connections:
            connection.close()
        counted = [one for one in self._outcomes if start <= one.done_ns < self._end_ns]
        return summarise(
            counted,
            mode="closed",
            duration_s=duration_s,
            rate_offered=None,
            concurrency=concurrency,
            unanswered=self._busy,
        )

    def _send(self, connection: _Connection) -> None:
        now = time.monotonic_ns()
        payload = self._payloads[self._sent % len(self._payloads)]
        self._sent += 1
        connection.send(payload, now, now)

    def _done(self, connection: _Connection, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        if outcome.done_ns >= self._end_ns:
            self._rest()
        elif connection.alive:
            self._send(connection)
        else:
            task = asyncio.ensure_future(_connect(self._target, self._done))
            task.add_done_callback(self._again)

    def _again(self, task: "asyncio.Task[_Connection]") -> None:
        if task.cancelled() or task.exception() is not None:
            self._rest()
        else:
            self._send(task.result())

    def _rest(self) -> None:
        self._busy -= 1
        if self._busy <= 0:
            self._idle.set()


class _Open:
    def __init__(self, target: Target, payloads: Sequence[Payload], times: np.ndarray, limit: int) -> None:
        self._target = target
        self._payloads = payloads
        self._times: list[int] = times.tolist()
        self._limit = limit
        self._next = 0
        self._answered = 0
        self._free: list[tuple[_Connection, int]] = []  # with the time each came free
        self._waiting: deque[tuple[int, int]] = deque()  # request numbers and planned times without a connection
        self._open = 0
        self._failed = 0
        self._outcomes: list[Outcome] = []
        self._over = asyncio.Event()
        self._start_ns = 0
        self._tasks: set[asyncio.Task[_Connection]] = set()

    async def run(self, warmup_s: float, duration_s: float, rate: float) -> LoadResult:
        for _ in range(min(4, self._limit)):
            self._free.append((await _connect(self._target, self._done), 0))
            self._open += 1
        timer = _timer(asyncio.get_running_loop(), self._pump)
        self._start_ns = time.monotonic_ns() + 1_000_000
        self._arm = timer.arm
        self._arm(self._start_ns)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), warmup_s + duration_s + _DRAIN_S)
        timer.close()
        for connection, _ in self._free:
            connection.close()
        start = self._start_ns + int(warmup_s * 1e9)
        due = sum(self._start_ns + at >= start for at in self._times)
        counted = [one for one in self._outcomes if one.planned_ns >= start]
        # A run that the server could not keep up with took longer than planned: the rate is over what it really took.
        last = max((one.done_ns for one in counted), default=start)
        took_s = max(duration_s, (last - start) / 1e9)
        return summarise(
            counted,
            mode="open",
            duration_s=took_s,
            rate_offered=rate,
            concurrency=self._open,
            unanswered=due - len(counted),
        )

    def _pump(self) -> None:
        """Send what is due and set the timer for what is next."""
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
        if self._free:
            connection, free = self._free.pop()
            connection.send(self._payloads[number % len(self._payloads)], planned, free)
            return
        self._waiting.append((number, planned))
        if self._open < self._limit:
            self._open += 1
            task = asyncio.ensure_future(_connect(self._target, self._done))
            self._tasks.add(task)
            task.add_done_callback(self._connected)

    def _connected(self, task: "asyncio.Task[_Connection]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is not None:
            self._open -= 1
            if self._waiting:
                _, planned = self._waiting.popleft()
                now = time.monotonic_ns()
                self._record(Outcome(planned, planned, planned, now, 0, expected=False))
            return
        self._reuse(task.result(), time.monotonic_ns())

    def _done(self, connection: _Connection, outcome: Outcome) -> None:
        if connection.alive:
            self._reuse(connection, outcome.done_ns)
        else:
            self._open -= 1
        self._record(outcome)

    def _reuse(self, connection: _Connection, now: int) -> None:
        if self._waiting:
            number, planned = self._waiting.popleft()
            connection.send(self._payloads[number % len(self._payloads)], planned, now)
        else:
            self._free.append((connection, now))

    def _record(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        if len(self._outcomes) == len(self._times):
            self._over.set()


async def _connect(target: Target, on_done: Callable[[_Connection, Outcome], None]) -> _Connection:
    loop = asyncio.get_running_loop()
    make = partial(_Connection, on_done)
    try:
        if target.uds:
            _, connection = await loop.create_unix_connection(make, target.uds)
        else:
            _, connection = await loop.create_connection(make, target.host, target.port)
    except OSError as error:
        raise UsageError(f"no server listens at {target.uds or target.authority}: {error.strerror or error}") from None
    return connection


class _Timer:
    """Calls back once when the armed time has come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback

    def arm(self, at_ns: int) -> None:
        delay = max(0, at_ns - time.monotonic_ns()) / 1e9
        self._loop.call_later(delay, self._callback)

    def close(self) -> None:
        return


class _KernelTimer(_Timer):
    """timerfd_create(2), whose descriptor turns readable when the time has come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        super().__init__(loop, callback)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        loop.add_reader(self._fd, self._fired)

    def arm(self, at_ns: int) -> None:
        seconds, nanos = divmod(max(at_ns, 1), 1_000_000_000)
        self._libc.timerfd_settime(self._fd, 1, struct.pack("qqqq", 0, 0, seconds, nanos), None)  # 1: TFD_TIMER_ABSTIME

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._callback()


def _timer(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> _Timer:
    return _KernelTimer(loop, callback) if sys.platform.startswith("linux") else _Timer(loop, callback)
