"""One log line a request, where asked for, with the W3C trace context that the client sent.

A line has the client, the request line, the status, the bytes of the answer and the time from head to answer. It never
shows a body, a header or a query; a `traceparent` that is not well-formed is left out.
"""

import logging
import re

from tailcut.wire.http1.head import Head

_log = logging.getLogger("tailcut.access")
_FIELD = re.compile(rb"^traceparent:[ \t]*([^\r\n]*?)[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")


def trace_of(traceparent: str) -> dict[str, str]:
    """The ids in a `traceparent` (W3C Trace Context, level 1), by the names that log lines give them; or none."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return {"trace_id": match[1], "parent_id": match[2]} if match else {}


def trace_of_head(head: bytes) -> dict[str, str]:
    """The same, from the bytes of the head of an HTTP request: the last such field, as all fields that are repeated."""
    found = _FIELD.findall(head)
    return trace_of(found[-1].decode("latin-1")) if found else {}


def trace_field(head: bytes) -> bytes:
    """Of a head that is too long to be kept, what `trace_of_head` reads."""
    return b"".join(b"traceparent: %b\r" % value for value in _FIELD.findall(head)[-1:])


def with_trace(message: str, trace: dict[str, str]) -> str:
    """A log message with the trace behind it, where there is one."""
    return " ".join([message, *(f"{name}={value}" for name, value in trace.items())])


def log_http(head: Head, status: int, size: int, took_ns: int, trace: dict[str, str]) -> None:
    """A request over HTTP."""
    method = head.method.decode("latin-1") or "-"
    _line({"method": method, "path": head.path or "-", "status": status, "bytes": size}, took_ns, trace)


def log_grpc(call: str, status: str, size: int, took_ns: int, trace: dict[str, str]) -> None:
    """A call over gRPC; of a stream, each of its requests."""
    _line({"method": "gRPC", "path": call, "status": status, "bytes": size}, took_ns, trace)


def _line(said: dict[str, str | int], took_ns: int, trace: dict[str, str]) -> None:
    micros = took_ns // 1000
    text = f"{said['method']} {said['path']} {said['status']} {said['bytes']} bytes {micros} us"
    _log.info("%s", with_trace(text, trace), extra={"fields": said | {"us": micros} | trace})
