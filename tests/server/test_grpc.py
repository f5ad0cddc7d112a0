"""The gRPC side of a real server, through grpcio itself: what leaves, what is too late, too much, or not allowed."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.engines.models import identity, perceptron
from tests.servers import Server, serving, until
from tests.soak.overload import make_model

from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import DType
from tailcut.wire.grpc.messages import METHODS, SERVICE

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    perceptron([4, 8, 3], folder / "mlp.onnx")
    slow = make_model(folder, [2048, 2048, 2048, 2048, 2048, 4])
    alone = Settings(batching=BatchingSettings(max_batch_size=1))  # so that a queue is long for a while
    Profile.of_model(slow, alone).save(folder / "slow.profile.toml")
    identity(DType.FP32, (None, 4), folder / "echo.onnx")
    return folder


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """mlp in two versions, slow; a token, an access log, a small body limit."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "token").write_text("secret\n")
    sources = [f"mlp:2={models}/mlp.onnx", f"mlp:10={models}/echo.onnx", str(models / "slow.profile.toml")]
    flags = ["--grpc-port", "0", "--max-body", "1", "--queue", "64", "--token-file", str(folder / "token")]
    with serving(folder, *sources, *flags, "--access-log", "--allow-model-control", "--log", "json") as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        yield channel


