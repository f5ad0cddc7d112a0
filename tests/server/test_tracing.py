"""Traces of real servers at a real collector: OTLP over HTTP, with clients of our own and of others."""

import asyncio
import http.client
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.collector import Collector, Span, collecting
from tests.engines.models import identity, perceptron
from tests.hidden import without
from tests.pipelines import samples
from tests.server.test_grpc import method, request_of
from tests.servers import Server, json_request, raw_request, serving
from tests.soak.overload import make_model

from tailcut import AsyncClient, Client
from tailcut.errors import InvalidInputError, NotFoundError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.server.tracing.tracer import new_span_id, new_trace_id
from tailcut.spec import DType
from tailcut.wire.trace_context import written

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs pip install 'tailcut[otel]'")

ROW = np.float32([1, 2, 3, 4]).tobytes()
ONES = np.ones((1, 4), np.float32)
STEPS = ["tokenize", "twice", "add_up"]
STAGES = ["received", "queued", "batched", "computing", "computed", "encoded", "sent"]
SERVER, INTERNAL = 2, 1  # kinds of spans
QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mlp and echo, which compute in microseconds; slow, in milliseconds, in batches."""
    folder = tmp_path_factory.mktemp("traced")
    perceptron([4, 8, 3], folder / "mlp.onnx")
    identity(DType.FP32, (None, 4), folder / "echo.onnx")
    slow = make_model(folder, [2048, 2048, 2048, 2048, 2048, 4])
    batching = BatchingSettings(max_batch_size=32, dispatch="worker")
    Profile.of_model(slow, Settings(batching=batching)).save(folder / "slow.profile.toml")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Traces what its callers sample, over HTTP and gRPC."""
    sources = [folder / "mlp.onnx", f"echo:3={folder}/echo.onnx", folder / "slow.profile.toml"]
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # of the server alone
            for name, value in QUICKLY.items():
                patch.setenv(name, value)
            patch.setenv("OTEL_SERVICE_NAME", "ranking")
            patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
            patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
            options = ["--grpc-port", "0", "--no-auto", "--otlp-endpoint", collector.url]
            running = stack.enter_context(serving(tmp_path_factory.mktemp("server"), *sources, *options))
        yield running
        assert running.stop() == 0


class Caller:
    """A caller's span, as others would have it."""

    def __init__(self, *, sampled: bool = True) -> None:
        self.trace_id, self.span_id = new_trace_id(), new_span_id()
        self.traceparent = written(self.trace_id, self.span_id, sampled=sampled)

    @property
    def field(self) -> str:
        return f"traceparent: {self.traceparent}"


def check_answered(span: Span, caller: Caller) -> None:
    """It continues its caller's trace, and its stages are in their order and within it."""
    assert (span.trace_id, span.parent_id, span.kind) == (caller.trace_id, caller.span_id, SERVER)
    assert [name for name, _ in span.events] == STAGES
    moments = [span.start_ns, *(moment for _, moment in span.events), span.end_ns]
    assert moments == sorted(moments)
    assert moments[0] == moments[1]
    assert moments[-1] == moments[-2]
    assert abs(span.end_ns - time.time_ns()) < 3600e9
    assert span.status == 0
    queued, computing, computed = (dict(span.events)[name] for name in ("queued", "computing", "computed"))
    assert span.attributes["tailcut.queue_us"] == (computing - queued) // 1000
    assert span.attributes["tailcut.compute_us"] == (computed - computing) // 1000


def test_a_sampled_request_has_a_span_and_its_batch_another(server: Server, collector: Collector) -> None:
    """By OpenTelemetry's conventions for HTTP servers; each is linked to the other."""
    caller = Caller()
    with server.connect() as wire:
        path = "/v2/models/echo/versions/3/infer?debug=1"
        request = json_request(
            "echo", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [0] * 8}]}
        )
        head = f"{caller.field}\r\ntracestate: vendor=1, other=2\r\n\r\n".encode()
        request = request.replace(b"/v2/models/echo/infer", path.encode()).replace(b"\r\n\r\n", b"\r\n" + head, 1)
        assert wire.ask(request).status == 200
    (span,) = collector.of(caller.trace_id)
    check_answered(span, caller)
    assert span.state == "vendor=1,other=2"
    assert span.name == "POST /v2/models/{model}/versions/{version}/infer"
    wanted = {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/versions/{version}/infer",
        "url.path": "/v2/models/echo/versions/3/infer",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "http.request.body.size": len(request.partition(b"\r\n\r\n")[2]),
        "tailcut.model.name": "echo",
        "tailcut.model.version": "3",
        "tailcut.rows": 2,
        "tailcut.batch.rows": 2,
        "tailcut.batch.requests": 1,
    }
    assert span.attributes.items() >= wanted.items()
    batch = collector.batch(span)
    assert (batch.name, batch.kind, batch.parent_id, batch.state) == ("batch echo", INTERNAL, "", "")
    assert (batch.links, span.links) == ([span.key], [batch.key])
    assert (batch.start_ns, batch.end_ns) == tuple(dict(span.events)[name] for name in ("computing", "computed"))
    assert batch.attributes["tailcut.batch.sampled_requests"] == 1
    assert span.resource.items() >= {"service.name": "ranking", "deployment.environment.name": "test"}.items()
    assert span.resource["process.pid"] == server.process.pid
    assert span.resource["service.instance.id"]
    assert collector.headers["x-tenant"] == "blue"
    assert collector.paths == {"/v1/traces"}


