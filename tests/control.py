"""A quiet control beside a measurement: a process that only sleeps, and says how late it was woken.

What a test measures of Tailcut is judged where the control woke in time. Where it did not, others kept the machine
busy, and a time says nothing of Tailcut.
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

    late_s = 0.0  # 95 % were no later

    @property
    def busy(self) -> bool:
        """Whether a process that only sleeps could not be in time."""
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
