"""What variables of OpenTelemetry's SDK that cannot be used do to a server."""

from pathlib import Path

import pytest
from tests.engines.models import perceptron
from tests.servers import completed, serving

from tailcut.errors import UsageError
from tailcut.server.tracing.opening import open_export
from tailcut.server.tracing.settings import TracingSettings

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs pip install 'tailcut[otel]'")
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
WRONG = [  # read while the SDK is imported, and by its classes
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "abc"),
    ("OTEL_ATTRIBUTE_COUNT_LIMIT", "x"),
    ("OTEL_PYTHON_METER_PROVIDER", "none_such"),
]


@pytest.mark.parametrize(("name", "value"), WRONG[1:])
def test_one_line_says_what_cannot_be_used(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning, and no traces, where only variables ask for them; of several workers, the first one says it."""
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"OpenTelemetry's variables .* cannot be used: .") as error:
        open_export(TracingSettings("http://127.0.0.1:9/v1/traces"), "http")
    assert "\n" not in str(error.value)
    assert open_export(TracingSettings(asked=False), "http", worker=1) is None
    assert caplog.records == []
    assert open_export(TracingSettings(asked=False), "http", worker=0) is None
    assert [record.getMessage() for record in caplog.records] == [f"no traces: {error.value}"]


@pytest.mark.slow
def test_a_variable_of_the_whole_machine_stops_no_server(tmp_path: Path) -> None:
    """Not even one that the SDK refuses while it is imported; requests are answered without traces."""
    environ = ENDPOINT | dict(WRONG[:1]) | {"OTEL_BSP_SCHEDULE_DELAY": "0"}
    with serving(tmp_path, perceptron([4, 3], tmp_path / "mlp.onnx"), "--no-auto", env=environ) as server:
        assert server.stop() == 0
        lines = [line for line in server.stderr.read_text().splitlines() if line.startswith("WARNING")]
    assert lines[0].startswith("WARNING OTEL_BSP_SCHEDULE_DELAY=0 is ignored: ")
    assert "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT" in lines[1]
    assert len(lines) == 2


def test_an_option_that_asks_for_traces_needs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2, and one line."""
    model = perceptron([4, 3], tmp_path / "mlp.onnx")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1")
    done = completed(tmp_path, "serve", model, "--port", "0", "--no-auto", "--trace-sample", "1")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("tailcut: OpenTelemetry's variables (OTEL_...) cannot be used: OTEL_SPAN_ATTRIBUTE_COUNT_")
