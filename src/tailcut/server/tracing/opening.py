"""Opens the export of spans: loads OpenTelemetry's SDK, which reads environment variables when it is imported."""

import logging

from tailcut.errors import UsageError
from tailcut.server.tracing.settings import TracingSettings
from tailcut.server.tracing.tracer import Sink

_log = logging.getLogger("tailcut")


def open_export(settings: TracingSettings, scheme: str, worker: int | None = None) -> Sink | None:
    """The export of spans; None, with a warning, where it fails and only environment variables asked for it.

    Args:
        settings: where spans go.
        scheme: of the URLs that clients use.
        worker: the index of this process among several workers; None: it is the only one.

    Raises:
        UsageError: an option asked for traces, and a variable of the SDK cannot be used.
    """
    try:
        from tailcut.server.tracing.export import SpanExport  # noqa: PLC0415  OpenTelemetry's SDK is an extra

        return SpanExport(settings, scheme, worker)
    except Exception as error:  # noqa: BLE001  the SDK raises different errors for different variables
        text = " ".join(str(error).split()) or type(error).__name__
        reason = f"OpenTelemetry's variables (OTEL_...) cannot be used: {text}"
    if settings.asked:
        raise UsageError(reason)
    if not worker:  # only the first of several workers
        _log.warning("no traces: %s", reason)
    return None
