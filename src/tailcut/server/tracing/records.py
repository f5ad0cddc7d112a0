"""What is kept of a sampled request until its spans are built."""

from enum import StrEnum
from typing import NamedTuple

from tailcut.runtime.tracing.timeline import StepTrace


class Protocol(StrEnum):
    """How a request came."""

    HTTP = "http"
    GRPC = "grpc"


class Origin(NamedTuple):
    """The span of a request, and where in its trace it stands: ids as hexadecimal digits."""

    trace_id: str
    span_id: str
    parent_id: str = ""  # of the caller's span; empty: the trace begins here
    state: str = ""  # `tracestate`


class TracedRequest(NamedTuple):
    """A sampled request: what was asked for; `target` is the path over HTTP, and the method's full name over gRPC."""

    origin: Origin
    protocol: Protocol
    target: str


class TracedAnswer(NamedTuple):
    """A request that has its answer. Moments are monotonic nanoseconds, in the order of `timeline.MARKS`."""

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
    """A request without an answer: refused, failed, or its client left. Moments are monotonic nanoseconds."""

    asked: TracedRequest
    model: str  # empty where none was found
    version: str
    began_ns: int
    ended_ns: int
    status: int | str  # of HTTP or gRPC; 0 where none was sent
    kind: str  # of error
    message: str = ""  # as the client was told


Record = TracedAnswer | Failure