def test_what_no_caller_samples_is_not_traced(server: Server, collector: Collector) -> None:
    """Neither requests without a context nor with one that is malformed or not sampled, over either protocol."""
    caller, skipped = Caller(), Caller(sampled=False)
    malformed = [
        caller.traceparent.upper(),
        f"ff{caller.traceparent[2:]}",
        f"00-{'0' * 32}-{caller.span_id}-01",
        f"{caller.traceparent}-x",
    ]
    with server.connect() as wire:
        for lines in (
            [],
            [skipped.field],
            [caller.field, caller.field],
            *([f"traceparent: {item}"] for item in malformed),
        ):
            assert wire.ask(raw_request("mlp", ROW, "X: 1", *lines)).status == 200
            assert wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % caller.field.encode()).status == 200
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for value in (skipped.traceparent, *malformed):
            method(channel, "ModelInfer")(request_of("mlp", ONES), metadata=[("traceparent", value)])
        last = Caller()
        method(channel, "ModelInfer")(request_of("mlp", ONES), metadata=[("traceparent", last.traceparent)])
    collector.of(last.trace_id)
    seen = {span.trace_id for span in collector.spans}
    assert not seen & {caller.trace_id, skipped.trace_id}


@pytest.mark.parametrize("form", ["raw", "json"])
def test_the_fast_path_loses_none(server: Server, collector: Collector, form: str) -> None:
    """Some of the requests of a connection that repeats itself are sampled: just these have a span each."""
    data = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.5, 2, 3, 4]}]}
    callers = [Caller(sampled=number % 3 == 0) for number in range(60)]
    before = server.metric("tailcut_connections_express")
    with server.connect() as wire:
        for number, caller in enumerate(callers):
            lines = ["X: 1", caller.field, f"tracestate: n={number}", f"X-Id: {number}"]
            assert (
                wire.ask(
                    raw_request("echo", ROW, *lines) if form == "raw" else json_request("echo", data, *lines)
                ).status
                == 200
            )
        assert server.metric("tailcut_connections_express") == before + 1
        same = Caller()  # a head that is the same each time, and sampled
        for _ in range(8):
            wire.ask(raw_request("echo", ROW, same.field))
    for number, caller in enumerate(callers):
        if number % 3 == 0:
            (span,) = collector.of(caller.trace_id)
            check_answered(span, caller)
            assert span.state == f"n={number}"
            assert span.attributes["url.path"] == "/v2/models/echo/infer"
            assert collector.batch(span).links == [span.key]
    assert len(collector.of(same.trace_id, 8)) == 8
    assert not {span.trace_id for span in collector.spans} & {
        caller.trace_id for caller in callers if caller.traceparent[-1] == "0"
    }


