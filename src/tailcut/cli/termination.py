"""SIGTERM ends a command that measures as Ctrl-C does: its servers are stopped, its files removed, its result written.

Batch systems, CI and `timeout` send it, and by default nothing of that would be done.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from tailcut.cli.main import INTERRUPTED

TERMINATED = 143  # 128 + SIGTERM


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Within the block, the first SIGTERM raises KeyboardInterrupt; those after it are ignored, as all is being ended.

    Raises:
        Exit: the block did not take the KeyboardInterrupt; with the exit code of SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():  # it gets no signals
        yield
        return
    process = os.getpid()

    def interrupt(*_: object) -> None:
        if os.getpid() == process:
            signal.signal(signal.SIGTERM, _ignore)
            raise KeyboardInterrupt
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # of a process that was forked
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if is_terminated():
            raise typer.Exit(TERMINATED) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def is_terminated() -> bool:
    """Whether SIGTERM has ended the block."""
    return signal.getsignal(signal.SIGTERM) is _ignore


def nothing_found_code() -> int:
    """The exit code of a command that was ended before it found anything."""
    return TERMINATED if is_terminated() else INTERRUPTED


def _ignore(*_: object) -> None:
    """A function, because a program that is executed meanwhile would inherit SIG_IGN."""
