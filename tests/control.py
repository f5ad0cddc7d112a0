"""A control for measurements: a process that only sleeps, and reports how late it was woken.

A test judges a measured time only if the control woke in time. Otherwise other work kept the machine busy, and the time
says nothing about Tailcut.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PROGRAM = """
import select, sys, time
late = [0.0]
while not select.select([sys.stdin], [], [], 0)[0]:
    due = time.perf_counter() + 0.005
    time.sleep(0.005)
    late.append(time.perf_counter() - due)
print(sorted(late)[len(late) * 95 // 100])
"""
BUSY_S = 0.002


class Control:
    """How late the control was, once its block has ended."""

    late_s = 0.0  # 95th percentile

    @property
    def busy(self) -> bool:
        """Whether the machine was too busy to wake even a sleeping process in time."""
        return self.late_s > BUSY_S


@contextmanager
def beside() -> Iterator[Control]:
    """Run the control until the block ends."""
    control = Control()
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield control
    finally:
        text, _ = process.communicate()
        control.late_s = float(text)
