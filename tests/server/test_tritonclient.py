"""NVIDIA's own clients, unchanged, against our server: HTTP and gRPC, each blocking and asynchronous."""

import asyncio
import base64
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tests.engines.models import identity, perceptron, two_in_two_out
from tests.machine import cuda_stand_in
from tests.servers import Server, serving
from tritonclient.utils import InferenceServerException, shared_memory

from tailcut.spec import DType

CLIENTS = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}
PREFIX = f"tailcut-test-{os.getpid()}-"


class Triton:
    """One of the four clients; every call blocks, so that one test serves all."""

    def __init__(self, kind: str, server: Server) -> None:
        self.kind = kind
        self.module = CLIENTS[kind]
        self.http = kind.startswith("http")
        self._loop = asyncio.new_event_loop()
        self._address = server.address if self.http else f"{server.host}:{server.grpc_port}"
        self._client = self._run(self._open())

    async def _open(self) -> Any:
        return self.module.InferenceServerClient(self._address)

    def _run(self, coming: Awaitable[Any]) -> Any:
        return self._loop.run_until_complete(coming)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if not self.http and name.startswith("get_"):
                named["as_json"] = True
            answer = getattr(self._client, name)(*arguments, **named)
            return self._run(answer) if self.kind.endswith("aio") else answer

        return call

    def close(self) -> None:
        closed = self._client.close()
        if self.kind.endswith("aio"):
            self._run(closed)
        self._loop.close()

    def input(self, name: str, array: np.ndarray, datatype: str) -> Any:
        tensor = self.module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        return tensor


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """mlp (4 -> 3), pair, and an identity of each dtype; gRPC, shared memory and model control are on."""
    folder = tmp_path_factory.mktemp("triton")
    sources = [perceptron([4, 8, 3], folder / "mlp.onnx"), two_in_two_out(folder / "pair.onnx")]
    sources += [identity(dtype, (None, 2), folder / f"{dtype.value}.onnx") for dtype in DType]
    flags = ["--grpc-port", "0", "--shared-memory", PREFIX, "--allow-model-control", "--no-auto"]
    env = {"LD_LIBRARY_PATH": str(cuda_stand_in.library(folder).parent)}
    with serving(folder, *sources, *flags, env=env) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def memory() -> Iterator[Path]:
    """A file, whose name is short enough for a handle."""
    with tempfile.NamedTemporaryFile(prefix="cuda-", dir="/dev/shm") as file:
        yield Path(file.name)


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Triton]:
    client = Triton(request.param, server)
    yield client
    client.close()


def test_health_and_metadata(client: Triton) -> None:
    """Live, ready, server and model."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp", "1")
    assert not client.is_model_ready("none")
    assert not client.is_model_ready("mlp", "2")
    assert {"system_shared_memory", "cuda_shared_memory"} <= set(client.get_server_metadata()["extensions"])
    metadata = client.get_model_metadata("pair")
    assert metadata["platform"] == "onnxruntime_onnx"
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["a", "b"]
    assert [int(dim) for dim in metadata["outputs"][1]["shape"]] == [-1, 4]


def test_configuration(client: Triton) -> None:
    """The batch dimension is distinguished from the others."""
    config = client.get_model_config("mlp")
    config = config.get("config", config)
    assert config["max_batch_size"] == 32
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert [int(dim) for dim in config["input"][0]["dims"]] == [4]


def test_statistics(client: Triton) -> None:
    """They count what was asked, for one model and for all."""

    def count() -> int:
        stats = client.get_inference_statistics("mlp")["model_stats"][0]
        return int(stats["inference_stats"]["success"].get("count", 0))

    before = count()
    client.infer("mlp", [client.input("x", np.ones((3, 4), np.float32), "FP32")])
    assert count() == before + 1
    stats = client.get_inference_statistics()["model_stats"]
    assert {"mlp", "pair"} < {stat["name"] for stat in stats}


@pytest.mark.parametrize("dtype", DType)
def test_every_dtype(client: Triton, dtype: DType) -> None:
    """What goes in comes out, bit for bit."""
    values = np.array([["\u00e9\0".encode(), b""]], object) if dtype is DType.BYTES else np.array([[1, 0]], dtype.numpy)
    result = client.infer(dtype.value, [client.input("x", values, dtype.value)], request_id="seven")
    assert result.as_numpy("y").tolist() == values.tolist()
    response = result.get_response()
    assert (response["id"] if client.http else response.id) == "seven"


def test_strings_that_are_no_text(client: Triton) -> None:
    """The engines take text: other bytes are refused, and not turned into something that looks like them."""
    with pytest.raises(InferenceServerException, match="not UTF-8"):
        client.infer("BYTES", [client.input("x", np.array([[b"\xff", b""]], object), "BYTES")])


def test_outputs_and_parameters(client: Triton) -> None:
    """Two inputs, one of two outputs, the schedule's parameters, several rows."""
    a, b = (np.full((5, 4), value, np.float32) for value in (3, 1))
    tensors = [client.input("a", a, "FP32"), client.input("b", b, "FP32")]
    wanted = [client.module.InferRequestedOutput("difference")]
    result = client.infer("pair", tensors, outputs=wanted, priority=2, timeout=5_000_000)
    assert (result.as_numpy("difference") == 2).all()
    assert result.as_numpy("total") is None


