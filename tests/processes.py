"""Processes that tests start themselves, and that end with their test."""

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def killed_at_end(process: subprocess.Popen) -> Iterator[None]:
    """Kill the process when the block ends, so that nothing waits for it forever after a failure."""
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
    """Run a command, and signal it once it prints these words; its exit code, standard output and standard error.

    Args:
        command: the command to run.
        folder: its working directory.
        words: the words to wait for on its standard error.
        number: the signal; by default that of Ctrl-C.
        environment: its environment; None: that of this process.
    """
    child = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    with killed_at_end(child):
        assert child.stderr is not None
        for line in child.stderr:
            if words in line:
                break
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    return child.returncode, out, err
