"""Spans of one process at a real collector, without a server."""

import time

import pytest
from tests.collector import collecting

from tailcut.runtime.tracing.timeline import MARKS
from tailcut.server.tracing.records import Origin, Protocol, TracedAnswer, TracedRequest
from tailcut.server.tracing.settings import TracingSettings
from tailcut.server.tracing.tracer import new_span_id, new_trace_id

export = pytest.importorskip("tailcut.server.tracing.export", reason="needs pip install 'tailcut[otel]'")
REQUESTS = 300  # of one batch: more than the 128 links that the SDK keeps


@pytest.mark.parametrize(("limit", "links"), [(None, REQUESTS), ("100", 100), ("", REQUESTS)])
def test_a_batch_is_linked_to_all_of_its_requests(
    limit: str | None, links: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the SDK's own variable says otherwise."""
    monkeypatch.delenv("OTEL_SPAN_LINK_COUNT_LIMIT", raising=False)
    if limit is not None:
        monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", limit)
    moments = tuple(time.monotonic_ns() + number for number in range(len(MARKS)))
    with collecting() as collector:
        sink = export.SpanExport(TracingSettings(f"{collector.url}/v1/traces"), "http")
        sink.hand_over(
            [
                TracedAnswer(
                    TracedRequest(Origin(new_trace_id(), new_span_id()), Protocol.HTTP, "/v2/models/m/infer"),
                    *("m", "1", moments, 1, REQUESTS, REQUESTS, 16),
                )
                for _ in range(REQUESTS)
            ]
        )
        sink.close()
        (batch,) = [span for span in collector.spans if span.name == "batch m"]
    assert len(collector.spans) == REQUESTS + 1
    assert len(batch.links) == links
    assert batch.attributes["tailcut.batch.sampled_requests"] == REQUESTS
