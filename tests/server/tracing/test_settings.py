"""What is traced, and where spans go: options of the command line before OpenTelemetry's variables."""

import pytest

from tailcut.errors import UsageError
from tailcut.server.tracing.settings import Buffering, Sampling, TracingSettings, read_settings, traces_url

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
    ("variables", "sampling", "ignored"),
    [
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, Sampling(), "OTEL_TRACES_SAMPLER=jaeger_remote is ignored: known"),
        ({"OTEL_TRACES_SAMPLER_ARG": "2"}, Sampling(1.0), "OTEL_TRACES_SAMPLER_ARG=2 is ignored: it must be a number"),
        ({"OTEL_TRACES_SAMPLER_ARG": "x"}, Sampling(1.0), "OTEL_TRACES_SAMPLER_ARG=x is ignored"),
        ({"OTEL_TRACES_SAMPLER_ARG": "nan"}, Sampling(1.0), "OTEL_TRACES_SAMPLER_ARG=nan is ignored"),
        ({"OTEL_TRACES_SAMPLER_ARG": ""}, Sampling(1.0), ""),
        ({"OTEL_TRACES_SAMPLER_ARG": " "}, Sampling(1.0), ""),
    ],
)
def test_variables_that_cannot_be_used(variables: dict[str, str], sampling: Sampling, ignored: str) -> None:
    """They count as not set, and one line says which and why; an empty one is not set."""
    usual = ENDPOINT | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
    settings = read_settings(None, None, usual | variables)
    assert settings is not None
    assert settings.sampling == sampling
    assert [text[: len(ignored)] for text in settings.ignored] == ([ignored] if ignored else [])
    given = read_settings(None, 0.5, usual | variables)
    assert given is not None
    assert given.ignored == ()


@pytest.mark.parametrize(
    ("variables", "ignored"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is ignored: traces are sent as "),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json is ignored",
        ),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, ""),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": " "}, ""),
    ],
)
def test_another_protocol_is_ignored(variables: dict[str, str], ignored: str) -> None:
    """With one line, unless an option says where spans go."""
    settings = read_settings(None, None, ENDPOINT | variables)
    assert settings is not None
    assert [text[: len(ignored)] for text in settings.ignored] == ([ignored] if ignored else [])
    given = read_settings("http://h:4318", None, ENDPOINT | variables)
    assert given is not None
    assert given.ignored == ()


@pytest.mark.parametrize(
    ("variables", "buffering", "ignored"),
    [
        ({"OTEL_BSP_SCHEDULE_DELAY": "50"}, Buffering(delay_ms=50), []),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}, Buffering(16, at_a_time=8), []),
        ({"OTEL_BSP_SCHEDULE_DELAY": ""}, Buffering(), []),
        ({"OTEL_BSP_SCHEDULE_DELAY": "0"}, Buffering(), ["OTEL_BSP_SCHEDULE_DELAY=0"]),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, Buffering(), ["OTEL_BSP_MAX_QUEUE_SIZE=-1"]),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "9" * 20}, Buffering(), [f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE={'9' * 20}"]),
    ],
)
def test_how_spans_wait(variables: dict[str, str], buffering: Buffering, ignored: list[str]) -> None:
    """By the variables of the SDK, where they are numbers that can be used."""
    settings = read_settings("http://h:4318", None, variables)
    assert settings is not None
    assert settings.buffering == buffering
    assert [text.partition(" is ignored: it must be a whole number")[0] for text in settings.ignored] == ignored


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
