"""Spans of one process at a real collector, without a server."""

import re
import time

import pytest
from tests.collector import PATIENCE_S, collecting

from tailcut.runtime.tracing.timeline import MARKS
from tailcut.server.metrics import ServerCounts
from tailcut.server.tracing.records import Origin, Protocol, TracedAnswer, TracedRequest
from tailcut.server.tracing.settings import Buffering, TracingSettings
from tailcut.server.tracing.tracer import new_span_id, new_trace_id

export = pytest.importorskip("tailcut.server.tracing.export", reason="needs pip install 'tailcut[otel]'")
REQUESTS = 150  # of one batch: more than the 128 links that the SDK keeps


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the last spans take longer than a server that ends waits for them."""
    monkeypatch.setattr(export, "FLUSH_S", PATIENCE_S)


def one_batch(requests: int) -> list[TracedAnswer]:
    """The records of so many requests, of one row each."""
    moments = tuple(time.monotonic_ns() + number for number in range(len(MARKS)))
    return [
        TracedAnswer(
            TracedRequest(Origin(new_trace_id(), new_span_id()), Protocol.HTTP, "/v2/models/m/infer"),
            *("m", "1", moments, 1, requests, requests, 16),
        )
        for _ in range(requests)
    ]


@pytest.mark.parametrize(("limit", "links"), [(None, REQUESTS), ("100", 100), ("", REQUESTS)])
def test_a_batch_is_linked_to_all_of_its_requests(
    limit: str | None, links: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the SDK's own variable says otherwise."""
    monkeypatch.delenv("OTEL_SPAN_LINK_COUNT_LIMIT", raising=False)
    if limit is not None:
        monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", limit)
    with collecting() as collector:
        sink = export.SpanExport(TracingSettings(f"{collector.url}/v1/traces"), "http")
        sink.hand_over(one_batch(REQUESTS))
        sink.close()
        (batch,) = [span for span in collector.spans if span.name == "batch m"]
    assert len(collector.spans) == REQUESTS + 1
    assert len(batch.links) == links
    assert batch.attributes["tailcut.batch.sampled_requests"] == REQUESTS


@pytest.mark.parametrize(("status", "exported"), [(200, 4), (202, 4), (307, 0), (400, 0)])
def test_only_what_a_collector_took_is_exported(status: int, exported: int, caplog: pytest.LogCaptureFixture) -> None:
    """Not what it sent elsewhere: a redirect is not followed. The log has its answer."""
    counts = ServerCounts()
    with collecting(status) as collector:
        sink = export.SpanExport(TracingSettings(f"{collector.url}/v1/traces"), "http")
        sink.hand_over(one_batch(3))
        sink.close()
        sink.count(counts)
    assert (counts.spans_exported, counts.spans_dropped) == (exported, 4 - exported)
    assert bool(caplog.messages) == (not exported)
    assert all(f"does not accept: it answers {status} " in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("rejected", "remark", "exported", "log"),
    [
        (3, "over\nquota", 1, "dropping spans that the collector does not accept: it accepted 1 of 4: over quota"),
        (1, "", 3, "dropping spans that the collector does not accept: it accepted 3 of 4: no reason is known"),
        (0, "use v2", 4, "the collector accepted all spans, with a warning: use v2"),
        (9, "all", 0, "dropping spans that the collector does not accept: it accepted 0 of 4: all"),
        (0, "", 4, None),
    ],
)
def test_what_a_collector_rejects_of_an_export_is_dropped(
    rejected: int, remark: str, exported: int, log: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A partial success of OTLP is a 200 whose body says what was not taken, or warns."""
    answer = export.ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = rejected
    answer.partial_success.error_message = remark
    counts = ServerCounts()
    with collecting(answer=answer.SerializeToString()) as collector:
        sink = export.SpanExport(TracingSettings(f"{collector.url}/v1/traces"), "http")
        sink.hand_over(one_batch(3))
        sink.close()
        sink.count(counts)
    assert (counts.spans_exported, counts.spans_dropped) == (exported, 4 - exported)
    assert caplog.messages == ([] if log is None else [log])


def test_a_body_that_is_not_otlp_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Such as the {} of a collector that answers in JSON."""
    counts = ServerCounts()
    with collecting(answer=b"{}") as collector:
        sink = export.SpanExport(TracingSettings(f"{collector.url}/v1/traces"), "http")
        sink.hand_over(one_batch(3))
        sink.close()
        sink.count(counts)
    assert (counts.spans_exported, counts.spans_dropped, caplog.messages) == (4, 0, [])


def test_a_collector_that_is_busy_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """429, which OTLP has for too many requests, is tried again as 503 is."""
    buffering = Buffering(spans_most=8, at_a_time=8, delay_ms=1)
    counts = ServerCounts()
    with collecting(429) as collector:
        sink = export.SpanExport(TracingSettings(f"{collector.url}/v1/traces", buffering=buffering), "http")
        sink.hand_over(one_batch(3))
        with collector.came:
            assert collector.came.wait_for(lambda: collector.posts, 10)
            collector.status = 200
        collector.wait(lambda spans: len(spans) >= 3)
        sink.close()
        sink.count(counts)
    assert (counts.spans_dropped, caplog.messages) == (0, [])


def test_too_many_that_wait_say_what_they_wait_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is refused is tried again for a while, in which nothing has failed yet."""
    monkeypatch.setattr(export, "FLUSH_S", 0.05)
    buffering = Buffering(spans_most=8, at_a_time=8, delay_ms=1)
    sink = export.SpanExport(TracingSettings("http://127.0.0.1:1/v1/traces", buffering=buffering), "http")
    sink.hand_over(one_batch(1))
    while not sink._exporter.problem:
        time.sleep(0.001)
    while not caplog.messages:
        sink.hand_over(one_batch(1))
        time.sleep(0.001)
    sink.close()
    sink._processor.shutdown()  # its thread would try again beside other tests
    assert re.search(r"more than 8 spans are waiting: .*Connection refused", caplog.messages[0])