@pytest.mark.parametrize(
    ("model", "width", "named", "code"),
    [
        ("none", 4, "Request for unknown model: 'none' is not found", ("404", "StatusCode.NOT_FOUND")),
        ("mlp:9", 4, "no version", ("404", "StatusCode.NOT_FOUND")),
        ("mlp", 5, "expected FP32 [-1, 4]", ("400", "StatusCode.INVALID_ARGUMENT")),
        ("pair", 4, "unknown input 'x'", ("400", "StatusCode.INVALID_ARGUMENT")),
    ],
)
def test_errors(client: Triton, model: str, width: int, named: str, code: tuple[str, str]) -> None:
    """Each request fails with its own code, and no other request fails."""
    tensor = client.input("x", np.ones((1, width), np.float32), "FP32")
    name, _, version = model.partition(":")
    with pytest.raises(InferenceServerException) as caught:
        client.infer(name, [tensor], model_version=version)
    assert named in str(caught.value)
    assert caught.value.message().startswith("Request for unknown model") == (code[0] == "404")
    assert caught.value.status() == code[0 if client.http else 1]
    client.infer("mlp", [client.input("x", np.ones((1, 4), np.float32), "FP32")])


def test_repository(client: Triton) -> None:
    """Unloaded, a model is gone; loaded again, it answers as before."""
    tensor = client.input("x", np.ones((1, 2), np.int8), "INT8")
    with pytest.raises(InferenceServerException, match="unload_dependents is not supported"):
        client.unload_model("INT8", unload_dependents=True)
    client.unload_model("INT8")
    index = client.get_model_repository_index()
    states = {item["name"]: item["state"] for item in (index if client.http else index["models"])}
    assert (states["INT8"], states["mlp"]) == ("UNAVAILABLE", "READY")
    assert not client.is_model_ready("INT8")
    with pytest.raises(InferenceServerException, match="unknown model"):
        client.infer("INT8", [tensor])
    client.load_model("INT8")
    client.load_model("INT8")
    assert client.infer("INT8", [tensor]).as_numpy("y").tolist() == [[1, 1]]
    with pytest.raises(InferenceServerException, match=r"failed to load .*only models of the command line"):
        client.load_model("passwd")
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'passwd'"):
        client.get_model_metadata("passwd")


def test_shared_memory(client: Triton) -> None:
    """A tensor goes in and out by memory that both sides see; a region that is gone is an error."""
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    key = f"/{PREFIX}{client.kind}"
    region = shared_memory.create_shared_memory_region("io", key, 64)
    try:
        shared_memory.set_shared_memory_region(region, [values])
        client.register_system_shared_memory("io", key, 64)
        status = client.get_system_shared_memory_status()
        assert [item["key"] for item in (status if client.http else status["regions"].values())] == [key]
        tensor = client.module.InferInput("x", [4, 2], "FP32")
        tensor.set_shared_memory("io", 32)
        wanted = client.module.InferRequestedOutput("y")
        wanted.set_shared_memory("io", 32, offset=32)
        client.infer("FP32", [tensor], outputs=[wanted])
        got = shared_memory.get_contents_as_numpy(region, np.float32, [4, 2], offset=32)
        assert got.tolist() == values.tolist()
        tensor.set_shared_memory("io", 32, offset=40)
        with pytest.raises(InferenceServerException, match="past its end"):
            client.infer("FP32", [tensor])
        tensor = client.module.InferInput("x", [4, 2], "FP32")
        tensor.set_shared_memory("io", 32)
        os.truncate(f"/dev/shm{key}", 16)
        with pytest.raises(InferenceServerException, match="smaller"):
            client.infer("FP32", [tensor], outputs=[wanted])
        client.unregister_system_shared_memory("io")
        with pytest.raises(InferenceServerException, match="no region"):
            client.infer("FP32", [tensor])
    finally:
        client.unregister_system_shared_memory()
        shared_memory.destroy_shared_memory_region(region)


