"""From records to spans: names, attributes, events and links. Only this module and `export` use OpenTelemetry's SDK.

The span of a request follows OpenTelemetry's conventions for HTTP and RPC servers; its stages are events. The batch in
which it was computed has a trace of its own, with links to all of its sampled requests, which link back to it. The same
holds for the batch of each step of a pipeline, whose requests have a child span for each step.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from tailcut.runtime.tracing.timeline import MARKS, StepTrace
from tailcut.server.tracing.records import Failure, Origin, Protocol, Record, TracedAnswer
from tailcut.server.tracing.tracer import new_span_id, new_trace_id

SETTLED_S = 1.0  # after its last answer, until a batch is taken to be complete
_DRIFT_NS = 1_000_000  # tolerated between the wall clock and the monotonic clock
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NO_PARENT = SpanContext(0, 0, is_remote=False)
_EVENTS = {  # the names of the events at the moments of the timeline
    "head": "received",
    "ready": "queued",
    "formed": "batched",
    "began": "computing",
    "ended": "computed",
    "encoded": "encoded",
    "written": "sent",
}
_READY, _FORMED, _BEGAN, _ENDED = (MARKS.index(mark) for mark in ("ready", "formed", "began", "ended"))
_ROOT = "/v2/models/{model}"
_ROUTES = {4: f"{_ROOT}/infer", 6: f"{_ROOT}/versions/{{version}}/infer"}  # by the number of parts of the path
# The gRPC statuses that are the server's fault in OpenTelemetry's conventions.
_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

_Attributes = dict[str, str | int | float]


class GivenIds(IdGenerator):  # type: ignore[misc]  # mypy runs without OpenTelemetry
    """Returns ids that were chosen when the request was answered, because its exemplar and its batch refer to them."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0

    def generate_trace_id(self) -> int:
        """Give the one that was set."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """Give the one that was set."""
        return self.span_id


@dataclass(slots=True)
class BatchSpan:
    """A batch whose requests are still being collected."""

    name: str
    origin: Origin
    began_ns: int
    ended_ns: int
    attributes: _Attributes
    links: list[Link] = field(default_factory=list)
    touched_ns: int = 0


class SpanBuilder:
    """Builds the spans of one process, on one thread. Each is ended, and so passed to the processor, when it is built.

    Args:
        tracer: of the SDK; it must sample every span.
        ids: the generator of that tracer.
        scheme: of the URLs that clients use.
    """

    def __init__(self, tracer: Tracer, ids: GivenIds, scheme: str) -> None:
        self._tracer = tracer
        self._ids = ids
        self._scheme = scheme
        self._batches: dict[tuple[str, str, str, int], BatchSpan] = {}
        self._wall_ns = 0  # wall-clock time at 0 of the monotonic clock

    @property
    def has_batches(self) -> bool:
        """Whether batches wait for `settled`."""
        return bool(self._batches)

    def build(self, record: Record) -> int:
        """Build the spans of a request; returns their number."""
        wall_ns = time.time_ns() - time.monotonic_ns()
        if abs(wall_ns - self._wall_ns) > _DRIFT_NS:  # following less would only part batches from their requests
            self._wall_ns = wall_ns
        if isinstance(record, Failure):
            self._failure(record)
            return 1
        return self._answer(record)

    def settled(self, now_ns: int, *, all_of_them: bool = False) -> list[BatchSpan]:
        """Remove and return the batches whose requests are complete."""
        before_ns = now_ns - int(SETTLED_S * 1e9)
        done = [key for key, batch in self._batches.items() if all_of_them or batch.touched_ns <= before_ns]
        return [self._batches.pop(key) for key in done]

    def build_batch(self, batch: BatchSpan) -> None:
        """Build the span of a batch."""
        attributes = batch.attributes | {"tailcut.batch.sampled_requests": len(batch.links)}
        span = self._start(batch.name, batch.origin, SpanKind.INTERNAL, batch.began_ns, attributes, batch.links)
        self._end(span, batch.ended_ns)

    def _answer(self, record: TracedAnswer) -> int:
        asked, moments = record.asked, record.moments
        attributes = self._named(asked.protocol, asked.target, record.model, record.version)
        attributes |= {
            "tailcut.rows": record.rows,
            "tailcut.queue_us": (moments[_BEGAN] - moments[_READY]) // 1000,
            "tailcut.compute_us": (moments[_ENDED] - moments[_BEGAN]) // 1000,
        }
        if asked.protocol is Protocol.HTTP:
            attributes |= {"http.response.status_code": 200}
            if record.body_bytes:
                attributes["http.request.body.size"] = record.body_bytes
        else:
            attributes["rpc.response.status_code"] = "OK"
        links = []
        if not record.steps:
            batch = self._batch_of(record)
            batch.links.append(Link(_context(asked.origin), {"tailcut.rows": record.rows}))
            attributes |= _of_batch(batch)
            links.append(_link_to(batch))
        span = self._start(
            _name(asked.protocol, asked.target), asked.origin, SpanKind.SERVER, moments[0], attributes, links
        )
        for mark, moment in zip(MARKS, moments, strict=True):
            if mark in _EVENTS:
                span.add_event(_EVENTS[mark], timestamp=moment + self._wall_ns)
        for step in record.steps:
            self._step(record, step)
        self._end(span, moments[-1])
        return 1 + len(record.steps)

    def _step(self, record: TracedAnswer, step: StepTrace) -> None:
        """Build the span of one step, as a child of its request's span."""
        origin = record.asked.origin
        batch = self._batch(record, step)
        child = Origin(origin.trace_id, new_span_id(), origin.span_id, origin.state)
        attributes: _Attributes = {
            "tailcut.step": step.step,
            "tailcut.queue_us": (step.began_ns - step.ready_ns) // 1000,
            "tailcut.compute_us": (step.ended_ns - step.began_ns) // 1000,
        }
        attributes |= _of_batch(batch)
        batch.links.append(Link(_context(child), {"tailcut.rows": record.rows}))
        span = self._start(step.step, child, SpanKind.INTERNAL, step.ready_ns, attributes, [_link_to(batch)], own=True)
        for name, moment in (("batched", step.formed_ns), ("computing", step.began_ns)):
            span.add_event(name, timestamp=moment + self._wall_ns)
        self._end(span, step.ended_ns)

    def _failure(self, record: Failure) -> None:
        asked, status = record.asked, record.status
        attributes = self._named(asked.protocol, asked.target, record.model, record.version)
        attributes["error.type"] = record.kind
        if isinstance(status, str):
            attributes["rpc.response.status_code"] = status
            fault = status in _FAULTS
        else:
            fault = status >= 500  # a client's mistake is not an error of the server's span
            if status:
                attributes["http.response.status_code"] = status
        name = _name(asked.protocol, asked.target)
        span = self._start(name, asked.origin, SpanKind.SERVER, record.began_ns, attributes, [])
        span.add_event("received", timestamp=record.began_ns + self._wall_ns)
        if fault:
            span.set_status(Status(StatusCode.ERROR, record.message or None))
        self._end(span, record.ended_ns)

    def _named(self, protocol: Protocol, target: str, model: str, version: str) -> _Attributes:
        """The attributes that identify the request."""
        named: _Attributes = {}
        if protocol is Protocol.HTTP:
            named |= {"http.request.method": "POST", "http.route": _route(target), "url.path": target}
            named |= {"url.scheme": self._scheme, "network.protocol.version": "1.1"}
        else:
            named |= {"rpc.system.name": "grpc", "rpc.method": target}
        return named | ({"tailcut.model.name": model, "tailcut.model.version": version} if model else {})

    def _batch_of(self, record: TracedAnswer) -> BatchSpan:
        _, ready, formed, began, ended, *_ = record.moments
        return self._batch(record, StepTrace("", ready, formed, began, ended, record.batch_rows, record.batch_requests))

    def _batch(self, record: TracedAnswer, step: StepTrace) -> BatchSpan:
        """The batch of a request, or of one of its steps, identified by the time at which it was formed."""
        key = (record.model, record.version, step.step, step.formed_ns)
        batch = self._batches.get(key)
        if batch is None:
            attributes: _Attributes = {
                "tailcut.model.name": record.model,
                "tailcut.model.version": record.version,
                "tailcut.batch.rows": step.batch_rows,
                "tailcut.batch.requests": step.batch_requests,
            }
            if step.step:
                attributes["tailcut.step"] = step.step
            name, origin = f"batch {step.step or record.model}", Origin(new_trace_id(), new_span_id())
            batch = self._batches[key] = BatchSpan(name, origin, step.began_ns, step.ended_ns, attributes)
        batch.touched_ns = time.monotonic_ns()
        return batch

    def _start(  # noqa: PLR0913, PLR0917  the parts of a span
        self,
        name: str,
        origin: Origin,
        kind: SpanKind,
        began_ns: int,
        attributes: Mapping[str, Any],
        links: list[Link],
        *,
        own: bool = False,
    ) -> Any:
        """Start a span; with `own`, its parent is a span of this process."""
        parent = _parent(origin, is_remote=not own) if origin.parent_id else _NO_PARENT
        self._ids.trace_id, self._ids.span_id = int(origin.trace_id, 16), int(origin.span_id, 16)
        return self._tracer.start_span(
            name,
            set_span_in_context(NonRecordingSpan(parent)),
            kind,
            attributes,
            links,
            began_ns + self._wall_ns,
        )

    def _end(self, span: Any, ended_ns: int) -> None:
        span.end(ended_ns + self._wall_ns)


