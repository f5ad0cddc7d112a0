"""Forwards log lines of a stage's process to its server through a socket, as JSON arrays of level, logger and message.

The server writes them to its own log, in its own format and with its own rate limit. The process never waits for that:
when the socket is full, lines are dropped, so that a log which nobody reads delays no request.
"""

import logging
import socket
from contextlib import suppress

import msgspec

_log = logging.getLogger("tailcut")
_MOST = 65536  # bytes of a line
_MESSAGE = 16384  # characters of one record; the last are kept, as a traceback ends with the exception
_decode = msgspec.json.Decoder(tuple[int, str, str]).decode


class LogSender(logging.Handler):
    """The process's side: sends records without blocking."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        sock.setblocking(False)
        self._sock = sock
        self._rest = b""  # the unsent part of a line

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, or drop it if the socket is full."""
        try:
            text = self.format(record)[-_MESSAGE:].encode(errors="replace").decode()
            line = msgspec.json.encode((record.levelno, record.name, text)) + b"\n"
        except Exception:  # noqa: BLE001  as logging's own handlers do
            self.handleError(record)
            return
        with suppress(OSError):  # the socket is full, or the server has ended
            if self._rest:
                self._rest = self._rest[self._sock.send(self._rest) :]
            if not self._rest:
                self._rest = line[self._sock.send(line) :]


def log_from(sock: socket.socket, stage: str) -> None:
    """Log the lines that a stage's process sends, until it ends."""
    with sock, sock.makefile("rb") as lines:
        while line := lines.readline(_MOST):
            try:
                level, logger, message = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            text = message if logger == "tailcut" else f"stage {stage!r}: {logger}: {message}"
            _log.log(min(max(level, logging.DEBUG), logging.CRITICAL), "%s", text)