def test_cuda_shared_memory(client: Triton, memory: Path) -> None:
    """A tensor goes in and out by memory on a device; here, by files behind a library in the driver's place."""
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    memory.write_bytes(values.tobytes() + bytes(32))
    handle = base64.b64encode(cuda_stand_in.handle(memory))
    client.register_cuda_shared_memory("device", handle, 1, 64)
    try:
        with pytest.raises(InferenceServerException, match="not registered yet"):
            client.register_cuda_shared_memory("device", handle, 1, 64)
        status = client.get_cuda_shared_memory_status()
        [known] = status if client.http else status["regions"].values()
        assert (known["name"], int(known["device_id"]), int(known["byte_size"])) == ("device", 1, 64)
        tensor = client.module.InferInput("x", [4, 2], "FP32")
        tensor.set_shared_memory("device", 32)
        wanted = client.module.InferRequestedOutput("y")
        wanted.set_shared_memory("device", 32, offset=32)
        client.infer("FP32", [tensor], outputs=[wanted])
        assert memory.read_bytes() == 2 * values.tobytes()
        tensor.set_shared_memory("device", 32, offset=40)
        with pytest.raises(InferenceServerException, match="past its end"):
            client.infer("FP32", [tensor])
        client.unregister_system_shared_memory()  # of the other kind
        client.unregister_cuda_shared_memory("device")
        tensor.set_shared_memory("device", 32)
        with pytest.raises(InferenceServerException, match="no region"):
            client.infer("FP32", [tensor])
    finally:
        client.unregister_cuda_shared_memory()


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_json_and_binary_over_http(server: Server, binary_in: bool, binary_out: bool) -> None:
    """Both ways, both forms."""
    with tritonclient.http.InferenceServerClient(server.address) as client:
        x = np.random.default_rng(1).standard_normal((3, 2)).astype(np.float32)
        tensor = tritonclient.http.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x, binary_data=binary_in)
        wanted = tritonclient.http.InferRequestedOutput("y", binary_data=binary_out)
        assert (client.infer("FP32", [tensor], outputs=[wanted]).as_numpy("y") == x).all()


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests_over_http(server: Server, compression: str) -> None:
    """What the client compresses, the server inflates."""
    with tritonclient.http.InferenceServerClient(server.address) as client:
        tensor = tritonclient.http.InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
        result = client.infer("FP32", [tensor], request_compression_algorithm=compression)
        assert result.as_numpy("y").tolist() == [[1, 1]]


def test_many_at_once(server: Server) -> None:
    """Requests in flight together share batches, and each gets its own answer."""
    with tritonclient.http.InferenceServerClient(server.address, concurrency=16) as client:
        pending = []
        for number in range(100):
            tensor = tritonclient.http.InferInput("x", [1, 2], "FP32")
            tensor.set_data_from_numpy(np.full((1, 2), number, np.float32))
            pending.append(client.async_infer("FP32", [tensor]))
        for number, request in enumerate(pending):
            assert (request.get_result().as_numpy("y") == number).all()


def test_a_stream(server: Server) -> None:
    """Answers come in the order of the requests, an error among them, and each says that it is the last of its own."""
    answers: list[tuple[Any, Any]] = []
    with tritonclient.grpc.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.append((result, error)))
        for number in range(100):
            tensor = tritonclient.grpc.InferInput("x", [1, 2], "FP32")
            tensor.set_data_from_numpy(np.full((1, 2), number, np.float32))
            client.async_stream_infer("none" if number == 50 else "FP32", [tensor], request_id=str(number))
        client.stop_stream()
    assert len(answers) == 100
    for number, (result, error) in enumerate(answers):
        if number == 50:
            assert "unknown model" in str(error)
            continue
        response = result.get_response()
        assert response.id == str(number)
        assert response.parameters["triton_final_response"].bool_param
        assert (result.as_numpy("y") == number).all()
