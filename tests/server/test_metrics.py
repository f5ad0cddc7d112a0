"""What /metrics says of each model, read by Prometheus' own parser, and the line a second that overload logs."""

import asyncio
import re
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families
from tests.engines.models import perceptron
from tests.server.test_grpc import method
from tests.server.test_overload import ONE, busy, make_profile
from tests.servers import Server, Wire, raw_request, serving, until

from tailcut.machine.nvml import DeviceUse
from tailcut.server.metrics import ServerCounts, render
from tailcut.wire.grpc.messages import MESSAGES

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "metrics.md"
AROUND_20_MS = {0.01, 0.015, 0.018, 0.02, 0.022, 0.025, 0.03, 0.04}


def scrape(server: Server) -> dict[str, list]:
    """Samples by name."""
    with server.connect() as wire:
        return scrape_over(wire)


def scrape_over(wire: Wire) -> dict[str, list]:
    """Samples by name, from the worker that the connection is to: it knows its own counts at once."""
    text = wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").body.decode()
    samples: dict[str, list] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample)
    return samples


def of(samples: dict[str, list], name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    return sum(sample.value for sample in samples[name] if labels.items() <= sample.labels.items())


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that computes one row at a time, milliseconds each."""
    folder = tmp_path_factory.mktemp("metrics")
    with serving(folder, make_profile(folder), "--slo", "20ms") as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Three models, a limit, and traces where there is what exports them; one worker, and two."""
    folder = tmp_path_factory.mktemp("several")
    path = perceptron([4, 8, 3], folder / "mlp.onnx")
    options = ["--slo", "20ms", "--no-auto", "--workers", str(request.param)]
    if find_spec("opentelemetry") is not None:
        options += ["--otlp-endpoint", "http://127.0.0.1:1"]
    with serving(folder, path, f"a={path}", f"b:3={path}", *options) as running:
        yield running
        assert running.stop() == 0


def test_every_model_has_its_own_counts(several: Server) -> None:
    """Latency, its buckets around the limit, and batch sizes are told by model and version."""
    with several.connect() as wire:
        for model, times in (("a", 2), ("b", 5)):
            for _ in range(times):
                assert wire.ask(raw_request(model, bytes(16))).status == 200
        samples = scrape_over(wire)
    for labels, times in (({"model": "a", "version": "1"}, 2), ({"model": "b", "version": "3"}, 5)):
        assert of(samples, "tailcut_request_seconds_count", **labels) == times
        assert of(samples, "tailcut_request_seconds_bucket", le="+Inf", **labels) == times
        assert of(samples, "tailcut_request_seconds_sum", **labels) > 0
        assert of(samples, "tailcut_batch_rows_sum", **labels) == times
        assert of(samples, "tailcut_slo_seconds", **labels) == 0.02
        within = of(samples, "tailcut_within_slo_total", **labels)
        assert within == of(samples, "tailcut_request_seconds_bucket", le="0.02", **labels) <= times
        bounds = {float(sample.labels["le"]) for sample in samples["tailcut_request_seconds_bucket"]}
        assert bounds >= AROUND_20_MS


def test_a_request_of_several_batches_counts_once(tmp_path: Path) -> None:
    """Over HTTP and over gRPC: as many successes as answers, and every row."""
    options = "--grpc-port", "0", "--no-auto", "--max-batch-size", "4"
    rows = np.ones((10, 4), np.float32)
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *options) as server:
        with server.connect() as wire:
            assert wire.ask(raw_request("mlp", rows.tobytes())).status == 200
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            tensor = {"name": "x", "datatype": "FP32", "shape": rows.shape}
            raw = MESSAGES["ModelInferRequest"](model_name="mlp", inputs=[tensor], raw_input_contents=[rows.tobytes()])
            assert method(channel, "ModelInfer")(raw).outputs[0].shape == [10, 3]
        assert server.metric("nv_inference_request_success") == server.metric("tailcut_request_seconds_count") == 2
        assert (server.metric("nv_inference_count"), server.metric("nv_inference_exec_count")) == (20, 6)
        assert server.stop() == 0


def test_without_a_limit_there_is_none(tmp_path: Path) -> None:
    """No limit, no count of what is within it, and no bucket that belongs to one."""
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx")) as server:
        samples = scrape(server)
        assert "tailcut_slo_seconds" not in samples
        assert "0.02" not in {sample.labels["le"] for sample in samples["tailcut_request_seconds_bucket"]}
        assert server.stop() == 0