def _context(origin: Origin) -> SpanContext:
    state = TraceState.from_header([origin.state]) if origin.state else None
    return SpanContext(int(origin.trace_id, 16), int(origin.span_id, 16), False, _SAMPLED, state)


def _parent(origin: Origin, *, is_remote: bool) -> SpanContext:
    state = TraceState.from_header([origin.state]) if origin.state else None
    return SpanContext(int(origin.trace_id, 16), int(origin.parent_id, 16), is_remote, _SAMPLED, state)


def _link_to(batch: BatchSpan) -> Link:
    return Link(_context(batch.origin), {"tailcut.batch.rows": batch.attributes["tailcut.batch.rows"]})


def _of_batch(batch: BatchSpan) -> _Attributes:
    """The attributes of a request's batch."""
    return {
        "tailcut.batch.rows": batch.attributes["tailcut.batch.rows"],
        "tailcut.batch.requests": batch.attributes["tailcut.batch.requests"],
        "tailcut.batch.trace_id": batch.origin.trace_id,
        "tailcut.batch.span_id": batch.origin.span_id,
    }


def _route(path: str) -> str:
    return _ROUTES.get(len(path.strip("/").split("/")), path)


def _name(protocol: Protocol, target: str) -> str:
    return f"POST {_route(target)}" if protocol is Protocol.HTTP else target
