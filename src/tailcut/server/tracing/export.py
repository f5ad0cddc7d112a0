"""Builds spans from records on one thread; the SDK's processor and exporter send them on another.

Neither the loop nor memory use depends on the collector. The queues are bounded (OTEL_BSP_MAX_QUEUE_SIZE spans, and as
many records), anything beyond is dropped and counted, and a log line reports that once a minute. The interpreter lock
is released between two spans, and few spans are encoded at a time: otherwise, the loop would wait for milliseconds.
"""

import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.environment_variables import OTEL_SPAN_LINK_COUNT_LIMIT
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from tailcut.server.metadata import version
from tailcut.server.metrics import ServerCounts
from tailcut.server.tracing.records import Record
from tailcut.server.tracing.settings import TracingSettings
from tailcut.server.tracing.spans import GivenIds, SpanBuilder

FLUSH_S = 2.0  # for exporting the rest at the end
_LOG_AGAIN_S = 60.0
_LOOK_S = 0.25  # between two searches for batches whose requests are complete
_STEPS_MOST = 256  # spans of one request, so that the SDK's queue never drops spans that are counted as built
_UNKNOWN = "unknown_service"  # the SDK's name of a service that no variable names
_CREDENTIAL_PROVIDERS = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
)
_DROPPED = "dropping spans that the collector does not accept"
_ACCEPTED = "the collector accepted all spans, with a warning"
_REMARK_MOST = 300  # characters of a collector's message that are logged
_log = logging.getLogger("tailcut.tracing")


class SpanExport:
    """Takes records from a loop, until `close`.

    Args:
        settings: where spans go.
        scheme: of the URLs that clients use.
        worker: the index of this process among several workers; None: it is the only one.

    Raises:
        ValueError, OSError: a variable of OpenTelemetry's SDK cannot be used.
    """

    def __init__(self, settings: TracingSettings, scheme: str, worker: int | None = None) -> None:
        self._quiet = _quiet_sdk()
        self._exporter = _Counting(settings.endpoint, self._quiet)
        ids = GivenIds()
        resource = _resource(worker)
        provider = TracerProvider(
            ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=ids, span_limits=_span_limits()
        )
        buffering = settings.buffering
        self._most = buffering.spans_most
        self._processor = BatchSpanProcessor(
            self._exporter,
            self._most + _STEPS_MOST,
            schedule_delay_millis=buffering.delay_ms,
            max_export_batch_size=min(buffering.at_a_time, self._most),
        )
        provider.add_span_processor(self._processor)
        self._builder = SpanBuilder(provider.get_tracer("tailcut", version()), ids, scheme)
        self._records: deque[Record] = deque()
        self._some = threading.Condition(threading.Lock())
        self._closing = False
        self._refused = 0  # records dropped because the queue was full; counted by the loop
        self._built = self._dropped = 0  # spans; counted by the thread
        self._look_ns = 0  # when to search for complete batches next
        self._thread = threading.Thread(target=self._run, name="tailcut-tracing", daemon=True)
        self._thread.start()

    def hand_over(self, records: list[Record]) -> None:
        """Take records, or count them as dropped; never waits for the collector."""
        with self._some:
            room = 0 if self._closing else max(0, self._most - len(self._records))
            self._records.extend(records[:room])
            self._refused += len(records[room:])
            self._some.notify()

    def count(self, counts: ServerCounts) -> None:
        """Write how many spans were exported and dropped into the server's counts."""
        counts.spans_exported = self._exporter.exported
        counts.spans_dropped = self._exporter.failed + self._dropped + self._refused

    def close(self) -> None:
        """Export the rest, for two seconds at most; what is not sent by then is dropped."""
        with self._some:
            self._closing = True
            self._some.notify()
        self._thread.join(FLUSH_S)
        if self._thread.is_alive():
            _log.warning("spans that were not exported within %g s are dropped", FLUSH_S)
            self._exporter.shutdown()  # ends a wait before a retry
        else:
            self._processor.shutdown()

    def _run(self) -> None:
        while True:
            with self._some:
                patience_s = _LOOK_S if self._builder.has_batches else None
                self._some.wait_for(lambda: self._records or self._closing, patience_s)
                records = list(self._records)
                self._records.clear()
                closing = self._closing
            try:
                self._build(records, closing=closing)
            except Exception:  # noqa: BLE001  a fault in one span must not end all tracing
                _log.exception("spans could not be built")
            if closing:
                self._processor.force_flush()
                return

    def _build(self, records: Sequence[Record], *, closing: bool) -> None:
        for record in records:
            if self._has_room():
                self._built += self._builder.build(record)
            time.sleep(0)  # release the interpreter lock
        now_ns = time.monotonic_ns()
        if not closing and now_ns < self._look_ns:
            return
        self._look_ns = now_ns + int(_LOOK_S * 1e9)
        for batch in self._builder.settled(now_ns, all_of_them=closing):
            if self._has_room():
                self._builder.build_batch(batch)
                self._built += 1
            time.sleep(0)

    def _has_room(self) -> bool:
        """Whether there is room for the spans of one more record or batch; where not, one dropped span is counted."""
        waiting = self._built - self._exporter.exported - self._exporter.failed
        if waiting < self._most:
            return True
        self._dropped += 1
        why = self._exporter.problem
        self._exporter.warn(f"more than {self._most} spans are waiting" + (f": {why}" if why else ""))
        return False


