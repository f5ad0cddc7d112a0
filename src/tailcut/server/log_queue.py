"""Writes log lines through a bounded queue and a thread, so that an unread pipe on stderr never blocks the server.

Writing to a pipe blocks once 64 KB in it are unread, and most lines are logged on the event loop. So a line is
formatted where it is logged, put into a queue that never blocks, and written by a thread. Lines that find the queue
full are dropped and counted, and so are lines of one kind (from one place in the code) beyond a rate; a later line
reports how many.

The thread writes to the descriptor directly: one that is stopped during a buffered write would keep the lock of that
buffer, and Python does not exit while it is held. At exit, it has a second for the remaining lines.
"""

import logging
import os
import select
import sys
import threading
import time
from collections import deque

from tailcut.wire.memo import BytesMemo

_LINES = 4096  # waiting to be written, at most
_BURST = 64  # lines of one kind at once
_PER_SECOND = 16  # further lines of one kind per second
_KINDS = 256  # kinds remembered, at most
_TELL_S = 1.0  # between two reports of dropped lines
_EXIT_S = 1.0  # for writing the remaining lines at exit


class LogQueue(logging.Handler):
    """A handler that writes to a file descriptor from a thread of its own; standard error where none is named."""

    def __init__(self, descriptor: int | None = None) -> None:
        super().__init__()
        self._descriptor = _stderr() if descriptor is None else descriptor
        self._lines: deque[str] = deque()
        self._some = threading.Condition(threading.Lock())
        self._kinds: BytesMemo[tuple[str, int], _Rate] = BytesMemo(_KINDS)
        self._closing = False
        self._busy = False  # lines are being written
        self._untold = 0  # lines dropped since the last report
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, name="tailcut-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as dropped."""
        if not self._admits(record):
            self._drop()
            return
        try:
            line = self.format(record) + "\n"
        except Exception:  # noqa: BLE001  as in logging's own handlers
            self.handleError(record)
            return
        with self._some:
            full = len(self._lines) >= _LINES or self._closing
            if not full:
                self._lines.append(line)
                self._some.notify_all()
        if full:
            self._drop()

    def flush(self) -> None:
        """Wait until everything is written, for a second at most."""
        with self._some:
            self._some.wait_for(lambda: not self._lines and not self._busy, _EXIT_S)

    def close(self) -> None:
        """Write what is left, for a second at most."""
        with self._some:
            self._closing = True
            self._some.notify_all()
        if self._thread.is_alive():  # not where the system refused to start it
            self._thread.join(_EXIT_S)
        super().close()

    def _admits(self, record: logging.LogRecord) -> bool:
        """Whether its kind is within the rate. An access log has no limit: its one line per request is intended."""
        if record.name == "tailcut.access":
            return True
        kind = (record.pathname, record.lineno)
        rate = self._kinds.get(kind)
        if rate is None:
            rate = self._kinds.keep(kind, _Rate())
        return rate.admits(time.monotonic())

    def _drop(self) -> None:
        with self._some:
            self.dropped += 1
            self._untold += 1
            if self._untold == 1:
                self._some.notify_all()

    def _write(self) -> None:
        ended = False
        while not ended:
            with self._some:
                # Dropped lines are reported once there is room again, even where nothing else is logged any more.
                self._some.wait_for(lambda: self._lines or self._closing, _TELL_S if self._untold else None)
                lines, untold = list(self._lines), self._untold
                self._lines.clear()
                self._untold = 0
                ended = self._closing
                self._busy = True
            if untold:
                lines.append(self._report(untold))
            _write_all(self._descriptor, "".join(lines).encode(errors="backslashreplace"))
            with self._some:
                self._busy = False
                self._some.notify_all()

    def _report(self, count: int) -> str:
        record = logging.LogRecord("tailcut", logging.WARNING, "", 0, "%d log lines were dropped", (count,), None)
        return self.format(record) + "\n"


class _Rate:
    """At most `_BURST` lines at once, and `_PER_SECOND` more each second."""

    __slots__ = ("_at", "_left")

    def __init__(self) -> None:
        self._left = float(_BURST)
        self._at = 0.0

    def admits(self, now: float) -> bool:
        self._left = min(_BURST, self._left + (now - self._at) * _PER_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _stderr() -> int:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # this process has no stderr
        return -1


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes, however long that takes; they are dropped where nothing can read them any more."""
    while data and descriptor >= 0:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another process that shares the descriptor made it non-blocking
            select.select([], [descriptor], [], 1.0)
        except OSError:
            return


def dropped_lines() -> int:
    """How many lines were not written since the start."""
    return sum(handler.dropped for handler in logging.getLogger("tailcut").handlers if isinstance(handler, LogQueue))
