"""Records become spans on a thread of their own, and leave by the SDK's processor and exporter, which have another.

Neither the loop nor memory depends on the collector. What is waiting is bounded (OTEL_BSP_MAX_QUEUE_SIZE spans, and as
many records), what is over that is dropped and counted, and a line in the log says so once a minute. Python's
interpreter lock is let go between two spans, and few spans are encoded at a time: else the loop would wait for
milliseconds.
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

FLUSH_S = 2.0  # at the end, for what is left
_SAY_AGAIN_S = 60.0
_LOOK_S = 0.25  # between two looks for batches that have had all of their requests
_STEPS_MOST = 256  # spans of one request: the SDK's queue never drops what is counted here as built
_UNKNOWN = "unknown_service"  # what the SDK calls a service that no variable names
_CREDENTIAL_PROVIDERS = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
)
_DROPPED = "dropping spans that the collector does not accept"
_TAKEN = "the collector took all spans, and warns"
_REMARK_MOST = 300  # characters of what a collector says
_log = logging.getLogger("tailcut.tracing")


class SpanExport:
    """Takes records from a loop, until `close`.

    Args:
        settings: where spans go.
        scheme: of the URLs that clients use.
        worker: which of several workers this process is; None: the only one.

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
        self._refused = 0  # records that found no room; counted by the loop
        self._built = self._dropped = 0  # spans; counted by the thread
        self._look_ns = 0  # when it next looks for batches that have had all of their requests
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
        """Export what is left, for two seconds at most; what is not out by then is dropped."""
        with self._some:
            self._closing = True
            self._some.notify()
        self._thread.join(FLUSH_S)
        if self._thread.is_alive():
            _log.warning("spans that were not exported within %g s are dropped", FLUSH_S)
            self._exporter.shutdown()  # which ends a wait for another try
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
            time.sleep(0)  # others may have the interpreter's lock
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
        """Whether one more record or batch may have its spans; where it may not, that is counted as one dropped."""
        waiting = self._built - self._exporter.exported - self._exporter.failed
        if waiting < self._most:
            return True
        self._dropped += 1
        why = self._exporter.problem
        self._exporter.tell(f"more than {self._most} spans wait for it" + (f": {why}" if why else ""))
        return False


class _Counting(SpanExporter):  # type: ignore[misc]  # mypy runs without OpenTelemetry
    """The SDK's exporter, with counts, and a line in the log a minute where it fails."""

    def __init__(self, endpoint: str | None, words: "_SdkWords") -> None:
        brings_its_own = any(map(os.environ.get, _CREDENTIAL_PROVIDERS))
        self._session = None if brings_its_own else _Session()
        self._exporter = OTLPSpanExporter(endpoint, session=self._session)
        self._words = words
        self._said_s = dict.fromkeys((_DROPPED, _TAKEN), -_SAY_AGAIN_S)
        self._lock = threading.Lock()
        self.exported = self.failed = 0

    @property
    def problem(self) -> str:
        """Why the last post was of no use, as far as that is known."""
        return self._words.last if self._session is None else self._session.problem

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a few spans; the SDK tries again where that may help."""
        self._words.last = ""
        session = self._session
        posts = 0 if session is None else session.posts
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001  whatever the SDK does to us costs these spans only
            self._words.last, result = str(error), SpanExportResult.FAILURE
        problem = self.problem if session is not None and session.posts > posts else ""
        if result is SpanExportResult.SUCCESS and not problem:
            rejected, remark = (0, "") if session is None else (min(session.rejected, len(spans)), session.remark)
            self.exported += len(spans) - rejected
            self.failed += rejected
            if rejected:
                self.tell(f"it took {len(spans) - rejected} of {len(spans)}: {_quoted(remark)}")
            elif remark:
                self.tell(_quoted(remark), _TAKEN)
        else:
            result = SpanExportResult.FAILURE
            self.failed += len(spans)
            self.tell(problem or self._words.last or "no reason is known")
        return result

    def tell(self, why: str, what: str = _DROPPED) -> None:
        """Say why spans are dropped, or what else there is, unless that has been said within the last minute."""
        now_s = time.monotonic()
        with self._lock:
            if now_s - self._said_s[what] < _SAY_AGAIN_S:
                return
            self._said_s[what] = now_s
        _log.warning("%s: %s", what, why)

    def shutdown(self) -> None:
        """End a wait for another try, and export nothing more."""
        self._exporter.shutdown()


class _Session(requests.Session):  # type: ignore[misc]  # likewise without requests
    """Knows how the last post ended: the SDK may not say, and calls a redirect, which it does not follow, a success."""

    def __init__(self) -> None:
        super().__init__()
        self.posts = 0
        self.problem = ""  # of the last one
        self.rejected = 0  # spans of it that the collector did not take, and what it says of them or as a warning
        self.remark = ""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request, and keep why it was of no use."""
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
            with suppress(DecodeError):  # a body that is not a message of OTLP says nothing
                partial = ExportTraceServiceResponse.FromString(response.content).partial_success
                self.rejected, self.remark = max(0, partial.rejected_spans), partial.error_message
        return response


def _quoted(remark: str) -> str:
    """What a collector says, in one line."""
    return " ".join(remark.split())[:_REMARK_MOST] or "no reason is known"


class _SdkWords(logging.Handler):
    """Keeps the SDK's last message instead of having each of them printed."""

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
    """What all spans of this process say of it; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before."""
    own: dict[str, str | int] = {"service.instance.id": str(uuid.uuid4()), "service.version": version()}
    own |= {"process.pid": os.getpid()} | ({} if worker is None else {"tailcut.worker": worker})
    named = Resource.create()
    if str(named.attributes.get(SERVICE_NAME, _UNKNOWN)).startswith(_UNKNOWN):
        named = named.merge(Resource({SERVICE_NAME: "tailcut"}))
    return Resource(own).merge(named)


def _span_limits() -> SpanLimits:
    """The SDK's, but for links: a batch's span has one for each of its traced requests, and the SDK keeps 128."""
    return SpanLimits(max_links=None if os.environ.get(OTEL_SPAN_LINK_COUNT_LIMIT) else SpanLimits.UNSET)
