"""Wakes a loop at a planned nanosecond.

A timerfd has a resolution of nanoseconds, and uvloop's timers one of a millisecond. The loop sleeps in the kernel
between sends, so the client uses no more of the machine than its sends need. Without timerfd (macOS), the loop's timers
are used, and the reported lateness shows the effect.
"""

import asyncio
import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable


def loop_timer(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> "Timer":
    """The finest timer that this system has."""
    return _KernelTimer(loop, callback) if sys.platform.startswith("linux") else Timer(loop, callback)


class Timer:
    """Calls the callback once at the armed time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback

    def arm(self, at_ns: int) -> None:
        """Have the callback called at a monotonic time; another call moves it."""
        delay = max(0, at_ns - time.monotonic_ns()) / 1e9
        self._loop.call_later(delay, self._callback)

    def close(self) -> None:
        """Cancel the timer, and free its resources."""


class _KernelTimer(Timer):
    """A timer by timerfd_create(2), whose descriptor becomes readable at the armed time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        super().__init__(loop, callback)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        loop.add_reader(self._fd, self._fired)

    def arm(self, at_ns: int) -> None:
        """Have the callback called at a monotonic time; another call moves it."""
        seconds, nanos = divmod(max(at_ns, 1), 1_000_000_000)
        self._libc.timerfd_settime(self._fd, 1, struct.pack("qqqq", 0, 0, seconds, nanos), None)  # 1: TFD_TIMER_ABSTIME

    def close(self) -> None:
        """Close the descriptor."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._callback()
