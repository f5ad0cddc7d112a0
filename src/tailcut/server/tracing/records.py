"""The records of sampled requests, from which spans are built."""

from enum import StrEnum
from typing import NamedTuple

from tailcut.runtime.tracing.timeline import StepTrace


class Protocol(StrEnum):
    """The protocol of a request."""

    HTTP = "http"
    GRPC = "grpc"


class Origin(NamedTuple):
    """The span of a request and its position in the trace; ids are hexadecimal digits."""

    trace_id: str
    span_id: str
    parent_id: str = ""  # the caller's span; empty: the trace begins here
    state: str = ""  # `tracestate`


class TracedRequest(NamedTuple):
    """A sampled request; `target` is the path over HTTP, and the method's full name over gRPC."""

    origin: Origin
    protocol: Protocol
    target: str


class TracedAnswer(NamedTuple):
    """An answered request. `moments` are monotonic nanoseconds, in the order of `timeline.MARKS`."""

    asked: TracedRequest
    model: str
    version: str
    moments: tuple[int, ...]
    rows: int
    batch_rows: int
    batch_requests: int
    body_bytes: int
    steps: tuple[StepTrace, ...] = ()  # of a pipeline


class Failure(NamedTuple):
    """A request that was refused, failed, or whose client disconnected. Times are monotonic nanoseconds."""

    asked: TracedRequest
    model: str  # empty where none was found
    version: str
    began_ns: int
    ended_ns: int
    status: int | str  # HTTP or gRPC status; 0 where none was sent
    kind: str  # of error: the class's name
    message: str = ""  # the message that the client got


Record = TracedAnswer | Failure
