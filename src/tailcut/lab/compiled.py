"""The shell around the compiled load loop: its sockets, its tables, and what the loop leaves to Python.

Connections are opened, closed and replaced here; everything in between (sending at planned times, and counting answers)
is in `kernels/load.py`. It supports HTTP/1 over TCP or a Unix socket, on Linux; everything else is left to the Python
client (`suits`).
"""

import ctypes
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import numpy as np

from tailcut.lab.load import Gathered, LoadTarget, NotListeningError, Payload, RequestOutcome, as_rows, not_connected
from tailcut.machine.quota import usable_cpus
from tailcut.machine.waiting import runnable_s

_SLICE_NS = 100_000_000  # between two checks for signals in Python
_RECEIVE_BYTES = 256 * 1024
_EVENTS = 256
_FIRST = 8  # connections opened before the start, at least; the others as they are needed
_FIRST_S = 0.01  # of the load: there are warm connections for this much of it
_FIRST_REQUESTS = 4  # sent on each of these before the start
_AT_ONCE = 2  # opened before answers are processed again: each takes about 30 us
_FIRST_ROWS = 1 << 16
_SPIN_NS = 60_000  # before a planned send, where the client has a core of its own: waking up can be that late
_COMPILES_S = 4.0  # loading takes a second, and longer on a busy machine
_SPIN_SHARED_NS = 20_000  # where it shares its cores with the server


class OddAnswerError(Exception):
    """The server frames its answers in a way that only the Python client can read."""


def suits(target: LoadTarget, payloads: Sequence[Payload]) -> bool:
    """Whether the compiled loop can send these requests to this target."""
    here = sys.platform.startswith("linux") and not target.grpc and not target.tls
    return here and len({len(payload.places) for payload in payloads}) == 1


def prepare() -> None:
    """Compile or load the loop, which takes a second and must not happen while a server is measured."""
    if sys.platform.startswith("linux"):
        from tailcut.kernels import load  # noqa: F401, PLC0415  numba, which only this loop needs


def prepare_servers() -> None:
    """As `prepare`, also for the fast path of servers that this process will start."""
    prepare()
    if sys.platform.startswith("linux"):
        from tailcut.kernels import answers, sockets  # noqa: F401, PLC0415  as above


@contextmanager
def compiling(what: str) -> Iterator[None]:
    """Print a line on standard error if the block takes so long that code is being compiled instead of loaded."""
    slow = threading.Timer(_COMPILES_S, print, [f"compiling {what}, once on this machine"])
    slow.kwargs = {"file": sys.stderr, "flush": True}
    slow.daemon = True
    slow.start()
    try:
        yield
    finally:
        slow.cancel()


def gather_open(  # noqa: PLR0913  a load test is its parameters
    target: LoadTarget,
    payloads: Sequence[Payload],
    times: np.ndarray,
    *,
    connections: int,
    patience_s: float,
    start: Callable[[], int],
) -> Gathered:
    """The outcomes of planned sends: nanoseconds after `start()`, which is called when all is ready.

    Raises:
        NotListeningError: no server listens.
        OddAnswerError: the Python client has to make this run.
    """
    with _Loop(target, payloads, connections, times) as loop:
        last_ns = int(times[-1]) if len(times) else 0
        warm = int(_FIRST_S * 1e9 * len(times) / max(last_ns, 1))
        for _ in range(min(max(_FIRST, warm), connections)):
            loop.connect()
        if warm > _FIRST:
            loop.warm_up(patience_s)
        begun = start()
        if len(times):
            loop.run(begun, 0, begun + last_ns + int(patience_s * 1e9))
        return loop.gathered(begun, len(times))


