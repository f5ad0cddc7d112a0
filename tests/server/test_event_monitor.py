"""What the server sees of its own loop."""

import asyncio
import time

import uvloop

from tailcut.runtime.tracing.timeline import Events
from tailcut.server.event_monitor import EventMonitor
from tailcut.server.metrics import ServerCounts


def test_a_held_up_loop_is_seen() -> None:
    """The metric is the time by which the loop was late for a timer, and how much of it the loop's thread computed."""
    counts = ServerCounts()

    async def run() -> None:
        event_monitor = EventMonitor(asyncio.get_running_loop(), Events(), counts)
        for work in (time.sleep, _compute):
            work(0.1)
            await asyncio.sleep(0.03)
            if work is time.sleep:
                assert counts.loop_stall_ns > 80_000_000
                assert counts.loop_stall_cpu_ns < 80_000_000
        event_monitor.close()

    uvloop.run(run())
    assert counts.loop_stall_cpu_ns > 60_000_000


def _compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
