"""Spans of one process at a real collector, without a server."""

import re
import threading
import time

import pytest
from tests.collector import collecting

from tailcut.runtime.tracing.timeline import MARKS
from tailcut.server.metrics import ServerCounts
from tailcut.server.tracing.records import Origin, Protocol, TracedAnswer, TracedRequest
from tailcut.server.tracing.settings import Buffering, TracingSettings
from tailcut.server.tracing.tracer import new_span_id, new_trace_id

export = pytest.importorskip("tailcut.server.tracing.export", reason="needs pip install 'tailcut[otel]'")
REQUESTS = 300  # of one batch: more than the 128 links that the SDK keeps


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


def test_too_many_that_wait_say_what_they_wait_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is refused is tried again for a while, in which nothing has failed yet."""
    threads = set(threading.enumerate())
    buffering = Buffering(spans_most=8, at_a_time=8, delay_ms=1)
    sink = export.SpanExport(TracingSettings("http://127.0.0.1:1/v1/traces", buffering=buffering), "http")
    while not caplog.messages:
        sink.hand_over(one_batch(1))
        time.sleep(0.001)
    sink.close()
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
    assert re.search(r"more than 8 spans wait for it: .*Connection refused", caplog.messages[0])
