"""SIGTERM ends a measuring command like Ctrl-C: it stops its servers, removes its files and writes its result.

Batch systems, CI and `timeout` send SIGTERM, whose default action would do none of this. A second Ctrl-C soon after the
first, from a key that is held or a program that repeats it, does not interrupt the clean-up.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from tailcut.cli.main import INTERRUPTED

TERMINATED = 143  # 128 + SIGTERM
_PATIENCE_S, _PATIENCE = 2.0, 2  # seconds after the first, and number, of Ctrl-C until another one ends the command
_AGAIN = "again"
_SOON_S = 0.02


class _Interrupts:
    """The signal handlers of one block, with the times of its interrupts."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._times: list[float] = []
        self._newest = signal.SIGINT
        self._unraisable = sys.unraisablehook

    def terminate(self, *_: object) -> None:
        """Handle SIGTERM."""
        if os.getpid() == self._process:
            signal.signal(signal.SIGTERM, _ignore)
            self._note(signal.SIGTERM)
            raise KeyboardInterrupt
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # in a forked process
        os.kill(os.getpid(), signal.SIGTERM)

    def interrupt(self, *_: object) -> None:
        """Handle SIGINT (Ctrl-C)."""
        self._note(signal.SIGINT)
        if os.getpid() != self._process or len(self._times) == 1:
            raise KeyboardInterrupt
        if len(self._times) > _PATIENCE or self._times[-1] - self._times[0] > _PATIENCE_S:
            raise KeyboardInterrupt(_AGAIN)

    def discarded(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Have a signal handled again whose interrupt Python discarded, as in a finalizer or a hook of fork(2)."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt) or os.getpid() != self._process or not self._times:
            self._unraisable(unraisable)
            return
        self._times.pop()
        if self._newest is signal.SIGTERM:
            signal.signal(signal.SIGTERM, self.terminate)
        # Not at once: it would be discarded again.
        threading.Timer(_SOON_S, os.kill, (self._process, self._newest)).start()

    def _note(self, number: signal.Signals) -> None:
        self._newest = number
        self._times.append(time.monotonic())


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Within the block, the first SIGTERM or Ctrl-C raises KeyboardInterrupt.

    Further SIGTERMs are ignored, and so is a second Ctrl-C within 2 s; a third one, or a later one, raises
    KeyboardInterrupt again.

    Raises:
        Exit: SIGTERM was received, and the block did not catch the KeyboardInterrupt; with the exit code of SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
    interrupts = _Interrupts()
    before = signal.signal(signal.SIGTERM, interrupts.terminate)
    hears = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # false in the background: it is ignored
    if hears:
        signal.signal(signal.SIGINT, interrupts.interrupt)
    unraisable, sys.unraisablehook = sys.unraisablehook, interrupts.discarded
    try:
        yield
    except KeyboardInterrupt:
        if is_terminated():
            raise typer.Exit(TERMINATED) from None
        raise
    finally:
        sys.unraisablehook = unraisable
        signal.signal(signal.SIGTERM, before)
        if hears:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def nothing_written(words: str) -> Iterator[None]:
    """Report that no file was written if an interrupt leaves the block, at whose end all files have been written.

    Args:
        words: what had not happened yet, such as "anything raced".
    """
    try:
        yield
    except KeyboardInterrupt as error:
        again = "again before the files were written"
        text = again if _AGAIN in error.args else f"before {words}: no file was written"
        print(f"tailcut: interrupted {text}", file=sys.stderr)
        raise


def is_terminated() -> bool:
    """Whether SIGTERM has ended the block."""
    return signal.getsignal(signal.SIGTERM) is _ignore


def nothing_found_code() -> int:
    """The exit code of a command that was interrupted before it found anything."""
    return TERMINATED if is_terminated() else INTERRUPTED


def exit_without_profile(wrong: str, words: str, *, nothing_won: bool) -> None:
    """Exit from a tune that writes no profile: its answers are wrong, or it was interrupted before what `words` say.

    Raises:
        Exit: in both of these cases.
    """
    if wrong:
        print(f"tailcut: no profile written: {' '.join(wrong.split())}", file=sys.stderr)
        raise typer.Exit(1)
    if nothing_won:
        print(f"tailcut: interrupted before {words}: no file was written", file=sys.stderr)
        raise typer.Exit(nothing_found_code())


def _ignore(*_: object) -> None:
    """Ignore a signal; with SIG_IGN, a program that is executed meanwhile would inherit that."""
