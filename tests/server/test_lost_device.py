"""A model whose device is lost, behind a real server."""

import os
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.engines.models import perceptron
from tests.servers import raw_request, serving

from tailcut.engines.base import EngineOptions
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, SecondEngine, Settings

# In the server's process, the engine's device is lost from the first request on whose first number is 13.
LOSES = """
import tailcut.engines.onnxruntime as module
from tailcut.errors import DeviceLostError

bind = module.OnnxRuntimeEngine.bind

def losing(self, inputs, outputs):
    call, [x] = bind(self, inputs, outputs), inputs.values()
    def checked():
        module.lost = getattr(module, "lost", False) or x.flat[0] == 13
        if module.lost:
            raise DeviceLostError("the CUDA device is lost to this process, restart it")
        call()
    return checked

module.OnnxRuntimeEngine.bind = losing
"""


def health(path: str) -> bytes:
    return f"GET /v2/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


PATHS = ("health/ready", "health/live", "models/mlp/ready")


@pytest.mark.parametrize("rescued", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_readiness_and_liveness_end_with_the_device(tmp_path: Path, rescued: bool) -> None:
    """So that what started the server restarts it; with a second engine, which computes instead, it stays ready."""
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(LOSES)
    path = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    model: Path = path
    if rescued:
        second = SecondEngine(use="fallback", engine=EngineOptions(name="openvino", threads=1))
        model = tmp_path / "mlp.profile.toml"
        Profile.of_model(path, Settings(batching=BatchingSettings(max_batch_size=4, second=second))).save(model)
    python = os.pathsep.join([str(tmp_path / "python"), os.environ.get("PYTHONPATH", "")])
    with (
        serving(
            tmp_path,
            model,
            "--grpc-port",
            "0",
            env={"PYTHONPATH": python},
        ) as server,
        server.connect() as wire,
        triton.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client,
        grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert [wire.ask(health(item)).status for item in PATHS] == [200] * 3
        assert client.is_server_ready()
        answer = wire.ask(raw_request("mlp", np.full(4, 13, np.float32).tobytes()))
        assert answer.status == (200 if rescued else 500)
        expected = 200 if rescued else 503
        answers = [wire.ask(health(item)) for item in PATHS]
        assert [item.status for item in answers] == [expected] * 3
        assert [item.json() for item in answers[:2]] == [{"ready": rescued}, {"live": rescued}]
        assert (client.is_server_ready(), client.is_server_live(), client.is_model_ready("mlp")) == (rescued,) * 3
        if not rescued:
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
