"""The trace context for calls of a handle: Ray passes on arguments, but no headers."""

from tailcut.client.requests import current_trace


def traceparent() -> str | None:
    """The W3C trace context of OpenTelemetry's current span, for `handle.infer.remote`; None if there is none."""
    return current_trace()[0] or None
