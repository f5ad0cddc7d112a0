"""What it costs that every request leaves a trace, and that a monitor watches the process.

    python benchmarks/timeline.py

A trace is the record and the readings of the clock that it takes, in batches of 1,000, in memory of the process's own
and in memory that workers share; a beat is one look of the monitor, with as many threads as a server of this machine
has. The least of many rounds, because a busy machine only ever adds.
"""

import asyncio
import threading
import time

import uvloop

from tailcut.runtime.tracing.timeline import Events, Timeline
from tailcut.server.event_monitor import EventMonitor
from tailcut.server.metrics import ServerCounts
from tailcut.server.workers.shared_traces import TraceRegion

TRACE_LIMIT_US, BEAT_LIMIT = 1.0, 0.005  # the second: of a core
BEATS_A_SECOND = 100
THREADS = 8


def record_us(timeline: Timeline) -> float:
    """One record with the three readings of the clock that nothing else needs."""
    now = time.monotonic_ns
    rounds = []
    for _ in range(300):
        began = time.perf_counter_ns()
        for _ in range(1000):
            head, handed = now(), now()
            timeline.record(head, head, head, head, head, handed, handed, now(), 1, 8, 1024, 200)
        rounds.append(time.perf_counter_ns() - began)
    return min(rounds) / 1000 / 1e3


async def beat_us() -> float:
    """One beat of a monitor in a process of some threads."""
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    event_monitor = EventMonitor(asyncio.get_running_loop(), Events(), ServerCounts())
    rounds = []
    for _ in range(2000):
        began = time.perf_counter_ns()
        event_monitor._beat()
        rounds.append(time.perf_counter_ns() - began)
        event_monitor._timer.cancel()
    event_monitor.close()
    stop.set()
    for thread in threads:
        thread.join()
    return sum(sorted(rounds)[: len(rounds) // 2]) / (len(rounds) // 2) / 1e3


def main() -> None:
    region = TraceRegion.make(places=2, models=1)
    own, shared = record_us(Timeline()), record_us(region.open(1).timelines[0][0])
    beat = uvloop.run(beat_us())
    share = beat * BEATS_A_SECOND / 1e6
    print(f"a trace costs a request {own:.2f} us, shared by workers {shared:.2f} us; limit {TRACE_LIMIT_US:.0f} us")
    print(f"a beat takes {beat:.0f} us with {THREADS + 1} threads, {share:.2%} of a core; limit {BEAT_LIMIT:.1%}")


if __name__ == "__main__":
    main()