def method(channel: grpc.Channel, name: str) -> Any:
    request, answer, streams = METHODS[name]
    kind = channel.stream_stream if streams else channel.unary_unary
    return kind(
        f"/{SERVICE}/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )


def request_of(model: str, array: np.ndarray, version: str = "") -> Any:
    request = METHODS["ModelInfer"][0](model_name=model, model_version=version, raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    return request


def ask(channel: grpc.Channel, call: str, **fields: Any) -> Any:
    return method(channel, call)(METHODS[call][0](**fields), timeout=20)


ONES = np.ones((1, 4), np.float32)


def test_versions(channel: grpc.Channel) -> None:
    """A version is asked for by its number; without one the newest answers, and 10 is newer than 2."""
    assert ask(channel, "ModelMetadata", name="mlp").versions == ["2", "10"]
    infer = method(channel, "ModelInfer")
    newest = infer(request_of("mlp", ONES))
    assert (newest.model_version, list(newest.outputs[0].shape)) == ("10", [1, 4])
    assert list(infer(request_of("mlp", ONES, "2")).outputs[0].shape) == [1, 3]
    assert not ask(channel, "ModelReady", name="mlp", version="3").ready


def test_a_client_that_leaves_takes_its_work_with_it(channel: grpc.Channel, server: Server) -> None:
    """Cancelled calls that wait are never computed, those of a stream neither, and their rows come back."""
    for start in (_calls, _stream):
        before = server.metric("tailcut_cancelled_total")
        for _ in range(10):  # a server that is quicker than this process leaves nothing to cancel now and then
            for call in start(channel, request_of("slow", np.ones((1, 2048), np.float32))):
                call.cancel()
            until(lambda: server.metric("tailcut_rows_in_use") == 0, server)
            if server.metric("tailcut_cancelled_total") > before:
                break
        else:
            pytest.fail("nothing was cancelled")


def _calls(channel: grpc.Channel, request: Any) -> list[Any]:
    """Calls of which some are answered and most wait."""
    first, *others = [method(channel, "ModelInfer").future(request) for _ in range(60)]
    first.result()
    return others


def _stream(channel: grpc.Channel, request: Any) -> list[Any]:
    """A stream of which some requests are answered and most wait."""
    stream = method(channel, "ModelStreamInfer")(iter([request] * 60))
    next(stream)
    return [stream]


def test_a_deadline_is_kept(channel: grpc.Channel, server: Server) -> None:
    """The client's own deadline is the request's: DEADLINE_EXCEEDED, or UNAVAILABLE where it cannot be met."""
    rows = np.ones((32, 2048), np.float32)
    calls = [method(channel, "ModelInfer").future(request_of("slow", rows), timeout=0.002) for _ in range(2)]
    codes = {call.code() for call in calls}
    assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
    assert method(channel, "ModelInfer")(request_of("slow", rows), timeout=20).outputs


def test_a_full_queue_is_unavailable(channel: grpc.Channel) -> None:
    """At once, and with the seconds after which another try makes sense."""
    rows = np.ones((32, 2048), np.float32)
    calls = [method(channel, "ModelInfer").future(request_of("slow", rows)) for _ in range(16)]
    codes = [call.code() for call in calls]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    refused = calls[codes.index(grpc.StatusCode.UNAVAILABLE)]
    assert "no room" in refused.details()
    trailers = dict(refused.trailing_metadata())
    assert int(trailers["retry-after"]) >= 0
    assert int(trailers["grpc-retry-pushback-ms"]) >= 1


def test_a_message_over_the_limit_is_refused(channel: grpc.Channel) -> None:
    """RESOURCE_EXHAUSTED; the channel lives on."""
    with pytest.raises(grpc.RpcError) as caught:
        method(channel, "ModelInfer")(request_of("mlp", np.ones((1 << 17, 4), np.float32)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert method(channel, "ModelInfer")(request_of("mlp", ONES)).outputs


def test_what_changes_the_server_needs_the_token(channel: grpc.Channel) -> None:
    """Without it UNAUTHENTICATED; with it, the call's own answer."""
    request = METHODS["RepositoryModelLoad"][0](model_name="none")
    with pytest.raises(grpc.RpcError) as caught:
        method(channel, "RepositoryModelLoad")(request)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    for text in ("Bearer secret", "bearer secret", "BEARER secret"):
        with pytest.raises(grpc.RpcError) as caught:
            method(channel, "RepositoryModelLoad")(request, metadata=[("authorization", text)])
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_calls_that_are_not_offered(channel: grpc.Channel) -> None:
    """UNIMPLEMENTED; where shared memory is off, that of devices is, too."""
    unknown = channel.unary_unary(f"/{SERVICE}/TraceSetting")
    with pytest.raises(grpc.RpcError) as caught:
        unknown(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not ask(channel, "CudaSharedMemoryStatus").regions
    register = method(channel, "CudaSharedMemoryRegister")
    with pytest.raises(grpc.RpcError, match="shared memory is off"):
        register(METHODS["CudaSharedMemoryRegister"][0](name="a"), metadata=[("authorization", "Bearer secret")])


def test_rubbish_is_answered(channel: grpc.Channel) -> None:
    """Bytes that are no message end their call, not the server."""
    call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    with pytest.raises(grpc.RpcError):
        call(b"\xff" * 100)
    assert method(channel, "ModelInfer")(request_of("mlp", ONES)).outputs


def test_the_access_log_contains_the_trace(channel: grpc.Channel, server: Server) -> None:
    """One line a call and a request, with the ids of its traceparent; a malformed one is left out."""
    method(channel, "ModelInfer")(request_of("mlp", ONES), metadata=[("traceparent", TRACE)])
    with server.connect() as wire:
        for value in (TRACE, "00-x"):
            wire.ask(f"GET /v2/models/mlp?secret HTTP/1.1\r\nHost: x\r\ntraceparent: {value}\r\n\r\n".encode())
        wire.ask(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
    until(lambda: "/nowhere" in server.stderr.read_text(), server)  # lines are written by a thread of their own
    lines = [json.loads(line) for line in server.stderr.read_text().splitlines()]
    ids = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "parent_id": "00f067aa0ba902b7"}
    call = next(line for line in lines if line.get("trace_id") and line["path"] == "ModelInfer")
    assert call.items() >= (ids | {"status": "OK", "method": "gRPC"}).items()
    traced, plain = [line for line in lines if line.get("path") == "/v2/models/mlp"][-2:]
    assert traced.items() >= (ids | {"status": 200, "method": "GET"}).items()
    assert "trace_id" not in plain
    assert traced["us"] >= 0
    assert lines[-1].items() >= {"path": "/nowhere", "status": 404}.items()
    assert "secret" not in server.stderr.read_text()


def test_drain(models: Path, tmp_path: Path) -> None:
    """SIGTERM: health says NOT_SERVING to who asks and who watches, calls are answered still, and the exit is clean."""
    with (
        serving(tmp_path, models / "mlp.onnx", "--grpc-port", "0", "--drain", "1s") as server,
        grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        status = health.Check(health_pb2.HealthCheckRequest()).status
        assert status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not ask(channel, "ServerReady").ready
        assert ask(channel, "ServerLive").live
        assert method(channel, "ModelInfer")(request_of("mlp", ONES)).outputs
        watch.cancel()
        assert server.process.wait(20) == 0


def test_idle_streams_hold_nobody_up(models: Path, tmp_path: Path) -> None:
    """An open stream without a request, and a watch of the health, end with the server."""
    with (
        serving(tmp_path, models / "mlp.onnx", "--grpc-port", "0") as server,
        grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel,
    ):
        more = threading.Event()

        def requests() -> Iterator[Any]:
            yield request_of("mlp", ONES)
            more.wait()

        stream = method(channel, "ModelStreamInfer")(requests())
        assert next(stream).infer_response.outputs
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert server.stop() == 0
        more.set()


def test_many_threads_share_batches(channel: grpc.Channel, server: Server) -> None:
    """Calls in flight together are answered each with its own numbers; a few tries, as a busy machine may part them."""
    infer = method(channel, "ModelInfer")
    wrong: list[int] = []

    def run(number: int) -> None:
        for step in range(20):
            value = np.full((1, 4), number * 100 + step, np.float32)
            if infer(request_of("mlp", value), timeout=20).raw_output_contents[0] != value.tobytes():
                wrong.append(number)

    def counts() -> tuple[float, float]:
        return server.metric("nv_inference_exec_count"), server.metric("nv_inference_request_success")

    shared = False
    for _ in range(10):
        before = counts()
        threads = [threading.Thread(target=run, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        batches, requests = np.subtract(counts(), before)
        shared = batches < requests
        if shared:
            break
    assert shared


@pytest.mark.slow
def test_workers_share_the_port(models: Path, tmp_path: Path) -> None:
    """Every process answers on the one port, and the counts are those of all."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with serving(tmp_path, models / "mlp.onnx", "--workers", "2", "--grpc-port", str(port), "--drain", "0s") as server:
        assert server.grpc_port == port
        for _ in range(8):
            options = [("grpc.use_local_subchannel_pool", 1)]  # each channel a connection of its own
            with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
                assert method(channel, "ModelInfer")(request_of("mlp", ONES), timeout=20).outputs
        until(lambda: server.metric("nv_inference_request_success") == 8, server)  # workers tell each other
        assert server.metric("tailcut_grpc_replies_total") == 8
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


@pytest.mark.parametrize("flags", [["--shared-memory", "a"], ["--allow-model-control"], ["--grpc-port", "0"]])
def test_what_workers_cannot_share(models: Path, refusal: Callable[..., str], flags: list[str]) -> None:
    """What one process is told, the others do not know: refused in one line, before anything is loaded."""
    assert "several workers share only their port" in refusal(models / "mlp.onnx", "--workers", "2", *flags)


@pytest.mark.slow
def test_a_port_in_use_is_one_line(models: Path, server: Server) -> None:
    """Exit code 2, and the port is not shared with the process that has it."""
    command = [sys.executable, "-m", "tailcut", "serve", str(models / "mlp.onnx"), "--port", "0"]
    command += ["--grpc-port", str(server.grpc_port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"cannot listen for gRPC on 127.0.0.1:{server.grpc_port}" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("source", ["mlp:0=m.onnx", "mlp:x=m.onnx", "mlp:01=m.onnx"])
def test_versions_that_are_none(models: Path, refusal: Callable[..., str], source: str) -> None:
    """Only whole numbers from 1 on."""
    assert "is not a version" in refusal(source.replace("m.onnx", str(models / "mlp.onnx")))


@pytest.mark.slow
def test_without_the_extra_one_line_says_what_to_install(models: Path) -> None:
    """The rest of the server does not need it."""
    hide = "import sys; sys.modules['google.protobuf'] = None; from importlib import util; find = util.find_spec\n"
    hide += "util.find_spec = lambda name, *rest: None if name == 'google.protobuf' else find(name, *rest)\n"
    program = hide + "from tailcut.cli.main import main\n"
    program += f"sys.exit(main(['serve', {str(models / 'mlp.onnx')!r}, '--port', '0', '--grpc-port', '0']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == ("tailcut: --grpc-port needs gRPC, which is not installed: pip install 'tailcut[grpc]'\n")