def test_a_batch_is_linked_to_all_of_its_sampled_requests(server: Server, collector: Collector) -> None:
    """Many callers at once, of which some are sampled: each batch names its own, and each of these names its batch."""
    row = bytes(2048 * 4)
    callers = [[Caller(sampled=(number + turn) % 4 != 0) for turn in range(6)] for number in range(16)]

    def call(own: list[Caller]) -> None:
        with server.connect() as wire:
            for caller in own:
                assert wire.ask(raw_request("slow", row, caller.field)).status == 200

    threads = [threading.Thread(target=call, args=(own,)) for own in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = {caller.trace_id: caller for own in callers for caller in own if caller.traceparent.endswith("1")}
    spans = {trace_id: collector.of(trace_id)[0] for trace_id in wanted}
    batches: dict[str, set[tuple[str, str]]] = {}
    for trace_id, span in spans.items():
        check_answered(span, wanted[trace_id])
        batches.setdefault(span.attributes["tailcut.batch.span_id"], set()).add(span.key)
        batch = collector.batch(span)
        assert span.attributes["tailcut.batch.rows"] == batch.attributes["tailcut.batch.rows"]
        assert dict(span.events)["computing"] == batch.start_ns
    for span in spans.values():
        batch, own = collector.batch(span), batches[span.attributes["tailcut.batch.span_id"]]
        assert set(batch.links) == own
        assert len(batch.links) == len(own) == batch.attributes["tailcut.batch.sampled_requests"]
        assert len(own) <= batch.attributes["tailcut.batch.requests"]
    assert max(map(len, batches.values())) > 1


def test_a_call_over_grpc(server: Server, collector: Collector) -> None:
    """By the conventions for RPC servers: one span for a call, and one for each request of a stream."""
    caller, streaming = Caller(), Caller()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        metadata = [("traceparent", caller.traceparent), ("tracestate", "vendor=1")]
        assert method(channel, "ModelInfer")(request_of("echo", ONES), metadata=metadata).outputs
        requests = iter([request_of("echo", ONES), request_of("missing", ONES), request_of("mlp", ONES)])
        answers = method(channel, "ModelStreamInfer")(requests, metadata=[("traceparent", streaming.traceparent)])
        assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    (span,) = collector.of(caller.trace_id)
    check_answered(span, caller)
    assert span.state == "vendor=1"
    assert span.name == "inference.GRPCInferenceService/ModelInfer"
    named = {"rpc.system.name": "grpc", "rpc.method": span.name, "rpc.response.status_code": "OK"}
    assert span.attributes.items() >= (named | {"tailcut.model.name": "echo", "tailcut.rows": 1}).items()
    spans = collector.of(streaming.trace_id, 3)
    assert {span.name for span in spans} == {"inference.GRPCInferenceService/ModelStreamInfer"}
    assert sorted(span.attributes["rpc.response.status_code"] for span in spans) == ["NOT_FOUND", "OK", "OK"]


def over_grpc(server: Server, caller: Caller, request: Any) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError):
        method(channel, "ModelInfer")(request, metadata=[("traceparent", caller.traceparent)])


def over_http(server: Server, caller: Caller, request: Callable[[str], bytes], status: int) -> None:
    with server.connect() as wire:
        assert wire.ask(request(caller.field)).status == status


def test_a_request_without_an_answer_has_a_span(server: Server, collector: Collector) -> None:
    """A mistake of the client's is no error of the server's; being too late is."""
    slow = bytes(2048 * 4)
    cases: list[tuple[Callable[[Caller], None], object, int, str]] = [
        (lambda caller: over_http(server, caller, lambda line: raw_request("gone", ROW, line), 404), 404, 0, "404"),
        (
            lambda caller: over_http(server, caller, lambda line: json_request("mlp", "{", line), 400),
            400,
            0,
            "InvalidInputError",
        ),
        (lambda caller: over_grpc(server, caller, request_of("gone", ONES)), "NOT_FOUND", 0, "NotFoundError"),
        (
            lambda caller: over_http(
                server, caller, lambda line: raw_request("slow", slow * 32, line, "Tailcut-Timeout-Us: 1"), 504
            ),
            504,
            2,
            "DeadlineExceededError",
        ),
    ]
    for ask, status, code, kind in cases:
        caller = Caller()
        ask(caller)
        (span,) = collector.of(caller.trace_id)
        assert (span.parent_id, span.kind, span.status) == (caller.span_id, SERVER, code), span
        key = "rpc" if isinstance(status, str) else "http"
        assert span.attributes[f"{key}.response.status_code"] == status
        assert span.attributes["error.type"] == kind
        assert span.start_ns <= span.end_ns
    assert span.message
    assert span.attributes["tailcut.model.name"] == "slow"


def test_a_client_that_leaves_has_a_span(server: Server, collector: Collector) -> None:
    """Which says so, without a status."""
    caller = Caller()
    with server.connect() as wire:
        wire.send(raw_request("slow", bytes(2048 * 4 * 32), caller.field) * 3)
        time.sleep(0)
    (span, *_) = collector.of(caller.trace_id)
    lost = [item for item in collector.of(caller.trace_id) if item.attributes.get("error.type") == "ClientDisconnected"]
    assert span.parent_id == caller.span_id
    assert all("http.response.status_code" not in item.attributes for item in lost)


