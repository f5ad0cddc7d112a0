"""Opens the export of spans: loads OpenTelemetry's SDK, which reads variables while it is imported and set up."""

import logging

from tailcut.errors import UsageError
from tailcut.server.tracing.settings import TracingSettings
from tailcut.server.tracing.tracer import Sink

_log = logging.getLogger("tailcut")


def open_export(settings: TracingSettings, scheme: str, worker: int | None = None) -> Sink | None:
    """The export of spans; None, with a warning, where a variable other than the options prevents it.

    Args:
        settings: where spans go.
        scheme: of the URLs that clients use.
        worker: which of several workers this process is; None: the only one.

    Raises:
        UsageError: an option asked for traces, and a variable of the SDK cannot be used.
    """
    try:
        from tailcut.server.tracing.export import SpanExport  # noqa: PLC0415  OpenTelemetry's SDK is an extra

        return SpanExport(settings, scheme, worker)
    except Exception as error:  # noqa: BLE001  what the SDK raises differs from variable to variable
        text = " ".join(str(error).split()) or type(error).__name__
        reason = f"OpenTelemetry's variables (OTEL_...) cannot be used: {text}"
    if settings.asked:
        raise UsageError(reason)
    if not worker:  # the first one, where there are several
        _log.warning("no traces: %s", reason)
    return None
