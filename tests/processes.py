"""Processes that tests start by themselves, and that end with their test."""

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ended(process: subprocess.Popen) -> Iterator[None]:
    """Kill the process when the block ends: what waits for it after a failure would wait for as long as it lives."""
    try:
        yield
    finally:
        process.kill()


def interrupted(
    command: Sequence[str],
    folder: Path,
    words: str,
    number: signal.Signals = signal.SIGINT,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str, str]:
    """Run a command in a folder, and end it when it says these words; its exit code, and what it printed.

    Args:
        command: that is run.
        folder: where.
        words: on its standard error.
        number: of the signal, Ctrl-C's by default.
        environment: instead of this process's.
    """
    child = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    with ended(child):
        assert child.stderr is not None
        for line in child.stderr:
            if words in line:
                break
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    return child.returncode, out, err
