"""Watches what happens to the process while it serves, so that slow requests can be explained: a beat every 10 ms.

A late beat means that the loop was blocked. Each beat also reads how long threads waited for a CPU, whether a quota
throttled the cgroup, and how many page faults there were; the garbage collector reports its own times. A beat takes
about 20 us, 0.2 % of a core.
"""

import asyncio
import gc
import resource
import time
from typing import Any

from tailcut.machine.quota import cpu_quota, throttled
from tailcut.machine.waiting import CpuWaiting
from tailcut.runtime.tracing.timeline import Events
from tailcut.server.metrics import ServerCounts

_BEAT_S = 0.01
_LATE_NS = 5_000_000
_WAITED_NS = 500_000
_COLLECTED_NS = 100_000
_FAULTS = 200  # page faults in one beat; fewer are normal
_SLOWLY = 10  # beats between two readings of what changes every tenth of a second, and of the list of threads


class EventMonitor:
    """Records events of the process, on the loop's own thread, until it is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, events: Events, counts: ServerCounts) -> None:
        self._loop = loop
        self._events = events
        self._counts = counts
        self._cpu_ns = time.thread_time_ns()
        self._waiting = CpuWaiting()
        self._limited = cpu_quota() is not None
        self._throttled_us = throttled()[1]
        self._usage = resource.getrusage(resource.RUSAGE_SELF)
        self._beats = 0
        self._collecting_ns = 0
        self._last_ns = self._last_slow_ns = time.monotonic_ns()
        gc.callbacks.append(self._collection)
        self._timer = loop.call_later(_BEAT_S, self._beat)

    def close(self) -> None:
        """Stop watching."""
        self._timer.cancel()
        gc.callbacks.remove(self._collection)
        self._waiting.close()

    def _beat(self) -> None:
        now, last = time.monotonic_ns(), self._last_ns
        self._last_ns = now
        late_ns = now - last - int(_BEAT_S * 1e9)
        cpu_ns, cpu_before_ns = time.thread_time_ns(), self._cpu_ns
        self._cpu_ns = cpu_ns
        counts = self._counts
        counts.loop_cpu_ns += cpu_ns - cpu_before_ns
        counts.loop_stall_ns = max(counts.loop_stall_ns, late_ns)
        counts.loop_stall_cpu_ns = max(counts.loop_stall_cpu_ns, min(late_ns, cpu_ns - cpu_before_ns))
        if late_ns > _LATE_NS:
            self._events.add("loop_stall", now - late_ns, now)
        for kind, waited in zip(("loop_wait", "engine_wait"), self._waiting.longest_ns(), strict=True):
            if waited > _WAITED_NS:
                self._events.add(kind, last, now, min(waited, now - last))
        self._faults(last, now)
        self._beats += 1
        if self._beats % _SLOWLY == 0:
            self._slowly(now)
        self._timer = self._loop.call_later(_BEAT_S, self._beat)

    def _faults(self, last: int, now: int) -> None:
        usage, before = resource.getrusage(resource.RUSAGE_SELF), self._usage
        self._usage = usage
        faults = usage.ru_minflt - before.ru_minflt + usage.ru_majflt - before.ru_majflt
        if faults > _FAULTS or usage.ru_majflt > before.ru_majflt:
            # The kernel's own time in this process bounds what the faults can have cost.
            self._events.add("page_fault", last, now, min(int((usage.ru_stime - before.ru_stime) * 1e9), now - last))

    def _slowly(self, now: int) -> None:
        last, self._last_slow_ns = self._last_slow_ns, now
        if self._limited:
            stopped_us = throttled()[1]
            if stopped_us > self._throttled_us:
                self._events.add("throttled", last, now, min((stopped_us - self._throttled_us) * 1000, now - last))
            self._throttled_us = stopped_us
        self._waiting.refresh()

    def _collection(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            self._collecting_ns = time.monotonic_ns()
            return
        now = time.monotonic_ns()
        if now - self._collecting_ns > _COLLECTED_NS:
            self._events.add("gc", self._collecting_ns, now)
