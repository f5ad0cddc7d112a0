"""Which requests are traced and where spans are sent: from the command line, then OpenTelemetry's variables. Pure.

The variables of the exporter itself (headers, timeout, compression, certificates) are read by the SDK.

Variables may be set for a whole machine. So one that cannot be used does not stop the server: it counts as unset, and a
warning names it, as OpenTelemetry's specification requires (Configuration, "Environment Variable Specification"). An
empty one counts as unset.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tailcut.errors import UsageError

TRACES_PATH = "/v1/traces"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SAMPLER, _ARGUMENT = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"  # the only supported one
_QUEUE_SIZE, _DELAY = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_SCHEDULE_DELAY"
_BATCH_SIZE = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_NUMBER_MOST = (1 << 31) - 1
_ALL = 1.0  # the share of requests where none is given
_SAMPLERS: dict[str, tuple[bool, float | None]] = {  # follows the caller; share (None: given as an argument)
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which requests are traced.

    Args:
        share: the share of traced requests among those whose caller has not decided, from 0 to 1.
        follows_caller: a request with a trace context is traced if and only if its caller sampled it.
    """

    share: float = 0.0
    follows_caller: bool = True


@dataclass(frozen=True, slots=True)
class Buffering:
    """How spans wait for the collector.

    Args:
        spans_most: the largest number of waiting spans; the default is the SDK's.
        delay_ms: the time between two exports; the default is the SDK's.
        at_a_time: spans in one export. 32 are encoded in 2.6 ms; the SDK's own default is 16 times as many.
    """

    spans_most: int = 2048
    delay_ms: int = 5000
    at_a_time: int = 32


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Where spans are sent, and which requests are traced.

    Args:
        endpoint: an OTLP/HTTP URL with its path; None: the one in OpenTelemetry's variables, or its default.
        asked: whether the command line asked for traces, and not only the variables.
        ignored: why variables that are set are not used.
        buffering: how spans wait to be sent.
    """

    endpoint: str | None = None
    sampling: Sampling = Sampling()
    asked: bool = True
    ignored: tuple[str, ...] = ()
    buffering: Buffering = Buffering()


def read_settings(endpoint: str | None, share: float | None, environ: Mapping[str, str]) -> TracingSettings | None:
    """The settings in `--otlp-endpoint`, `--trace-sample` and the environment; None where nothing asks for tracing.

    Raises:
        UsageError: the URL cannot be used.
    """
    asked = endpoint is not None or share is not None
    if not asked and not any(environ.get(name) for name in _ENDPOINTS):
        return None
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if not asked and environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() == "none":
        return None
    sampling, ignored = _sampling(environ) if share is None else (Sampling(share), ())
    protocol = _other_protocol(environ) if endpoint is None else ()
    buffering, wrong = _buffering(environ)
    url = None if endpoint is None else traces_url(endpoint)
    return TracingSettings(url, sampling, asked, ignored + protocol + wrong, buffering)


def traces_url(endpoint: str) -> str:
    """The URL that spans are sent to: the endpoint, with the standard path appended where it has none.

    Raises:
        UsageError: it is not an HTTP or HTTPS URL.
    """
    try:
        parts = urlsplit(endpoint)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        raise UsageError(
            f"--otlp-endpoint must be an http:// or https:// URL such as http://HOST:4318, not {endpoint!r}"
        )
    return endpoint if parts.path.strip("/") else endpoint.rstrip("/") + TRACES_PATH


def _sampling(environ: Mapping[str, str]) -> tuple[Sampling, tuple[str, ...]]:
    """The sampling in the variables, and why some of them are ignored."""
    name = environ.get(_SAMPLER, "").strip().lower()
    if not name:
        return Sampling(), ()
    if name not in _SAMPLERS:
        return Sampling(), (f"{_SAMPLER}={name} is ignored: known samplers are {', '.join(_SAMPLERS)}",)
    follows_caller, share = _SAMPLERS[name]
    if share is not None:
        return Sampling(share, follows_caller), ()
    text = environ.get(_ARGUMENT, "").strip()
    try:
        share = float(text or _ALL)
    except ValueError:
        share = -1.0
    if 0 <= share <= 1:
        return Sampling(share, follows_caller), ()
    return Sampling(_ALL, follows_caller), (f"{_ARGUMENT}={text} is ignored: it must be a number from 0 to 1",)


def _other_protocol(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Why the variable for the protocol is ignored, where it names another one."""
    for name in _PROTOCOLS:
        protocol = environ.get(name, "").strip()
        if protocol:
            reason = f"traces are sent as {_PROTOCOL}, mostly to port 4318"
            return () if protocol.lower() == _PROTOCOL else (f"{name}={protocol} is ignored: {reason}",)
    return ()


def _buffering(environ: Mapping[str, str]) -> tuple[Buffering, tuple[str, ...]]:
    """The settings in the variables of the SDK's processor, and why some of them are ignored."""
    default = Buffering()
    ignored: list[str] = []

    def number(name: str, default: int) -> int:
        text = environ.get(name, "").strip()
        if not text:
            return default
        if text.isdecimal() and 1 <= int(text) <= _NUMBER_MOST:
            return int(text)
        ignored.append(f"{name}={text} is ignored: it must be a whole number from 1 to {_NUMBER_MOST}")
        return default

    buffering = Buffering(
        number(_QUEUE_SIZE, default.spans_most),
        number(_DELAY, default.delay_ms),
        number(_BATCH_SIZE, default.at_a_time),
    )
    return buffering, tuple(ignored)
