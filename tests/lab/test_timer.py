"""Waking a loop at a planned time."""

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop

from tailcut.lab.timer import Timer, loop_timer


@pytest.mark.parametrize("make", [loop_timer, Timer])
def test_it_calls_once_not_before_its_time(make: Callable[..., Timer]) -> None:
    """A time that has passed is now; after each call it may be armed again."""

    async def waited() -> list[int]:
        loop, late = asyncio.get_running_loop(), []
        fired = asyncio.Event()
        timer = make(loop, fired.set)
        for ahead_ns in (20_000_000, 5_000_000, -1_000_000):
            planned = time.monotonic_ns() + ahead_ns
            timer.arm(planned)
            await asyncio.wait_for(fired.wait(), 20)
            late.append(time.monotonic_ns() - planned)
            fired.clear()
        timer.close()
        return late

    assert min(uvloop.run(waited())) > -2_000_000  # a loop's own timers have a grain of a millisecond