def test_a_head_that_is_too_long_to_be_kept(server: Server, collector: Collector) -> None:
    """Its context is read all the same."""
    caller = Caller()
    with server.connect() as wire:
        assert wire.ask(raw_request("mlp", ROW, f"X: {'y' * 4000}", caller.field)).status == 200
    check_answered(collector.of(caller.trace_id)[0], caller)


def test_our_clients_send_the_context_of_the_current_span(server: Server, collector: Collector) -> None:
    """The blocking and the asyncio one; without a current span, that of `traceparent` or none."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("test")
    inputs = {"x": ONES}

    async def call() -> None:
        async with AsyncClient(server.url) as client:
            await client.infer("mlp", inputs)

    with Client(server.url) as client:
        for ask in (lambda: client.infer("mlp", inputs), lambda: asyncio.run(call())):
            with tracer.start_as_current_span("caller") as caller:
                ask()
            own = caller.get_span_context()
            (span,) = collector.of(f"{own.trace_id:032x}")
            assert span.parent_id == f"{own.span_id:016x}"
        given = Caller()
        client.infer("mlp", inputs, traceparent=given.traceparent)
        check_answered(collector.of(given.trace_id)[0], given)
        with pytest.raises(InvalidInputError, match="not a W3C traceparent"):
            client.infer("mlp", inputs, traceparent="00-1")
        with pytest.raises(InvalidInputError, match="not a W3C traceparent"):
            client.infer("mlp", inputs, traceparent=f"{given.traceparent}\r\nX: 1")
        assert trace.get_current_span().get_span_context().trace_id == 0
        client.infer("mlp", inputs)
        with pytest.raises(NotFoundError):
            client.infer("gone", inputs, traceparent=given.traceparent)
    assert len(collector.of(given.trace_id, 2)) == 2


def test_another_client_with_opentelemetrys_sdk(server: Server, collector: Collector) -> None:
    """What its propagator puts into the headers is continued, through names in any case."""
    from opentelemetry.propagate import inject
    from opentelemetry.sdk.trace import TracerProvider

    address = urllib.parse.urlsplit(server.url)
    with TracerProvider().get_tracer("test").start_as_current_span("caller") as caller:
        headers = {"Inference-Header-Content-Length": "0"}
        inject(headers)
        connection = http.client.HTTPConnection(address.hostname, address.port)
        connection.request(
            "POST", "/v2/models/mlp/infer", ROW, {name.title(): value for name, value in headers.items()}
        )
        assert connection.getresponse().status == 200
        connection.close()
    own = caller.get_span_context()
    (span,) = collector.of(f"{own.trace_id:032x}")
    assert span.parent_id == f"{own.span_id:016x}"


def test_spans_are_counted(server: Server, collector: Collector) -> None:
    """Those that the collector has taken, and none that was dropped."""
    caller = Caller()
    with server.connect() as wire:
        wire.ask(raw_request("mlp", ROW, caller.field))
    collector.batch(collector.of(caller.trace_id)[0])
    end = time.monotonic() + 30
    while server.metric("tailcut_trace_spans_exported_total") < len(collector.spans):
        assert time.monotonic() < end
    assert server.metric("tailcut_trace_spans_dropped_total") == 0


@pytest.mark.slow
def test_workers_export_their_own_and_flush_at_the_end(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is an instance of the service. A share of the requests without a context begins traces; none is lost."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # so that only the end sends them
    options = ["--no-auto", "--workers", "2", "--trace-sample", "1"]
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with serving(tmp_path, folder / "mlp.onnx", *options) as server:
            wires = [server.connect() for _ in range(8)]
            for wire in wires:
                for _ in range(2):
                    assert wire.ask(raw_request("mlp", ROW, Caller(sampled=False).field)).status == 200
                    assert wire.ask(raw_request("mlp", ROW)).status == 200
            for wire in wires:
                wire.sock.close()
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(60) == 0, server.stderr.read_text()
        requests = [span for span in collector.spans if span.kind == SERVER]
        batches = [span for span in collector.spans if span.kind == INTERNAL]
    assert len(requests) == 16
    assert {span.parent_id for span in requests} == {""}
    assert sorted(link for span in batches for link in span.links) == sorted(span.key for span in requests)
    assert len({span.resource["service.instance.id"] for span in requests}) == 2
    assert {span.resource["tailcut.worker"] for span in requests} == {0, 1}
    assert {span.resource["service.name"] for span in requests} == {"tailcut"}


REASONS = {0: "Connection refused", 503: "Service Unavailable", 400: "Bad Request", 307: "Temporary Redirect"}


@pytest.mark.parametrize("status", [0, *(pytest.param(status, marks=pytest.mark.slow) for status in (503, 400, 307))])
def test_a_collector_that_takes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Down, or refusing: requests are answered, one line says why, spans are counted as dropped, the end is quick."""
    for name, value in (QUICKLY | {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}).items():
        monkeypatch.setenv(name, value)
    with collecting(status or 503) as collector:
        url = collector.url if status else "http://127.0.0.1:1"
        with serving(tmp_path, folder / "mlp.onnx", "--no-auto", "--otlp-endpoint", url) as server:
            end = time.monotonic() + 60
            with server.connect() as wire:
                assert wire.ask(raw_request("mlp", ROW, Caller().field)).status == 200
                time.sleep(1)  # why the collector takes nothing is known before more wait for it than there is room for
                while not server.metric("tailcut_trace_spans_dropped_total"):
                    assert time.monotonic() < end
                    for _ in range(50):
                        assert wire.ask(raw_request("mlp", ROW, Caller().field)).status == 200
            assert not server.metric("tailcut_trace_spans_exported_total")
            lines = [line for line in server.stderr.read_text().splitlines() if "collector" in line]
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 15
    assert len(lines) == 1, lines
    assert lines[0].startswith("WARNING dropping spans that the collector does not accept: ")
    assert REASONS[status] in lines[0]
    assert "opentelemetry" not in server.stderr.read_text().replace(lines[0], "")


