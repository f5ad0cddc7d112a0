"""The loop's side of tracing: which requests are sampled, and their records, handed over once per pass of the loop."""

import random
import time
from collections.abc import Callable
from typing import Protocol as Interface

from tailcut.runtime.tracing.timeline import StepTrace
from tailcut.server.latency import Exemplar
from tailcut.server.metrics import ServerCounts, batch_bucket
from tailcut.server.served_model import ServedModel
from tailcut.server.tracing.records import Failure, Origin, Protocol, Record, TracedAnswer, TracedRequest
from tailcut.server.tracing.sampler import Sampler
from tailcut.wire.trace_context import TraceContext, may_be_sampled, of_head, read_context

_now_ns = time.monotonic_ns
_ENDED, _READY = 4, 1  # indices in `timeline.MARKS`
_STATE_BITS = 64


class Sink(Interface):
    """Takes the records of requests."""

    def hand_over(self, records: list[Record]) -> None:
        """Take records, or count them as dropped; never waits."""

    def count(self, counts: ServerCounts) -> None:
        """Write how many spans were exported and dropped into the server's counts."""

    def close(self) -> None:
        """Export the rest, for a limited time."""


class Tracer:
    """Keeps records of sampled requests for one event loop."""

    def __init__(self, sampler: Sampler, sink: Sink, call_soon: Callable[..., object]) -> None:
        self.sampler = sampler
        self._sink = sink
        self._call_soon = call_soon
        self._records: list[Record] = []
        self.count = sink.count

    # Whether a request is sampled: these return None where it is not.

    def of_head(self, head: bytes, path: str) -> TracedRequest | None:
        """The trace of an HTTP request, by the bytes of its head."""
        if self.sampler.only_sampled and not may_be_sampled(head):
            return None
        context = of_head(head)
        return TracedRequest(_origin(context), Protocol.HTTP, path) if self.sampler.takes(context) else None

    def of_root(self, path: str) -> TracedRequest:
        """A new trace for an HTTP request without a context, which the sampler has chosen."""
        return TracedRequest(_origin(None), Protocol.HTTP, path)

    def of_call(self, method: str, traceparent: bytes, tracestate: bytes) -> TracedRequest | None:
        """The trace of a gRPC call, by its metadata."""
        context = read_context(traceparent, [tracestate] if tracestate else ()) if traceparent else None
        return TracedRequest(_origin(context), Protocol.GRPC, method) if self.sampler.takes(context) else None

    # The end of a request.

    def answered(  # noqa: PLR0913, PLR0917  a record
        self,
        asked: TracedRequest,
        served: ServedModel,
        moments: tuple[int, ...],
        rows: int,
        batch: tuple[int, int],
        body_bytes: int,
        steps: tuple[StepTrace, ...] = (),
    ) -> None:
        """Record an answered request; `batch` is the number of rows and of requests in its batch."""
        now_s, trace = time.time(), asked.origin.trace_id
        served.latency.note(Exemplar(now_s, moments[_ENDED] - moments[_READY], trace))
        served.batch_exemplars[batch_bucket(batch[0])] = Exemplar(now_s, batch[0], trace)
        self._keep(TracedAnswer(asked, served.name, served.version, moments, rows, *batch, body_bytes, steps))

    def failed(  # noqa: PLR0913  a record
        self,
        asked: TracedRequest,
        served: ServedModel | None,
        began_ns: int,
        *,
        status: int | str,
        kind: str,
        message: str = "",
    ) -> None:
        """Record a request that failed or was refused."""
        now_ns = _now_ns()
        name, version = ("", "") if served is None else (served.name, served.version)
        self._keep(Failure(asked, name, version, min(began_ns or now_ns, now_ns), now_ns, status, kind, message))

    def flush(self) -> None:
        """Hand over the records that are kept."""
        records, self._records = self._records, []
        if records:
            self._sink.hand_over(records)

    def close(self) -> None:
        """Export the rest, for a limited time; no request may be in progress."""
        self.flush()
        self._sink.close()

    def _keep(self, record: Record) -> None:
        self._records.append(record)
        if len(self._records) == 1:
            self._call_soon(self.flush)


def _origin(context: TraceContext | None) -> Origin:
    if context is None:
        return Origin(new_trace_id(), new_span_id())
    return Origin(context.trace_id, new_span_id(), context.parent_id, context.state)


def new_trace_id() -> str:
    """A random id that is not 0."""
    return f"{random.getrandbits(2 * _STATE_BITS) or 1:032x}"


def new_span_id() -> str:
    """A random id that is not 0."""
    return f"{random.getrandbits(_STATE_BITS) or 1:016x}"
