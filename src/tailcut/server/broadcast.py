"""Sends the clients that watch the server a view of it about once a second; nothing runs without a watcher.

A tick takes a snapshot of the counts, has a view made from it and the earlier ones, encodes the view once, and hands
the bytes to each watcher. What takes longer (the doctor's checks read a hundred files) is done on a thread.
"""

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import Protocol

from tailcut.errors import QueueFullError
from tailcut.live.counts import Key, ProcessSnapshot, Snapshot
from tailcut.live.history import History
from tailcut.live.pace import EVERY_S, Pace
from tailcut.live.records import End, as_event
from tailcut.live.traces import TraceReader, TraceSample
from tailcut.machine.process import usage
from tailcut.machine.quota import cpu_quota, throttled
from tailcut.server.about import about, findings
from tailcut.server.context import Context
from tailcut.server.latency import bounds_around
from tailcut.server.limits import ServerLimits

_log = logging.getLogger("tailcut")
_EVENTS = 256  # of each process, searched for what coincided with slow requests


class Watcher(Protocol):
    """A client that watches."""

    def show(self, view: bytes) -> None:
        """Send a view, or skip it where the client has not read the last event."""

    def tell(self, kind: str, event: bytes) -> None:
        """Send an event of another kind; later, where the client has not read the last one."""

    def end(self, event: bytes) -> None:
        """Send the last event and close."""


class Broadcast:
    """The watchers of one process. All methods must be called on the loop's thread."""

    def __init__(self, context: Context, limits: ServerLimits, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._most = limits.watchers
        self._loop = loop
        self._watchers: dict[Watcher, None] = {}
        self._history = History(bounds_around)
        self._readers: dict[Key, TraceReader] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pace = Pace()
        self._limited = False  # by a CPU quota
        self._findings = b""  # encoded as an event, once they are known
        self._looking: asyncio.Task[None] | None = None
        self._token: str | None = None  # that the watchers presented, where one is required
        self._changed = False  # whether models have changed since the watchers were told
        self._over = False  # no more watchers are accepted
        context.models.changed.append(self._models_changed)

    def join(self, watcher: Watcher) -> bytes:
        """Add a watcher, and return the bytes that it is sent first. The first watcher starts the clock.

        Raises:
            QueueFullError: the maximum of watchers is reached, or the server is draining.
        """
        if self._over:
            raise QueueFullError("the server is stopping")
        if len(self._watchers) >= self._most:
            raise QueueFullError(f"{self._most} viewers are connected, the maximum per process", retry_after_s=5)
        first = as_event(about(self._context))
        if self._timer is None:
            self._begin()
        self._watchers[watcher] = None
        return first + self._findings

    def leave(self, watcher: Watcher) -> None:
        """Remove a watcher. The last one stops the clock."""
        self._watchers.pop(watcher, None)
        if not self._watchers and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._history, self._readers = History(bounds_around), {}

    def end(self) -> None:
        """Tell all watchers that the server is draining, and accept no more."""
        self._over = True
        self._end(End(reason="renewed" if self._context.ready else "stopping"))

    def _begin(self) -> None:
        self._token = self._context.token
        self._limited = cpu_quota() is not None
        self._look_for_models()
        self._history.add(self._snapshot(), self._look)
        self._timer = self._loop.call_later(EVERY_S, self._tick, self._loop.time() + EVERY_S)
        if not self._findings and self._looking is None:
            self._looking = self._loop.create_task(self._find())

    def _tick(self, due: float) -> None:
        began_ns = time.thread_time_ns()
        try:
            self._show()
        except Exception:  # noqa: BLE001  whatever is wrong with the figures, the server must go on
            _log.exception("the figures of the live page could not be collected")
            self._end(End(reason="failed"))
            return
        if self._timer is not None:
            wait_s = self._pace.after((time.thread_time_ns() - began_ns) / 1e9)
            due = max(due + wait_s, self._loop.time())
            self._timer = self._loop.call_at(due, self._tick, due)

    def _show(self) -> None:
        if self._changed:  # sent at most once a second, however many models are loaded
            self._look_for_models()
            self._tell("about", as_event(about(self._context)))
        view = self._history.add(self._snapshot(), self._look)
        if view is not None:
            event = as_event(view)
            for watcher in list(self._watchers):
                watcher.show(event)

    def _look(self, key: Key) -> TraceSample:
        reader = self._readers.get(key)
        return TraceSample() if reader is None else reader.read(partial(self._context.events_since, most=_EVENTS))

    def _tell(self, kind: str, event: bytes) -> None:
        for watcher in list(self._watchers):
            watcher.tell(kind, event)

    def _end(self, record: End) -> None:
        event = as_event(record)
        for watcher in list(self._watchers):
            watcher.end(event)
            self.leave(watcher)

    def _snapshot(self) -> Snapshot:
        context = self._context
        return Snapshot(
            at_ns=time.monotonic_ns(),
            ready=context.is_ready,
            throttled_us=throttled()[1] if self._limited else 0,
            processes=tuple(_with_usage(process) for process in context.processes()),
        )

    def _models_changed(self) -> None:
        self._changed = True
        if self._watchers and self._context.require_token and self._token != self._context.token:
            self._end(End(reason="renewed"))  # they have to present the new one

    def _look_for_models(self) -> None:
        """Read the traces of the current models; for those known before, go on from where reading stopped."""
        self._changed = False
        known, self._readers = self._readers, {}
        for served in self._context.models:
            key = (served.name, served.version)
            reader = known.get(key)
            same = reader is not None and reader.timelines == served.all_timelines
            self._readers[key] = reader if reader is not None and same else TraceReader(served.all_timelines)

    async def _find(self) -> None:
        try:
            self._findings = as_event(await asyncio.to_thread(findings))
            self._tell("findings", self._findings)
        except Exception:  # noqa: BLE001  on an unusual machine, the page does without the findings
            _log.exception("the machine could not be examined")
        finally:
            self._looking = None


def _with_usage(process: ProcessSnapshot) -> ProcessSnapshot:
    used = usage(process.pid)
    return process if used is None else replace(process, cpu_ns=used.cpu_ns, memory_bytes=used.memory_bytes)
