"""Processes that tests start by themselves, and that end with their test."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ended(process: subprocess.Popen) -> Iterator[None]:
    """Kill the process when the block ends: what waits for it after a failure would wait for as long as it lives."""
    try:
        yield
    finally:
        process.kill()