def gather_closed(  # noqa: PLR0913  as above
    target: LoadTarget,
    payloads: Sequence[Payload],
    *,
    concurrency: int,
    length_s: float,
    patience_s: float,
    start: Callable[[], int],
) -> Gathered:
    """The outcomes of a closed loop that runs for `length_s` from `start()`.

    Raises:
        NotListeningError: no server listens.
        OddAnswerError: the Python client has to make this run.
    """
    with _Loop(target, payloads, concurrency, np.empty(0, np.int64)) as loop:
        for _ in range(concurrency):
            loop.connect()
        begun = start()
        time.sleep(max(0, begun - time.monotonic_ns()) / 1e9)
        end = begun + int(length_s * 1e9)
        loop.run(begun, end, end + int(patience_s * 1e9))
        return loop.gathered(begun, loop.sent)


class _Loop:
    """The tables of one run, and the sockets behind them."""

    def __init__(self, target: LoadTarget, payloads: Sequence[Payload], limit: int, times: np.ndarray) -> None:
        from tailcut.kernels import load  # noqa: PLC0415  numba, which only this loop needs

        self._load = load
        self._target = target
        self._times = np.array(times, np.int64)  # writable, as the compiled loop requires
        self._requests, self._spans = _requests(payloads)
        self._expects = np.array([(payload.expect_status, payload.length) for payload in payloads], np.int64)
        self._connections = np.zeros((limit, load.CONNECTIONS), np.int64)
        self._heads = np.empty((limit, load.HEAD_BYTES), np.uint8)
        self._slots = np.full(1024, -1, np.int64)
        self._clock = np.zeros(4, np.int64)
        self._cursor = np.zeros(5, np.int64)
        self._free = np.zeros(limit, np.int64)
        rows = len(times) + limit if len(times) else _FIRST_ROWS + limit
        self._outcomes = np.empty((rows, load.OUTCOMES), np.int64)
        self._scratch = np.empty(_RECEIVE_BYTES, np.uint8)
        self._events = np.zeros((_EVENTS, load.EVENT_WORDS), np.int32)
        self._sockets: list[socket.socket | None] = [None] * limit
        self._poll = select.epoll()
        self._timer = _timer()
        self._poll.register(self._timer, select.EPOLLIN | select.EPOLLET)
        self._cpu_s, self._end_ns = 0.0, 0
        self._most = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self._sockets:
            if sock is not None:
                sock.close()
        self._poll.close()
        os.close(self._timer)

    @property
    def sent(self) -> int:
        """The number of requests that were begun."""
        return int(self._cursor[self._load.SENT])

    def connect(self) -> None:
        """Open a connection in the first empty slot.

        Raises:
            NotListeningError: no server listens.
        """
        load, own = self._load, _open(self._target)
        slot = self._sockets.index(None)
        self._sockets[slot] = own
        number = own.fileno()
        if number >= len(self._slots):
            self._slots = np.concatenate([self._slots, np.full(number + 1, -1, np.int64)])
        self._slots[number] = slot
        row = self._connections[slot]
        row[:] = 0
        row[load.FD], row[load.STATE], row[load.FREE_SINCE] = number, load.IDLE, time.monotonic_ns()
        self._poll.register(number, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        cursor = self._cursor
        self._free[cursor[load.FREE]] = slot
        cursor[load.FREE] += 1
        cursor[load.OPEN] += 1
        self._most = max(self._most, int(cursor[load.OPEN]))

    def warm_up(self, patience_s: float) -> None:
        """Send a few requests that do not count on every connection, all at once.

        A new connection costs a server as much as several requests: opened under load, each delays others, which then
        need more connections.
        """
        load, times = self._load, self._times
        self._times = np.zeros(self._cursor[load.OPEN], np.int64)
        for _ in range(_FIRST_REQUESTS):
            now = time.monotonic_ns()
            self.run(now, 0, now + int(patience_s * 1e9))
            self._cursor[load.SENT] = self._cursor[load.RECORDED] = 0
        self._times = times

    def run(self, start_ns: int, end_ns: int, give_up_ns: int) -> None:
        """Run the loop until everything is answered, or the time limit for answers has passed."""
        load = self._load
        spin_ns = _SPIN_NS if usable_cpus() > 2 else _SPIN_SHARED_NS
        cpu_s = runnable_s()
        while (now := time.monotonic_ns()) < give_up_ns:
            self._clock[:] = start_ns, end_ns, min(now + _SLICE_NS, give_up_ns), spin_ns
            reason = self._drive()
            if reason == load.OVER:
                break
            if reason == load.ODD_ANSWER:
                raise OddAnswerError
            if reason == load.FULL:
                self._outcomes = np.concatenate([self._outcomes, np.empty_like(self._outcomes)])
            elif reason == load.MORE_CONNECTIONS:
                self._add(start_ns)
            elif reason == load.BROKEN:
                self._close_broken(reopen=now < end_ns)
        self._cpu_s, self._end_ns = runnable_s() - cpu_s, time.monotonic_ns()

    def gathered(self, start_ns: int, due: int) -> Gathered:
        """The outcomes, where `due` requests should have been answered."""
        outcomes = self._outcomes[: self._cursor[self._load.RECORDED]].copy()
        return Gathered(outcomes, due - len(outcomes), self._most, self._cpu_s, start_ns, self._end_ns)

    def _drive(self) -> int:
        return int(
            self._load.drive(
                self._poll.fileno(),
                self._timer,
                self._connections,
                self._slots,
                self._spans,
                self._requests,
                self._expects,
                self._times,
                self._clock,
                self._cursor,
                self._free,
                self._outcomes,
                self._heads,
                self._scratch,
                self._events,
            )
        )

    def _add(self, start_ns: int) -> None:
        """Open connections for waiting requests, which fail where the server no longer listens."""
        load, cursor = self._load, self._cursor
        for _ in range(min(_AT_ONCE, len(self._sockets) - int(cursor[load.OPEN]))):
            try:
                self.connect()
            except NotListeningError:
                planned = start_ns + int(self._times[cursor[load.SENT]])
                length = int(self._expects[cursor[load.SENT] % len(self._expects), 1])
                failed = RequestOutcome(
                    planned, planned, planned, time.monotonic_ns(), 0, expected=False, length=length
                )
                self._outcomes[cursor[load.RECORDED]] = as_rows([failed])[0]
                cursor[load.RECORDED] += 1
                cursor[load.SENT] += 1
                return

    def _close_broken(self, *, reopen: bool) -> None:
        """Close connections that the server has closed; in a closed loop, they are replaced."""
        load, cursor = self._load, self._cursor
        closed = [
            slot
            for slot, own in enumerate(self._sockets)
            if own is not None and self._connections[slot, load.STATE] == load.CLOSED
        ]
        for slot in closed:
            own = self._sockets[slot]
            assert own is not None  # noqa: S101  only open ones are considered
            self._slots[own.fileno()] = -1
            own.close()
            self._sockets[slot] = None
        free = self._free[: cursor[load.FREE]]
        kept = free[~np.isin(free, closed)]
        self._free[: len(kept)] = kept
        cursor[load.FREE] = len(kept)
        for _ in closed if reopen else ():
            try:
                self.connect()
            except NotListeningError:
                return


def _requests(payloads: Sequence[Payload]) -> tuple[np.ndarray, np.ndarray]:
    """The concatenated bytes of all requests, and the position of each, int64 [payloads, variants, (start, length)]."""
    variants = max(1, len(payloads[0].places))
    spans = np.empty((len(payloads), variants, 2), np.int64)
    parts: list[bytes] = []
    size = 0
    for number, payload in enumerate(payloads):
        for variant in range(variants):
            data = payload.at(variant)
            spans[number, variant] = size, len(data)
            parts.append(data)
            size += len(data)
    return np.frombuffer(bytearray(b"".join(parts)), np.uint8), spans


def _open(target: LoadTarget) -> socket.socket:
    own = None
    try:
        if target.uds:
            own = socket.socket(socket.AF_UNIX)
            own.connect(target.uds)
        else:
            own = socket.create_connection((target.host, target.port))
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        if own is not None:
            own.close()
        raise not_connected(target, error, str(error.strerror or error)) from None
    own.setblocking(False)
    return own


def _timer() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    number = int(libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
    if number < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create failed")
    return number