@pytest.mark.slow
def test_a_pipeline_has_a_span_for_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its request's, with the batch of the step beside it."""
    for name, value in QUICKLY.items():
        monkeypatch.setenv(name, value)
    shutil.copy(samples.__file__, tmp_path / "samples.py")
    samples.write_model(tmp_path / "twice.onnx")
    caller = Caller()
    text = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["ab", "c"]}
    with collecting() as collector:
        options = ["--otlp-endpoint", f"{collector.url}/custom/path"]
        with serving(tmp_path, f"{tmp_path}/samples.py:pipeline", *options) as server:
            over_http(server, caller, lambda line: json_request("texts", {"inputs": [text]}, line), 200)
            over_http(server, caller, lambda line: json_request("texts", {"inputs": [text]}, line), 200)
            spans = collector.of(caller.trace_id, 8)
            assert server.stop() == 0
        assert collector.paths == {"/custom/path"}
    for request in [span for span in spans if span.kind == SERVER]:
        check_order = [span for span in spans if span.parent_id == request.span_id]
        assert [span.name for span in sorted(check_order, key=lambda span: span.start_ns)] == STEPS
        for step in check_order:
            assert request.start_ns <= step.start_ns <= step.end_ns <= request.end_ns
            assert step.attributes["tailcut.step"] == step.name
            batch = collector.batch(step)
            assert batch.name == f"batch {step.name}"
            assert step.key in batch.links
            assert step.links == [batch.key]
        assert "tailcut.batch.span_id" not in request.attributes


@pytest.mark.slow
def test_without_the_packages_one_line_says_what_to_install(folder: Path, tmp_path: Path) -> None:
    """Where an option asks for traces; where only a variable does, the server serves without them."""
    hidden = without(tmp_path / "hidden", "opentelemetry", "opentelemetry.sdk")
    command = [sys.executable, "-m", "tailcut", "serve", str(folder / "mlp.onnx"), "--port", "0", "--no-auto", "--json"]
    asked = subprocess.run(
        [*command, "--trace-sample", "0.1"], env=hidden, capture_output=True, text=True, check=False, timeout=120
    )
    assert asked.returncode == 2
    assert asked.stderr.strip() == (
        "tailcut: traces need OpenTelemetry, which is not installed: pip install 'tailcut[otel]'"
    )
    environ = hidden | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["port"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert "WARNING no traces, although OTEL_EXPORTER_OTLP_ENDPOINT is set" in process.stderr.read()


@pytest.mark.slow
def test_variables_of_the_whole_machine_stop_no_server(folder: Path, tmp_path: Path) -> None:
    """A sampler that is not known here is a warning."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_SAMPLER": "jaeger_remote"}
    with serving(tmp_path, folder / "mlp.onnx", "--no-auto", env=environ) as server:
        assert server.stop() == 0
        assert server.stderr.read_text().count("WARNING OTEL_TRACES_SAMPLER=jaeger_remote is ignored: known") == 1


@pytest.mark.slow
def test_nothing_is_imported_unless_traces_are_asked_for() -> None:
    """Neither by the server nor by the clients."""
    program = (
        "import sys, tailcut.server.app, tailcut.client.sync, tailcut.client.aio\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"
