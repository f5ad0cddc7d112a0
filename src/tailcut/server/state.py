"""State that the connections of one loop share: the receive buffer, plans by head, the clock, and the connections."""

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any, Protocol

from tailcut.runtime.delivery import LoopDelivery
from tailcut.runtime.entry import ServedEntry
from tailcut.server.access_log import log_http, trace_of_head
from tailcut.server.broadcast import Broadcast
from tailcut.server.context import Context
from tailcut.server.gathering import RowGatherer
from tailcut.server.limits import ServerLimits
from tailcut.server.log_queue import dropped_lines
from tailcut.server.overload_log import OverloadLog
from tailcut.server.step_runner import StepRunner
from tailcut.server.tracing.tracer import Tracer
from tailcut.wire.http1.events import Edition
from tailcut.wire.http1.head import Head
from tailcut.wire.http1.outlines import OutlineMemo
from tailcut.wire.http1.response import date_line
from tailcut.wire.memo import BytesMemo

RECEIVE_BYTES = 64 * 1024
HEAD_BYTES = 2048
_PLANS = 1024  # plans kept, at most
_SWEEP_S = 0.25
_PAUSE_NS = 2_000_000
_LOOK_NS = 20_000  # how long it is polled, where all connections take it, before the loop goes on


class OpenConnection(Protocol):
    """What the shared state needs of a connection."""

    due: float

    @property
    def idle_since(self) -> float: ...  # noqa: D102  documented in the connections
    @property
    def busy(self) -> bool: ...  # noqa: D102
    @property
    def fresh(self) -> bool: ...  # noqa: D102
    def overdue(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class FastPathEntry(Protocol):
    """What other modules need of the fast path (`fastpath/fastpath.py`)."""

    def turn(self, until_ns: int = 0) -> bool: ...  # noqa: D102  documented there
    def join(  # noqa: D102, PLR0913, PLR0917
        self, connection: Any, plan: Any, head: bytes, template: Any, row: memoryview, length: int, /
    ) -> bool: ...
    def leave(self, connection: Any) -> None: ...  # noqa: D102
    def forget(self, generation: int) -> None: ...  # noqa: D102
    def sweep(self, now_s: float) -> None: ...  # noqa: D102
    def busy(self, fd: int) -> bool: ...  # noqa: D102
    def seen(self, fd: int) -> float: ...  # noqa: D102
    def dissolve(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class ServerState:
    """One loop's connections. `now` is the loop's clock, read four times a second, because limits are in seconds."""

    def __init__(  # noqa: PLR0913  settings of the command line
        self,
        context: Context,
        limits: ServerLimits,
        *,
        direct_bytes: int,
        busy_poll_us: int = 0,
        collect: bool = False,
        access: bool = False,
    ) -> None:
        self.context = context
        self.limits = limits
        self.direct_bytes = direct_bytes
        self.deadline_ns = limits.deadline_ns
        self.receive = bytearray(RECEIVE_BYTES)
        self.receive_view = memoryview(self.receive)
        self.head_view = self.receive_view[:HEAD_BYTES]  # for receiving hardly more than a head
        self.plans: BytesMemo[bytes, Any] = BytesMemo(_PLANS)  # by the bytes of HTTP heads; filled by `http/plan.py`
        self.outlines: OutlineMemo[Any] = OutlineMemo()  # of the heads with such plans
        self.access = access
        self.draining = False
        self.loop = asyncio.get_running_loop()
        self.delivery = LoopDelivery(self.loop)
        self.rows = RowGatherer(self.delivery, self.stay_awake)
        self.steps = StepRunner(self.loop)
        self.now = self.loop.time()
        self.date = b""  # the Date line of every answer; a new object each second
        self._second = 0
        self._read_clock()
        self.members: dict[OpenConnection, None] = {}  # in the order in which they connected
        self._idlest: list[tuple[float, OpenConnection]] = []  # the next to be closed; the one idle longest is last
        self.busy_poll_ns = busy_poll_us * 1000
        self._spin_until_ns = 0
        self._spinning = False
        self._looked: tuple[int, int] | None = (
            None  # CPU time and `_spin_until_ns` at the last poll, if it found nothing
        )
        self._pausing = False
        self._collect = collect
        self.on_count: Callable[[int], None] | None = None  # called with the number of connections at every change
        self._timer = self.loop.call_later(_SWEEP_S, self._sweep)
        self._overload = OverloadLog()
        self.broadcast = Broadcast(context, limits, self.loop)
        self.fast_path: FastPathEntry | None = None
        self.tracer: Tracer | None = None  # where requests are traced
        self.edition = Edition()  # of the plans; replaced when the models have changed
        context.models.changed.append(self._forget_plans)

    def _forget_plans(self) -> None:
        self.plans.clear()
        self.outlines.clear()
        self.edition.valid = False
        self.edition = Edition()
        if self.fast_path is not None:
            self.fast_path.dissolve()

    def drain(self) -> None:
        """Make the next answer of each connection its last."""
        self.draining = True
        self.broadcast.end()
        if self.fast_path is not None:
            self.fast_path.dissolve()

    def enter(self, member: OpenConnection) -> None:
        """Add a connection; beyond the limit, close the one that has been idle longest."""
        counts = self.context.counts
        counts.accepted += 1
        counts.connections += 1
        self.members[member] = None
        if self.on_count is not None:
            self.on_count(counts.connections)
        if counts.connections > self.limits.connections and not self.make_room(member):
            member.close()

    def make_room(self, newcomer: OpenConnection | None = None, *, idle_s: float = 0.0) -> bool:
        """Close the connection that has been idle longest, and for at least `idle_s`; returns whether there was one."""
        latest = self.now - idle_s
        if not self._idlest:  # searched once for many new ones: that takes a millisecond at 4,096 connections
            idle = [(member.idle_since, member) for member in self.members if not member.busy]
            self._idlest = sorted(idle, key=lambda entry: entry[0], reverse=True)
        while self._idlest:
            since, member = self._idlest.pop()
            if since > latest:
                break
            if member in self.members and member.idle_since == since and not member.busy and member is not newcomer:
                member.close()
                return True
        self._idlest = []
        return False

    def silent(self) -> bool:
        """Whether some new connection has not sent anything yet."""
        return any(member.fresh for member in self.members)

    def leave(self, member: OpenConnection) -> None:
        """Remove a closed connection."""
        if self.members.pop(member, self) is None:
            self.context.counts.connections -= 1
            if self.on_count is not None:
                self.on_count(self.context.counts.connections)

    def count_reply(self, head: Head, head_bytes: bytes, status: int, size: int, began_ns: int) -> None:
        """Count an HTTP answer, and log it where an access log is kept; `began_ns` is 0 for a malformed head.

        `head` may be that of another request with the same meaning; the trace context is read from `head_bytes`.
        """
        self.context.counts.replies[status] += 1
        if self.access:
            took_ns = time.monotonic_ns() - began_ns if began_ns else 0
            log_http(head, status, size, took_ns, trace_of_head(head_bytes))

    def pause_soon(self, entry: ServedEntry) -> None:
        """Stop reading for a moment while requests are refused, so that many are refused at once.

        Most of a refusal's cost is waking up for it. On the core where the engine computes, the reference machine spent
        69 us on each, and kept 86 % of the peak throughput at ten times the capacity; refused together, 35 us and 95 %.
        """
        if not self._pausing and not self.busy_poll_ns:
            self._pausing = True
            self.loop.call_soon(self._pause, entry)

    def _pause(self, entry: ServedEntry) -> None:
        self._pausing = False
        if sum(1 for _ in self.context.models) == 1:  # requests to another model must not wait
            time.sleep(min(_PAUSE_NS, entry.waiting_ns() // 4) / 1e9)

    def stay_awake(self, now_ns: int) -> None:
        """Poll the sockets for `busy_poll_ns` from now on, so that the loop is awake if a client asks again at once.

        Sleeping in the kernel and being woken costs 25 us on the reference machine, a third of a small model's answer.
        """
        self._spin_until_ns = now_ns + self.busy_poll_ns
        if self.busy_poll_ns and not self._spinning:
            self._spinning, self._looked = True, None
            self.loop.call_soon(self._spin)

    def _spin(self) -> None:
        # A callback that is due makes the loop poll instead of sleep; this one only schedules the next.
        now_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        if self._looked is not None and self._looked[1] == self._spin_until_ns:  # nothing was answered since
            self.context.counts.loop_polled_ns += cpu_ns - self._looked[0]
        self._looked = cpu_ns, self._spin_until_ns
        if now_ns < self._spin_until_ns:
            self.loop.call_soon(self._spin)
            if self.fast_path is not None:
                alone = self.context.counts.fast_path == len(self.members)  # no other connection waits meanwhile
                if self.fast_path.turn(min(now_ns + _LOOK_NS, self._spin_until_ns) if alone else 0):
                    self._looked = None
        else:
            self._spinning = False

    def busy(self) -> int:
        """The number of connections with a message that is being served."""
        return sum(member.busy for member in self.members)

    def close(self) -> None:
        """Close every connection after what has been written to it."""
        self._timer.cancel()
        if self.fast_path is not None:
            self.fast_path.close()
            self.fast_path = None
        for member in list(self.members):
            member.close()

    def _read_clock(self) -> None:
        second = int(time.time())  # the wall clock may jump: only the date depends on it
        if second != self._second:
            self._second = second
            self.date = date_line(second)

    def _sweep(self) -> None:
        now = self.now = self.loop.time()
        self._read_clock()
        self.context.counts.log_lines_dropped = dropped_lines()
        if self.tracer is not None:
            self.tracer.count(self.context.counts)
        self._overload.look(self.context.models, now)
        if self.fast_path is not None:
            self.fast_path.sweep(now)
        idle_before = now - self.limits.idle_timeout_s
        for member in list(self.members):
            if member.due:
                if member.due < now:
                    member.overdue()
            elif member.idle_since < idle_before and not member.busy:
                member.close()
        if self._collect and not self.busy():
            gc.collect(1)
        self._timer = self.loop.call_later(_SWEEP_S, self._sweep)
