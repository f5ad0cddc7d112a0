"""A collector of OpenTelemetry traces for tests: OTLP over HTTP, decoded with OpenTelemetry's own protobuf."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Span:
    """One span, with its ids as hexadecimal digits and its times in nanoseconds since 1970."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: list[tuple[str, int]]
    links: list[tuple[str, str]]
    status: int  # 0: unset, 2: error
    message: str
    resource: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        """The ids by which links refer to it."""
        return self.trace_id, self.span_id


@dataclass
class Collector:
    """Where the collector listens, and what it has received."""

    url: str = ""
    status: int = 200  # of its answers
    answer: bytes = b""  # body of its answers
    posts: int = 0
    paths: set[str] = field(default_factory=set)
    headers: dict[str, str] = field(default_factory=dict)  # of the last post
    spans: list[Span] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, enough: Callable[[list[Span]], bool]) -> list[Span]:
        """All spans, once there are enough of them."""
        with self.came:
            end = time.monotonic() + PATIENCE_S
            while not enough(self.spans):
                assert self.came.wait(end - time.monotonic()), [(span.name, span.attributes) for span in self.spans]
            return list(self.spans)

    def of(self, trace_id: str, count: int = 1) -> list[Span]:
        """The spans of a trace, once there are at least this many."""
        return [span for span in self.wait(lambda spans: _of(spans, trace_id) >= count) if span.trace_id == trace_id]

    def batch(self, request: Span) -> Span:
        """The span of the batch that a request names."""
        wanted = request.attributes["tailcut.batch.span_id"]
        spans = self.wait(lambda spans: any(span.span_id == wanted for span in spans))
        return next(span for span in spans if span.span_id == wanted)


@contextmanager
def collecting(status: int = 200, answer: bytes = b"") -> Iterator[Collector]:
    """Run a collector on a free port."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    collector = Collector(status=status, answer=answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            with collector.came:  # before the answer, since the client may look at the spans after it
                status = collector.status
                collector.posts += 1
                collector.paths.add(self.path)
                collector.headers = {name.lower(): value for name, value in self.headers.items()}
                if status == 200:
                    collector.spans += _read(ExportTraceServiceRequest.FromString(body))
                collector.came.notify_all()
            self.send_response(status)
            self.send_header("Content-Length", str(len(collector.answer)))
            self.end_headers()
            self.wfile.write(collector.answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # which is how soon it ends
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _of(spans: list[Span], trace_id: str) -> int:
    return sum(span.trace_id == trace_id for span in spans)


def _read(message: Any) -> list[Span]:
    return [
        Span(
            name=span.name,
            kind=span.kind,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            state=span.trace_state,
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            attributes=_values(span.attributes),
            events=[(event.name, event.time_unix_nano) for event in span.events],
            links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
            status=span.status.code,
            message=span.status.message,
            resource=_values(resource.resource.attributes),
        )
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value")) for attribute in attributes}
