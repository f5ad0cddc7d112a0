"""What is traced, and where spans go: options of the command line before OpenTelemetry's variables."""

import pytest

from tailcut.errors import UsageError
from tailcut.server.tracing.settings import Sampling, TracingSettings, read_settings, traces_url

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}


@pytest.mark.parametrize(
    ("endpoint", "share", "environ", "settings"),
    [
        (None, None, {}, None),
        ("http://h:4318", None, {}, TracingSettings("http://h:4318/v1/traces")),
        (None, 0.5, {}, TracingSettings(None, Sampling(0.5))),
        (None, None, ENDPOINT, TracingSettings(None, asked=False)),
        (None, None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x/y"}, TracingSettings(None, asked=False)),
        (None, None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        (None, None, ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, None),
        (None, 1.0, ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, TracingSettings(None, Sampling(1.0))),
        (None, 1.0, {"OTEL_SDK_DISABLED": "True"}, None),
    ],
)
def test_what_asks_for_traces(
    endpoint: str | None, share: float | None, environ: dict[str, str], settings: TracingSettings | None
) -> None:
    """An option or the variable of a collector; the SDK's own variables switch it off."""
    assert read_settings(endpoint, share, environ) == settings


@pytest.mark.parametrize(
    ("sampler", "argument", "sampling"),
    [
        ("", "", Sampling(0.0)),
        ("always_on", "", Sampling(1.0, follows_caller=False)),
        ("always_off", "", Sampling(0.0, follows_caller=False)),
        ("traceidratio", "0.25", Sampling(0.25, follows_caller=False)),
        ("parentbased_always_on", "", Sampling(1.0)),
        ("parentbased_always_off", "", Sampling(0.0)),
        ("ParentBased_TraceIdRatio", "0.25", Sampling(0.25)),
        ("parentbased_traceidratio", None, Sampling(1.0)),
    ],
)
def test_the_samplers_of_opentelemetry(sampler: str, argument: str | None, sampling: Sampling) -> None:
    """By the variables of the SDK; `--trace-sample` goes before them."""
    environ = ENDPOINT | {"OTEL_TRACES_SAMPLER": sampler}
    environ |= {} if argument is None else {"OTEL_TRACES_SAMPLER_ARG": argument}
    known = read_settings(None, None, environ)
    assert known is not None
    assert known.sampling == sampling
    given = read_settings(None, 0.125, environ)
    assert given is not None
    assert given.sampling == Sampling(0.125)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "known samplers are always_on"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "from 0 to 1, not '2'"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "x"}, "from 0 to 1, not 'x'"),
    ],
)
def test_variables_that_cannot_be_used(variables: dict[str, str], message: str) -> None:
    """One line says which, and what may stand there."""
    with pytest.raises(UsageError, match=message):
        read_settings(None, None, ENDPOINT | variables)


@pytest.mark.parametrize(
    ("url", "traces"),
    [
        ("http://h:4318", "http://h:4318/v1/traces"),
        ("https://h/", "https://h/v1/traces"),
        ("http://h/otlp/v1/traces", "http://h/otlp/v1/traces"),
    ],
)
def test_where_spans_go(url: str, traces: str) -> None:
    """A collector's address gets the standard path; a path is kept."""
    assert traces_url(url) == traces


@pytest.mark.parametrize("url", ["h:4318", "grpc://h:4317", "http://", "http://h:x", "http://h:99999", ""])
def test_an_address_that_is_none(url: str) -> None:
    """One line shows what to write."""
    with pytest.raises(UsageError, match="such as http://HOST:4318"):
        traces_url(url)