def test_refusals_have_a_reason_and_a_line_in_the_log(slow: Server) -> None:
    """What cannot meet its deadline is counted as such, the queue's age is shown, and a line a second says why."""
    with busy(slow):
        age = of(scrape(slow), "tailcut_queue_oldest_seconds")
        with slow.connect() as wire:
            for _ in range(3):
                assert wire.ask(raw_request("slow", ONE, "Tailcut-Timeout-Us: 100")).status == 503
    samples = scrape(slow)
    assert age > 0
    assert of(samples, "tailcut_refused_total", reason="deadline") == 3
    assert of(samples, "tailcut_refused_total", reason="queue_full") == 0
    assert of(samples, "tailcut_deadline_misses_total", outcome="refused") == 3
    line = re.compile(
        r"slow: refused (\d) requests?: "
        r"(?:cannot meet the 0[.]\d+ ms deadline|the deadline has passed): .*[\d.]+ ms of work is ahead"
    )
    until(lambda: sum(map(int, line.findall(slow.stderr.read_text()))) >= 3, slow)


def test_every_metric_is_in_the_reference(slow: Server) -> None:
    """docs/reference/metrics.md names every metric of the server, and none that there is not."""
    with slow.connect() as wire:
        text = wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").body.decode()
    served = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    message = {line.split("`")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")}
    assert message == served


def test_devices_have_tritons_names() -> None:
    """A gauge for each device and figure; what a device does not say is left out, and without one there is nothing."""
    uses = [DeviceUse("GPU-a", 0.37, 1 << 30, 80 << 30, 312.5), DeviceUse("GPU-b", None, 0, 80 << 30, None)]

    async def text(devices: list[DeviceUse]) -> str:
        return render(ServerCounts(), [], {}, devices).decode()

    families = {item.name: item for item in text_string_to_metric_families(asyncio.run(text(uses)))}
    result = {
        name: {sample.labels["gpu_uuid"]: sample.value for sample in families[name].samples}
        for name in families
        if name.startswith("nv_gpu")
    }
    assert result == {
        "nv_gpu_utilization": {"GPU-a": 0.37},
        "nv_gpu_memory_used_bytes": {"GPU-a": 1 << 30, "GPU-b": 0},
        "nv_gpu_memory_total_bytes": {"GPU-a": 80 << 30, "GPU-b": 80 << 30},
        "nv_gpu_power_usage": {"GPU-a": 312.5},
    }
    assert "nv_gpu" not in asyncio.run(text([]))


@pytest.mark.parametrize(
    ("accept", "opened"),
    [
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",  # Prometheus
            True,
        ),
        ("Application/OpenMetrics-Text", True),
        ("text/plain", False),
        ("*/*", False),
        ("application/openmetrics-text;q=0.0, text/plain", False),
        ("", False),
    ],
)
def test_open_metrics_where_a_scraper_accepts_it(slow: Server, accept: str, opened: bool) -> None:
    """The plain text format for all others; names, labels and values are the same in both."""
    fields = f"Accept: {accept}\r\n" if accept else ""
    with slow.connect() as wire:
        assert wire.ask(raw_request("slow", ONE)).status == 200
        answer = wire.ask(f"GET /metrics HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
        plain = wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    kind = "application/openmetrics-text; version=1.0.0" if opened else "text/plain; version=0.0.4"
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["vary"] == "Accept"
    assert series(answer.body) == series(plain.body)
    assert any(item.startswith("nv_inference_request_success{") for item in series(plain.body))
    if opened:
        assert {family.type for family in open_metrics_families(answer.body.decode())} >= {"counter", "histogram"}


@pytest.mark.slow
def test_open_metrics_where_a_scraper_sends_a_long_head(slow: Server) -> None:
    """Accept is read in a head of any length."""
    head = f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\nCookie: {'c' * 4000}\r\n\r\n"
    with slow.connect() as wire:
        for _ in range(2):
            assert wire.ask(head.encode()).headers["content-type"].startswith("application/openmetrics-text")


def series(text: bytes) -> set[str]:
    """Names and labels, as they stand in either format."""
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {line.partition(" # ")[0].rpartition(" ")[0] for line in lines}


def test_exemplars(several: Server) -> None:
    """The newest traced request of each bucket, of all workers, and only in OpenMetrics."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs pip install 'tailcut[otel]'")
    with several.connect() as wire:
        for number in range(1, 21):
            trace = f"traceparent: 00-{number:032x}-{1:016x}-{'01' if number < 20 else '00'}"
            assert wire.ask(raw_request("mlp", bytes(16), trace)).status == 200
        head = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n"
        families = {family.name: family for family in open_metrics_families(wire.ask(head).body.decode())}
        assert b"trace_id" not in wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").body
    for name in ("tailcut_request_seconds", "tailcut_batch_rows"):
        below = 0.0
        traces = []
        for sample in (sample for sample in families[name].samples if sample.labels["model"] == "mlp"):
            if sample.name.endswith("_bucket") and sample.exemplar is not None:
                traces.append(int(sample.exemplar.labels["trace_id"], 16))
                assert below <= sample.exemplar.value <= float(sample.labels["le"])
                assert abs(float(sample.exemplar.timestamp) - time.time()) < 3600
            below = float(sample.labels.get("le", 0))
        assert max(traces) == 19
        assert all(1 <= trace < 20 for trace in traces)
    assert len(traces) == 1  # all batches are of one row
