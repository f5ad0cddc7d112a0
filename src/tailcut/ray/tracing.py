"""The trace that a caller of a handle is in: Ray hands on what it is given, and no headers."""

from tailcut.client.requests import current_trace


def traceparent() -> str | None:
    """The W3C trace context of OpenTelemetry's current span, for `handle.infer.remote`; None where there is none."""
    return current_trace()[0] or None
