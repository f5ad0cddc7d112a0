"""One log line per request, where enabled, with the W3C trace context that the client sent.

A line has the method, the path, the status, the bytes of the answer and the time from head to answer. It never
shows a body, a header or a query; a `traceparent` that is not well-formed is left out.
"""

import logging

from tailcut.wire import trace_context
from tailcut.wire.http1.head import Head

_log = logging.getLogger("tailcut.access")


def trace_of(traceparent: bytes) -> dict[str, str]:
    """The ids in a `traceparent` under the names that log lines use; empty where it is malformed."""
    context = trace_context.read_context(traceparent)
    return {} if context is None else context.ids


def trace_of_head(head: bytes) -> dict[str, str]:
    """The same ids, from the bytes of an HTTP request's head."""
    context = trace_context.of_head(head)
    return {} if context is None else context.ids


def with_trace(message: str, trace: dict[str, str]) -> str:
    """The log message, followed by the trace's ids where there is a trace."""
    return " ".join([message, *(f"{name}={value}" for name, value in trace.items())])


def log_http(head: Head, status: int, size: int, took_ns: int, trace: dict[str, str]) -> None:
    """Log an HTTP request that took `took_ns` nanoseconds and got an answer of `size` bytes."""
    method = head.method.decode("latin-1") or "-"
    _line({"method": method, "path": head.path or "-", "status": status, "bytes": size}, took_ns, trace)


def log_grpc(call: str, status: str, size: int, took_ns: int, trace: dict[str, str]) -> None:
    """Log a gRPC call, or one request of a stream."""
    _line({"method": "gRPC", "path": call, "status": status, "bytes": size}, took_ns, trace)


def _line(entry: dict[str, str | int], took_ns: int, trace: dict[str, str]) -> None:
    micros = took_ns // 1000
    text = f"{entry['method']} {entry['path']} {entry['status']} {entry['bytes']} bytes {micros} us"
    _log.info("%s", with_trace(text, trace), extra={"fields": entry | {"us": micros} | trace})
