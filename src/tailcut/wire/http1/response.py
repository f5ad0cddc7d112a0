"""HTTP/1.1 answers as bytes: status lines, heads, dates. Pure."""

from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

JSON = "application/json"
BINARY = "application/octet-stream"
OK = b"HTTP/1.1 200 OK\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
END = b"\r\n\r\n"
CLOSE = b"\r\nConnection: close\r\n\r\n"  # instead of END
KEEP_ALIVE = b"Connection: keep-alive\r\n"
# The head of a stream of events, which ends with the connection, so that HTTP/1.0 clients and proxies can read it, too.
# The last line tells nginx to forward each event at once.
EVENTS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nConnection: close\r\n"
    b"X-Accel-Buffering: no\r\n\r\n"
)
_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


def head(
    status: int, length: int, *, content_type: str = JSON, close: bool = False, headers: Mapping[str, str] | None = None
) -> bytes:
    """A whole response head, including its empty line."""
    lines = [_LINES[status], f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in (headers or {}).items()]
    if close:
        lines.append("Connection: close\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")


def date_line(unix_s: float) -> bytes:
    """The Date header line of an answer (RFC 9110 section 6.6.1)."""
    return f"Date: {formatdate(unix_s, usegmt=True)}\r\n".encode()


def dated(answer: bytes, date: bytes) -> bytes:
    """An answer with its Date line inserted after the status line."""
    start = answer.index(b"\n") + 1
    return b"".join([answer[:start], date, answer[start:]])


def kept(answer: bytes) -> bytes:
    """An answer with "Connection: keep-alive", which tells an HTTP/1.0 client that the connection stays open."""
    return dated(answer, KEEP_ALIVE)


def reply(
    status: int, body: bytes, *, content_type: str = JSON, close: bool = False, headers: Mapping[str, str] | None = None
) -> bytes:
    """A whole response."""
    return head(status, len(body), content_type=content_type, close=close, headers=headers) + body