class _Counting(SpanExporter):  # type: ignore[misc]  # mypy runs without OpenTelemetry
    """The SDK's exporter, with counts, and at most one log line per minute where it fails."""

    def __init__(self, endpoint: str | None, words: "_SdkWords") -> None:
        brings_its_own = any(map(os.environ.get, _CREDENTIAL_PROVIDERS))
        self._session = None if brings_its_own else _Session()
        self._exporter = OTLPSpanExporter(endpoint, session=self._session)
        self._words = words
        self._logged_s = dict.fromkeys((_DROPPED, _ACCEPTED), -_LOG_AGAIN_S)
        self._lock = threading.Lock()
        self.exported = self.failed = 0

    @property
    def problem(self) -> str:
        """Why the last post failed, as far as that is known."""
        return self._words.last if self._session is None else self._session.problem

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a few spans; the SDK retries where that may help."""
        self._words.last = ""
        session = self._session
        posts = 0 if session is None else session.posts
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001  whatever the SDK raises must affect these spans only
            self._words.last, result = str(error), SpanExportResult.FAILURE
        problem = self.problem if session is not None and session.posts > posts else ""
        if result is SpanExportResult.SUCCESS and not problem:
            rejected, remark = (0, "") if session is None else (min(session.rejected, len(spans)), session.remark)
            self.exported += len(spans) - rejected
            self.failed += rejected
            if rejected:
                self.warn(f"it accepted {len(spans) - rejected} of {len(spans)}: {_quoted(remark)}")
            elif remark:
                self.warn(_quoted(remark), _ACCEPTED)
        else:
            result = SpanExportResult.FAILURE
            self.failed += len(spans)
            self.warn(problem or self._words.last or "no reason is known")
        return result

    def warn(self, why: str, what: str = _DROPPED) -> None:
        """Log why spans are dropped, or another warning, unless it was logged within the last minute."""
        now_s = time.monotonic()
        with self._lock:
            if now_s - self._logged_s[what] < _LOG_AGAIN_S:
                return
            self._logged_s[what] = now_s
        _log.warning("%s: %s", what, why)

    def shutdown(self) -> None:
        """End a wait before a retry, and export nothing more."""
        self._exporter.shutdown()


class _Session(requests.Session):  # type: ignore[misc]  # likewise without requests
    """Remembers how the last post ended, because the SDK treats a redirect, which it does not follow, as a success."""

    def __init__(self) -> None:
        super().__init__()
        self.posts = 0
        self.problem = ""  # why the last post failed; empty where it did not
        self.rejected = 0  # spans that the collector rejected, and its message about them or its warning
        self.remark = ""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request, and keep the reason where it failed."""
        self.posts += 1
        self.rejected, self.remark = 0, ""
        try:
            response = super().send(request, **options)
        except Exception as error:
            self.problem = str(error) or type(error).__name__
            raise
        status, where = response.status_code, response.headers.get("Location")
        answer = f"it answers {status} {response.reason}" + (f", a redirect to {where}" if where else "")
        self.problem = "" if 200 <= status < 300 else answer
        if not self.problem and response.content:
            with suppress(DecodeError):  # a body that is not an OTLP message has no information
                partial = ExportTraceServiceResponse.FromString(response.content).partial_success
                self.rejected, self.remark = max(0, partial.rejected_spans), partial.error_message
        return response


def _quoted(remark: str) -> str:
    """A collector's message in one line."""
    return " ".join(remark.split())[:_REMARK_MOST] or "no reason is known"


class _SdkWords(logging.Handler):
    """Keeps the last log message of the SDK, instead of letting all of them be printed."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.last = record.getMessage()


def _quiet_sdk() -> _SdkWords:
    words = _SdkWords(logging.WARNING)
    logger = logging.getLogger("opentelemetry")
    logger.handlers, logger.propagate = [words], False
    return words


def _resource(worker: int | None) -> Resource:
    """The attributes that describe this process; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override them."""
    own: dict[str, str | int] = {"service.instance.id": str(uuid.uuid4()), "service.version": version()}
    own |= {"process.pid": os.getpid()} | ({} if worker is None else {"tailcut.worker": worker})
    named = Resource.create()
    if str(named.attributes.get(SERVICE_NAME, _UNKNOWN)).startswith(_UNKNOWN):
        named = named.merge(Resource({SERVICE_NAME: "tailcut"}))
    return Resource(own).merge(named)


def _span_limits() -> SpanLimits:
    """The SDK's limits, except for links: a batch's span has one per traced request, and the SDK keeps only 128."""
    return SpanLimits(max_links=None if os.environ.get(OTEL_SPAN_LINK_COUNT_LIMIT) else SpanLimits.UNSET)
