"""Log lines of a stage's process, which go to its server through a socket, each a JSON array: level, logger, message.

The server writes them where its own lines go, in its own format and within its own rate. The process never waits for
that: what finds the socket full is dropped, so that a log which is not read delays no request.
"""

import logging
import socket
from contextlib import suppress

import msgspec

_log = logging.getLogger("tailcut")
_MOST = 65536  # bytes of a line
_MESSAGE = 16384  # characters of one record, the last of them: a traceback ends with what was raised
_decode = msgspec.json.Decoder(tuple[int, str, str]).decode


class LogSender(logging.Handler):
    """The process's side: sends records without blocking."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        sock.setblocking(False)
        self._sock = sock
        self._rest = b""  # of a line that was sent in part

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, or drop it."""
        try:
            text = self.format(record)[-_MESSAGE:].encode(errors="replace").decode()
            line = msgspec.json.encode((record.levelno, record.name, text)) + b"\n"
        except Exception:  # noqa: BLE001  as logging's own handlers have it
            self.handleError(record)
            return
        with suppress(OSError):  # it is full, or the server has gone
            if self._rest:
                self._rest = self._rest[self._sock.send(self._rest) :]
            if not self._rest:
                self._rest = line[self._sock.send(line) :]


def log_from(sock: socket.socket, stage: str) -> None:
    """Log what a stage's process sends, until it has ended."""
    with sock, sock.makefile("rb") as lines:
        while line := lines.readline(_MOST):
            try:
                level, logger, message = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            text = message if logger == "tailcut" else f"stage {stage!r}: {logger}: {message}"
            _log.log(min(max(level, logging.DEBUG), logging.CRITICAL), "%s", text)
