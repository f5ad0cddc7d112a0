"""Log lines on stderr: plain text for people, one JSON object per line for machines."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import orjson


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": self.formatTime(record), "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line).decode()
        except TypeError:  # a lone surrogate, as in a file name that is not UTF-8
            return orjson.dumps({name: _valid(value) for name, value in line.items()}).decode()


def _valid(value: object) -> object:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def log_to_stderr(style: Literal["text", "json"]) -> None:
    """Send the lines of the `tailcut` logger to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("tailcut")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


@contextmanager
def logged_apart() -> Iterator[logging.Handler]:
    """Within this block, a separate thread writes log lines, so that a slow reader of the log delays no request."""
    from tailcut.server.log_queue import LogQueue

    logger = logging.getLogger("tailcut")
    before = [*logger.handlers]
    queue = LogQueue()
    queue.setFormatter(before[-1].formatter if before else None)
    logger.handlers[:] = [queue]
    try:
        yield queue
    finally:
        logger.handlers[:] = before
        queue.close()
